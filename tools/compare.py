"""Compares the records of two folders of runs: `python tools/compare.py OLD NEW`.

Each folder holds what `instop reproduce NAME --out FOLDER/NAME` has left, of two versions of the
package or of two machines. Times, versions and commands may differ; every other number must not.
"""
import json
import sys
from pathlib import Path

MAY_DIFFER = {"cpu_seconds", "torch", "transformers", "command"}


def differences(old, new, where=""):
    "Yield the places in which two values of JSON differ."
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted((old.keys() | new.keys()) - MAY_DIFFER):
            yield from differences(old.get(key), new.get(key), f"{where}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for n, pair in enumerate(zip(old, new)): yield from differences(*pair, f"{where}[{n}]")
    elif old != new: yield f"{where.strip('.')}: {str(old)[:60]} is now {str(new)[:60]}"


def verdict(old, new):
    "Say in a line whether a record is as before; None where there is nothing to compare."
    if not old.exists(): return None
    if not new.exists(): return "missing"
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (old, new)]
    found = list(differences(*records))
    if found: return f"DIFFERS in {len(found)} places, first {found[0]}"
    return f"equal, {len(records[0]['runs'])} runs"


def main(old, new):
    "Print a line for each study; return the exit status."
    names = sorted(path.name for path in Path(old).iterdir() if path.is_dir())
    said = {name: verdict(*(Path(place, name, f"{name}.json") for place in (old, new)))
            for name in names}
    for name, what in said.items(): print(f"{name:20} {what or 'no old record'}")
    return 1 if any(what and not what.startswith("equal") for what in said.values()) else 0


if __name__ == "__main__": sys.exit(main(*sys.argv[1:3]))
