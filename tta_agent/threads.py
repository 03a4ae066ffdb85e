"""A thread budget for this process. Two pools that spin on two cores run ten times slower than one."""

import os


def budget(threads: int) -> None:
    """Tell OpenMP and friends, unless the environment already does. Before torch is imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")


def yield_to_others(nice: int) -> None:
    """Lower the priority of this process to `nice`; where it is lower already, leave it."""
    os.nice(max(nice - os.nice(0), 0))
