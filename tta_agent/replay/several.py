"""Replay of several policies over one recording, one after the other or in worker processes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tta_agent.core.errors import ConfigError
from tta_agent.core.worker_pool import WorkerPool, report_progress
from tta_agent.replay.engine import Interrupted, replay
from tta_agent.replay.tape import Late
from tta_agent.settings.schema import Settings

EVERY = 320  # records between two ticks of a process
Tick = Callable[[str, int, int], None]  # policy, records done, records in all


def play(
    folder: Path,
    policies: Mapping[str, Settings],
    late: Late,
    *,
    workers: int = 0,
    tick: Tick = lambda policy, done, total: None,
    partial: Callable[[str, dict[str, Any]], None] = lambda policy, result: None,
) -> tuple[dict[str, dict[str, Any]], bool]:
    """Play each policy to its end.

    Args:
        policies: settings by name; all of the same model.
        workers: processes of one thread each; 0 or 1 for this one.
        tick: called in this thread with a policy's name, its records played, and its records in all.
        partial: called with the name of the policy that was interrupted in this process, and its result until then.

    Returns:
        Results of `engine.replay` by name, in the order given, and whether they are complete. An interrupt (Ctrl-C)
        ends the policies that are running; their stores are removed in any case.

    Raises:
        ConfigError: a recording or a setting does not fit.
        TtaError: a worker process was killed.
    """
    _refuse_other_models(policies)
    found: dict[str, dict[str, Any]] = {}
    complete = True
    with tempfile.TemporaryDirectory(prefix="tta-replay-") as scratch:
        try:
            if workers > 1 and len(policies) > 1:
                _play_apart(folder, policies, late, Path(scratch), workers, tick, found)
            else:
                for name, settings in policies.items():
                    found[name] = _one(folder, settings, late, Path(scratch), _ticker(tick, name))
        except Interrupted as stopped:
            partial(name, stopped.result)
            complete = False
        except KeyboardInterrupt:
            complete = False
    return {name: found[name] for name in policies if name in found}, complete


def _refuse_other_models(policies: Mapping[str, Settings]) -> None:
    (first, one), *others = policies.items()
    for name, other in others:
        if one.model != other.model:
            raise ConfigError(
                f"policies {first} and {name} speak of different models: a source and an oracle are of one.\n"
                "Leave `model` out of the files, and set TTA_MODEL__* instead."
            )


def _one(
    folder: Path, settings: Settings, late: Late, scratch: Path, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    return replay(folder, settings, **asdict(late), progress=progress, scratch=scratch)


def _ticker(tick: Tick, name: str) -> Callable[[int, int], None]:
    return lambda done, total: tick(name, done, total)


def _play_apart(
    folder: Path,
    policies: Mapping[str, Settings],
    late: Late,
    scratch: Path,
    workers: int,
    tick: Tick,
    found: dict[str, dict[str, Any]],
) -> None:
    """Play in worker processes; fill `found` as policies end."""
    jobs = [(name, (name, folder, settings, late, scratch)) for name, settings in policies.items()]
    with WorkerPool(workers, advice="fewer --workers need less", on_progress=tick) as pool:
        for name, job in pool.run(_work, jobs):
            found[name] = job.result()


def _work(name: str, folder: Path, settings: Settings, late: Late, scratch: Path) -> dict[str, Any]:
    one = settings.model_copy(update={"model": settings.model.model_copy(update={"threads": 1})})
    return _one(folder, one, late, scratch, lambda done, total: _tell(name, done, total))


def _tell(name: str, done: int, total: int) -> None:
    if done % EVERY == 0 or done == total:
        report_progress(name, done, total)
