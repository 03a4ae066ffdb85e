"""Jobs in worker processes: their results, and that no process is left whatever becomes of parent or worker."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests import worlds
from tests.bench.test_streams import tiny_file
from tests.core.jobs import linger, pool, square
from tta_agent.core.errors import TtaError
from tta_agent.samples import dataset

ROOT = Path(__file__).parents[2]
LIMIT_S = 60.0  # of a poll loop


def test_jobs_are_taken_as_processes_are_free_and_a_report_comes_before_its_result():
    taken, told, found = [], [], {}
    jobs = ((n, (n,)) for n in range(6) if taken.append(n) is None)
    with pool(on_progress=lambda *values: told.append(values)) as running:
        for n, job in running.run(square, jobs):
            assert (n, "half") in told
            found[n] = job.result()
            assert len(taken) <= len(found) + 2
    assert found == {n: n * n for n in range(6)}
    assert multiprocessing.active_children() == []


def test_an_error_of_one_job_leaves_the_others_alone():
    with pool() as running:
        jobs = dict(running.run(square, [(n, (n,)) for n in (3, -1, 4)]))
    assert [jobs[3].result(), jobs[4].result()] == [9, 16]
    with pytest.raises(ValueError, match="no square"):
        jobs[-1].result()


def test_a_killed_worker_is_one_clear_error_and_takes_the_others_with_it():
    with pytest.raises(TtaError) as error, pool(3) as running:
        list(running.run(square, [(n, (n,)) for n in (-2, -2, -2, 5)]))
    assert str(error.value) == (
        "one of 3 worker processes was killed (out of memory?)\nfewer --workers need less"
    )
    assert error.value.__suppress_context__ and multiprocessing.active_children() == []


def test_an_interrupt_kills_workers_in_the_middle_of_a_job(tmp_path):
    def interrupt(told):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), pool(on_progress=interrupt) as running:
        list(running.run(linger, [(0, (tmp_path / "late",))]))
    assert multiprocessing.active_children() == [] and not (tmp_path / "late").exists()


SLEEPERS = """
from tests.core.jobs import pool, sleep
with pool() as running:
    list(running.run(sleep, [(n, (1e6,)) for n in range(2)]))
"""


def rehearse(folder):
    some = dataset.load()
    np.savez(folder / "anchor.npz", inputs=some.inputs[:300], labels=some.labels[:300])
    return worlds.FASHION, ["rehearse", "--anchor", str(folder / "anchor.npz")]


def replay(folder):
    recording = worlds.recording(folder, clean=100, shifted=900)
    policies = ["--policy", "balanced", "--policy", "conservative"]
    return worlds.FASHION, ["replay", str(recording), *policies]


def bench(folder):
    options = ["--model", "tests.worlds:tiny_batch_net", "--methods", "norm,tent", "--batch", "1"]
    return {}, [
        "bench",
        "methods",
        "--data",
        str(tiny_file(folder)),
        "--work",
        str(folder / "work"),
        *options,
    ]


def processes():
    """Parent of each process (pid, start in clock ticks) that runs."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        if fields[0] != "Z":
            found[int(path.parent.name), int(fields[19])] = int(fields[1])
    return found


def descendants(pid):
    found, below = processes(), {pid}
    for _ in range(3):
        below |= {child for (child, _), parent in found.items() if parent in below}
    return {one for one in found if one[0] in below - {pid}}


def workers_of(pid):
    found = []
    for process in descendants(pid):
        with contextlib.suppress(OSError):
            if "spawn_main" in Path(f"/proc/{process[0]}/cmdline").read_text():
                found.append(process)
    return found


def until(condition):
    """What `condition` says as soon as it is true; what it says at last where the time is up."""
    deadline_s = time.monotonic() + LIMIT_S
    while not (found := condition()) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return found


def _heeds_interrupts():
    """Tests that run in the background of a script inherit that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def started(words, workers=2, settings=None):
    """A command and its workers, as (process, its descendants); killed at the end with all that is left of it."""
    environment = {**worlds.clean_environ(), **(settings or {}), "OMP_NUM_THREADS": "1"}
    parent = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=_heeds_interrupts,
    )  # fmt: skip
    born = set()
    try:
        until(lambda: len(workers_of(parent.pid)) == workers or parent.poll() is not None)
        born = descendants(parent.pid)
        assert len(workers_of(parent.pid)) == workers
        yield parent, born
    finally:
        for pid, _ in {(parent.pid, 0)} | (born & set(processes())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        parent.communicate()


# the benchmark times methods one by one before it measures them side by side
@pytest.mark.parametrize(("command", "workers"), [(rehearse, 2), (replay, 2), (bench, 1)])
def test_workers_end_with_a_command_that_is_killed(command, workers, tmp_path):
    settings, words = command(tmp_path)
    words = ["-m", "tta_agent", *words, "--workers", "2"]
    with started(words, workers, settings) as (parent, born):
        parent.kill()
        parent.wait()
        assert until(lambda: not born & set(processes())), born & set(processes())


def test_the_terminal_interrupts_the_parent_alone():
    with started(["-c", SLEEPERS]) as (parent, born):
        os.killpg(parent.pid, signal.SIGINT)
        told = parent.communicate(timeout=LIMIT_S)[1]
        assert told.count("KeyboardInterrupt") == 1 and told.count("Traceback") == 1
        assert until(lambda: not born & set(processes()))
