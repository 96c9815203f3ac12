"""Runs on a cluster of dask: a worker dies, or the process that waits; no run is made twice."""
import os
import signal
from pathlib import Path

import pytest

from instop_nb.core import TaskError
from instop_nb.jobs import run_jobs

REASON = "no dask here: pip install distributed"
FATAL, JOBS = "3", {str(n): {"seed": n} for n in range(6)}


def cluster_function():
    "Found by the workers without this file, as it has no name at the top of a module."
    def run(folder, seed, deaths=0):
        def note(what):
            with Path(folder).with_name("log").open("a") as log: log.write(f"{seed} {what} {pid}\n")
        pid = os.getpid()
        note("begun")
        if len(list(Path(folder).glob("death-*"))) < deaths:
            Path(folder, f"death-{pid}").touch()
            os.kill(pid, signal.SIGKILL)
        note("ended")
        return {"seed": seed}
    return run


@pytest.fixture(scope="module")
def address():
    distributed = pytest.importorskip("distributed", reason=REASON)
    import dask
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as two,
    ):
        yield two.scheduler_address


def run(folder, address, deaths):
    jobs = {name: {**job, "deaths": deaths * (name == FATAL)} for name, job in JOBS.items()}
    return run_jobs(cluster_function(), jobs, folder, 2, True, backend="dask", address=address)


def log_of(folder): return [line.split() for line in (folder / "log").read_text().splitlines()]


def test_a_run_whose_worker_dies_is_made_again_and_no_other(address, tmp_path):
    found = run(tmp_path, address, deaths=1)
    assert {name: result["seed"] for name, result in found.items()} == {n: int(n) for n in JOBS}
    assert sorted(name for name, what, _ in log_of(tmp_path) if what == "ended") == list(JOBS)
    assert run(tmp_path, address, deaths=1) == found
    assert sum(what == "ended" for _, what, _ in log_of(tmp_path)) == len(JOBS)


def test_a_run_that_takes_its_workers_with_it_is_the_error(address, tmp_path):
    with pytest.raises(OSError, match=f"^{FATAL}: .*died"): run(tmp_path, address, deaths=99)
    assert not (tmp_path / FATAL / "result.json").exists()


def test_the_threads_of_a_worker_run_one_after_another(address, tmp_path):
    run_jobs(
        cluster_function(), JOBS, tmp_path, 6, True, backend="dask", address=address,
    )
    log = log_of(tmp_path)
    for worker in {pid for *_, pid in log}:
        its = [(name, what) for name, what, pid in log if pid == worker]
        assert all(a[0] == b[0] and b[1] == "ended" for a, b in zip(its[::2], its[1::2])), its


def test_without_an_address_it_is_asked_for(tmp_path):
    pytest.importorskip("distributed", reason=REASON)
    with pytest.raises(TaskError, match="address: found None; give that of a scheduler"):
        run(tmp_path, None, 0)


def test_other_processes_have_no_address(tmp_path):
    with pytest.raises(TaskError, match="address: found 'tcp://x:1'; leave it out, or choose dask"):
        run_jobs(cluster_function(), JOBS, tmp_path, 1, True, address="tcp://x:1")
