"""Run of a rehearsal: all groups of scenarios, until they are done or the time is up."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tta_agent.core import plugins, process
from tta_agent.core.worker_pool import WorkerPool, report_progress
from tta_agent.evaluation.anchor_set import IMAGES
from tta_agent.evaluation.rehearsed.store import RehearsalStore
from tta_agent.evaluation.rehearsed.table import RehearsedRow
from tta_agent.rehearsal.image_pool import ImagePool, pooled, split
from tta_agent.rehearsal.play import Player
from tta_agent.rehearsal.scenarios import ScenarioGroup

if TYPE_CHECKING:
    from tta_agent.settings.schema import Settings

ADVICE = "fewer --workers need less; the same command goes on from the last finished group"
Keep = Callable[[ScenarioGroup, list[RehearsedRow], float], None]


@dataclass(frozen=True, slots=True)
class PlayerConfig:
    """Configuration of a player, for any process.

    Attributes:
        settings: of model and adapter.
        anchor: labelled images; those that are not drawn for the anchor set arrive in scenarios.
        images: labelled images that arrive instead, to try a rehearsal out.
        others: .npz of unknown classes among them.
        dropout: see `Player`.
    """

    settings: Settings
    anchor: Path
    images: Path | None = None
    others: Path | None = None
    dropout: float = 0.0

    def name(self, group: ScenarioGroup) -> str:
        """Name of a group on disk: another anchor set, or another share of it, makes another one."""
        files = [path for path in (self.anchor, self.images, self.others) if path is not None]
        about = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        said = repr((about, IMAGES, self.dropout))
        return f"{group.key}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"


def player(config: PlayerConfig) -> Player:
    """Make a player of the configured model and adapter.

    Raises:
        ConfigError: model, data or a setting does not fit.
    """
    from tta_agent.assembly import build
    from tta_agent.models.onnx_export import answers
    from tta_agent.models.preprocessing import check_labelled
    from tta_agent.models.source_data import read_source_data
    from tta_agent.telemetry.facade import Telemetry

    s = config.settings
    source = build.load_source(s)
    facts = source.shape, source.mean, source.std

    def read(path: Path) -> ImagePool:
        inputs, labels = read_source_data(path, *facts, setting="--anchor")
        if labels is not None and s.model.check_served:
            ask = functools.partial(answers, source.module)
            check_labelled(ask, inputs, labels, source.mean, source.std, setting=f"--anchor {path}")
        return pooled(inputs, labels, source.mean, source.std)

    pool, anchor = split(read(config.anchor), IMAGES)
    pool = pool if config.images is None else read(config.images)
    others = None if config.others is None else np.load(config.others)["inputs"]
    adaptation = build.make_adaptation(s, source, Telemetry.off())
    gates = {name: plugins.make("gates", name, s.gate.options) for name in s.gate.gates}
    return Player(
        adaptation,
        source,
        pool,
        anchor,
        s.adapt.batch_size,
        others=others,
        dropout=config.dropout,
        gates=gates,
    )


def carry_out(
    config: PlayerConfig,
    groups: Sequence[ScenarioGroup],
    saved: RehearsalStore,
    *,
    workers: int,
    seconds: float,
    on_finished: Callable[[int, int, ScenarioGroup], None] = lambda done, total, group: None,
    on_scenario: Callable[[float], None] = lambda seconds: None,
) -> int:
    """Play the groups that are not finished; each is on disk when `on_finished` is called.

    Args:
        workers: processes of one thread each; 0 for this one.
        seconds: no group is begun after this.
        on_finished: called in this thread with the number of finished groups, of all groups, and the group.
        on_scenario: called in this thread with the seconds of each scenario, in one process.

    Returns:
        Number of finished groups, those of earlier runs among them.

    Raises:
        TtaError: a worker process was killed.
    """
    finished = saved.finished()
    left = [group for group in groups if config.name(group) not in finished]
    done = len(groups) - len(left)

    def keep(group: ScenarioGroup, rows: list[RehearsedRow], took_s: float) -> None:
        nonlocal done
        saved.keep(config.name(group), rows, took_s)
        done += 1
        on_finished(done, len(groups), group)

    deadline_s = time.monotonic() + seconds
    in_time = takewhile(lambda _: time.monotonic() < deadline_s, left)
    if workers:
        _play_apart(config, in_time, workers, keep, on_scenario)
    elif left:
        mine = player(config)
        for group in in_time:
            keep(group, *_timed(mine, group, on_scenario))
    return done


def _play_apart(
    config: PlayerConfig,
    groups: Iterable[ScenarioGroup],
    workers: int,
    keep: Keep,
    on_scenario: Callable[[float], None],
) -> None:
    with WorkerPool(workers, advice=ADVICE, on_progress=on_scenario) as pool:
        for group, job in pool.run(_play, ((group, (config, group)) for group in groups)):
            keep(group, *job.result())


_player: Player | None = None  # of this worker process


def _play(config: PlayerConfig, group: ScenarioGroup) -> tuple[list[RehearsedRow], float]:
    global _player
    if _player is None:
        process.yield_to_others(config.settings.model.nice)
        _player = player(config)
    return _timed(_player, group, report_progress)


def _timed(
    mine: Player, group: ScenarioGroup, told: Callable[[float], None]
) -> tuple[list[RehearsedRow], float]:
    began_s = last_s = time.monotonic()

    def played() -> None:
        nonlocal last_s
        before_s, last_s = last_s, time.monotonic()
        told(last_s - before_s)

    return mine.play(group, played), time.monotonic() - began_s
