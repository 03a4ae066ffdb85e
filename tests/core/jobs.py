"""Jobs for worker processes, in a module that is quick to import."""

import os
import signal
import time

from tta_agent.core.worker_pool import WorkerPool, report_progress


def square(number):
    """A job: reports, then answers; -1 raises, -2 is killed."""
    report_progress(number, "half")
    if number == -1:
        raise ValueError("no square")
    if number == -2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def sleep(seconds):
    time.sleep(seconds)


def linger(path):
    """Report, and write a file some seconds later."""
    report_progress("begun")
    time.sleep(5)
    path.touch()


def pool(workers=2, **options):
    return WorkerPool(workers, advice="fewer --workers need less", **options)
