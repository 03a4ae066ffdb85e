"""Is a replay the same again? One policy over one recording twice, the second time with all cores busy."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from pathlib import Path

import gate_streams as streams
import torch

STRUCTURE, METHOD, LABELS, SEED = "shift", "tent", 0.3, 0
WALL_CLOCK = ("seconds", "seconds_forward_only", "times_forward")


def is_identical(model, pool):
    """Whether all but the seconds of the machine are equal, at any depth."""
    first = pool.submit(decided, model).result()
    crowd = [
        multiprocessing.get_context("spawn").Process(target=spin, daemon=True) for _ in range(2 * cores())
    ]
    for one in crowd:
        one.start()
    try:
        again = pool.submit(decided, model).result()
    finally:
        for one in crowd:
            one.terminate()
    same = first == again
    print(
        f"replay of {len(first['events'])} events, again under load: {'identical' if same else 'NOT identical'}"
    )
    return same


def cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def spin():
    """Keep a core busy."""
    while True:
        sum(range(10_000))


def decided(model):
    """What a replay says, without the seconds of the machine."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="gate-") as scratch:
        folder = streams.recording(model, STRUCTURE, SEED, Path(scratch))
        return timeless(streams.play(folder, model, METHOD, SEED, LABELS))


def timeless(found):
    """Without what a clock has measured."""
    if isinstance(found, dict):
        return {key: timeless(value) for key, value in found.items() if key not in WALL_CLOCK}
    return [timeless(value) for value in found] if isinstance(found, list) else found
