"""All scenes, in processes of one thread each, until they are done or the time is up."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tta_agent.core import process
from tta_agent.core.worker_pool import WorkerPool
from tta_agent.evaluation.anchor_set import IMAGES
from tta_agent.evaluation.rehearsed.store import Shelf
from tta_agent.evaluation.rehearsed.table import RehearsedRow
from tta_agent.rehearsal.play import Player
from tta_agent.rehearsal.pool import Pool, part, pooled
from tta_agent.rehearsal.worlds import Scene

if TYPE_CHECKING:
    from tta_agent.settings.schema import Settings

ADVICE = "fewer --workers need less; the same command goes on from the last finished scene"
Keep = Callable[[Scene, list[RehearsedRow], float], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """What a player is made of, in any process.

    Attributes:
        settings: model and adapter.
        anchor: labelled images; those that are not drawn for the anchor arrive in worlds.
        images: labelled images that arrive instead of these, and `others`, .npz of unknown classes among them: to
            try out what was rehearsed.
        dropout: see `Player`.
    """

    settings: Settings
    anchor: Path
    images: Path | None = None
    others: Path | None = None
    dropout: float = 0.0

    def name(self, scene: Scene) -> str:
        """Of a finished scene: another anchor set, or another share of it, makes another one."""
        files = [path for path in (self.anchor, self.images, self.others) if path is not None]
        about = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        said = repr((about, IMAGES, self.dropout))
        return f"{scene.key}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"


def player(stage: Stage) -> Player:
    """A player of the configured model and adapter.

    Raises:
        ConfigError: model, data or a setting does not fit.
    """
    from tta_agent.assembly import build
    from tta_agent.models.source_data import read_source_data
    from tta_agent.telemetry.facade import Telemetry

    s = stage.settings
    source = build.load_source(s)
    facts = source.shape, source.mean, source.std

    def read(path: Path) -> Pool:
        return pooled(*read_source_data(path, *facts), source.mean, source.std)

    pool, reference = part(read(stage.anchor), IMAGES)
    pool = pool if stage.images is None else read(stage.images)
    others = None if stage.others is None else np.load(stage.others)["inputs"]
    teacher = build.make_adaptation(s, source, Telemetry.off())
    return Player(teacher, source, pool, reference, s.adapt.batch_size, others=others, dropout=stage.dropout)


def carry_out(
    stage: Stage,
    scenes: Sequence[Scene],
    shelf: Shelf,
    *,
    workers: int,
    seconds: float,
    told: Callable[[int, int, Scene], None] = lambda done, total, scene: None,
) -> int:
    """Play what is not finished; every scene is on disk once it is told of.

    Args:
        workers: processes; 0: this one.
        seconds: no scene is begun after this.
        told: done so far, of how many, and which; from this thread.

    Returns:
        Scenes that are finished, those of earlier runs among them.

    Raises:
        TtaError: a worker was killed.
    """
    finished = shelf.finished()
    left = [scene for scene in scenes if stage.name(scene) not in finished]
    done = len(scenes) - len(left)

    def keep(scene: Scene, rows: list[RehearsedRow], took_s: float) -> None:
        nonlocal done
        shelf.keep(stage.name(scene), rows, took_s)
        done += 1
        told(done, len(scenes), scene)

    deadline_s = time.monotonic() + seconds
    in_time = takewhile(lambda _: time.monotonic() < deadline_s, left)
    if workers:
        _play_apart(stage, in_time, workers, keep)
    elif left:
        mine = player(stage)
        for scene in in_time:
            keep(scene, *_timed(mine, scene))
    return done


def _play_apart(stage: Stage, scenes: Iterable[Scene], workers: int, keep: Keep) -> None:
    with WorkerPool(workers, advice=ADVICE) as pool:
        for scene, job in pool.run(_play, ((scene, (stage, scene)) for scene in scenes)):
            keep(scene, *job.result())


_player: Player | None = None  # of this worker process


def _play(stage: Stage, scene: Scene) -> tuple[list[RehearsedRow], float]:
    global _player
    if _player is None:
        process.yield_to_others(stage.settings.model.nice)
        _player = player(stage)
    return _timed(_player, scene)


def _timed(mine: Player, scene: Scene) -> tuple[list[RehearsedRow], float]:
    began_s = time.monotonic()
    return mine.play(scene), time.monotonic() - began_s
