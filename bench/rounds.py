"""What the benchmarks share: CPU time of a call, and the spread of a figure over rounds."""
import json
import statistics
import time


def cpu_seconds(task, *arguments):
    "CPU seconds that this process spends on a call."
    start = time.process_time(); task(*arguments)
    return time.process_time() - start


def spread(values):
    "Median and quartiles over rounds."
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": middle, "low": low, "high": high}


def write_record(record, path):
    "Write a record; its folder is made if it is not there."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
