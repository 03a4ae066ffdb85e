"""Replay of a whole policy over a recording: selection, adapter, gate and swap, with labels that come late.

The agent is the real one, its rooms called in turn instead of in threads. The served graph answers every
record before the agent sees it, so that what is measured is what would have been served.
"""

from __future__ import annotations

import functools
import math
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from tta_agent.assembly import build
from tta_agent.core.errors import ConfigError
from tta_agent.core.events import Event
from tta_agent.core.stream_protocols import Codec
from tta_agent.models import loader
from tta_agent.models.onnx_export import GraphTemplate
from tta_agent.models.ort_sessions import HotSwapSession, open_session
from tta_agent.pipeline.agent import Agent
from tta_agent.replay.chronicle import Chronicle
from tta_agent.replay.marks import MOST_WINDOWS, Marks
from tta_agent.replay.tape import REQUESTS, Annotators, Late, Tape
from tta_agent.serving.drivers.session import SessionDriver
from tta_agent.settings.rollout_groups import HttpSettings
from tta_agent.settings.schema import Settings
from tta_agent.stream.factory import open_writer
from tta_agent.stream.recordings.reader import Recording
from tta_agent.telemetry.facade import Telemetry


class Interrupted(KeyboardInterrupt):
    """Interrupt of a replay, with the result over the records that were played until then."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__()
        self.result = result


Progress = Callable[[int, int], None]  # records done, records in all
TIMED = 1000  # records: a forward pass takes as long on the next thousand
TIMED_BRIEFLY = 100  # where somebody waits for the end


def replay(
    folder: Path,
    settings: Settings,
    *,
    label_rate: float,
    label_delay_s: float,
    seed: int,
    speed: float = math.inf,
    on_request: bool = False,
    windows: int = MOST_WINDOWS,
    progress: Progress = lambda done, total: None,
    marks: Callable[[Marks], None] = lambda marks: None,
    scratch: Path | None = None,
) -> dict[str, Any]:
    """Play a recording under one policy and measure it; modes shadow and approve are played as auto.

    Args:
        label_rate, label_delay_s, seed, speed, on_request: as in `Late`.
        windows: of equal length that accuracy is given for, at most.
        progress: called with records played and records in all.
        marks: called once, with what is known of each single record.
        scratch: folder for the store, which is removed afterwards; the system's where not given.

    Returns:
        Accuracies as shares, 0 .. 1 (None where nothing was labelled), in all, by `windows` and by `domains`;
        `events` (`swaps`, `rollbacks` and `verdicts` among them) with the record and the recorded second;
        labels `arrived` and `used`; seconds of the agent, and of forward passes alone.

    Raises:
        ConfigError: the recording or a setting does not fit.
        Interrupted: by a KeyboardInterrupt; `result` is of the records that were played.
    """
    recording = Recording.open(folder)
    if not len(recording):
        raise ConfigError(f"{folder}: an empty recording; there is nothing to play")
    with tempfile.TemporaryDirectory(prefix="tta-replay-", dir=scratch) as store:
        settings = _indoors(settings, Path(store))
        source = build.load_source(settings)
        codec = open_writer(settings, or_default=True)  # a recording has none of its own
        tape = Tape(recording, Late(label_rate, label_delay_s, seed, speed, on_request), codec)
        chronicle, whole = Chronicle(Path(store)), True
        agent = _assemble(settings, source, tape, codec)
        started_s = time.perf_counter()
        try:
            _run(agent, tape, chronicle, lambda: progress(tape.records, len(recording)))
        except KeyboardInterrupt:
            whole = False
            tape.marks = tape.marks.first(tape.records)
            if not tape.records:
                raise
        finally:
            seconds = time.perf_counter() - started_s - tape.answering_s - tape.waiting_s
            agent.close()
    marks(tape.marks)
    forward = _forward_only(recording, source, settings.adapt.batch_size, TIMED if whole else TIMED_BRIEFLY)
    result = {
        **_measured(agent, tape, windows),
        **_decided(agent, chronicle),
        **_cost(agent, tape, seconds, forward * tape.records / len(recording)),
    }
    if not whole:
        raise Interrupted(result)
    return result


def _indoors(settings: Settings, store: Path) -> Settings:
    """Same policy with a registry of its own and no interface; rehearsals and calibration stay known."""
    mode = "auto" if settings.mode in ("shadow", "approve") else settings.mode
    proofs = settings.store.proofs or settings.store.path
    paths = settings.store.model_copy(update={"path": store, "versions": None, "proofs": proofs})
    labels = settings.labels.model_copy(update={"requests_topic": REQUESTS})
    inside = {"store": paths, "labels": labels, "mode": mode, "http": HttpSettings()}
    return settings.model_copy(update=inside)


def _assemble(settings: Settings, source: loader.DeployedModel, tape: Tape, codec: Codec) -> Agent:
    master = GraphTemplate(source.module, source.shape, source.graph)
    registry = build.open_registry(settings, source, master)
    opener = functools.partial(open_session, threads=settings.model.threads, output=source.output)
    tape.source = opener(registry.get(0).path)
    tape.pair = HotSwapSession(0, tape.source)
    driver = SessionDriver(tape.pair, opener)
    return build.assemble(
        settings,
        source,
        tape,
        Annotators(tape),
        driver,
        Telemetry.off(),
        template=master,
        codec=codec,
        clock=lambda: tape.now_s,
        observer=tape.observe,
        threaded=False,
    )


def _run(agent: Agent, tape: Tape, chronicle: Chronicle, tell: Callable[[], None]) -> None:
    """Play to the end."""
    while not tape.ended:
        agent.read()
        chronicle.look(
            tape.records, tape.now_s - float(tape.marks.time_s[0]), agent.rollout.promoter.labels_used
        )
        tell()


def _measured(agent: Agent, tape: Tape, windows: int) -> dict[str, Any]:
    marks = tape.marks
    return {
        "records": tape.records,
        "labelled": marks.labelled,
        "adapted": tape.used,
        "kept_by_reason": {**agent.learner.adaptation.totals, **agent.learner.routed_total},
        **marks.accuracies(),
        "windows": marks.windows(windows),
        "domains": marks.domains(),
    }


def _decided(agent: Agent, chronicle: Chronicle) -> dict[str, Any]:
    return {
        "events": chronicle.events,
        "swaps": chronicle.named(Event.SWAP),
        "rollbacks": chronicle.named(Event.ROLLBACK),
        "verdicts": chronicle.named(Event.VERDICT),
        "labels_used": agent.rollout.promoter.labels_used,
        "labels_per_swap": chronicle.labels_per_swap(),
    }


def _cost(agent: Agent, tape: Tape, seconds: float, forward_s: float) -> dict[str, Any]:
    return {
        "labels_arrived": tape.labels,
        "rounds": agent.learner.adaptation.rounds,
        "seconds": round(seconds, 3),
        "seconds_forward_only": round(forward_s, 3),
        "times_forward": round(seconds / max(forward_s, 1e-9), 2),
    }


@torch.no_grad()
def _forward_only(
    recording: Recording, source: loader.DeployedModel, batch_size: int, timed: int = TIMED
) -> float:
    """Seconds of the model's forward passes alone over as many records, by the first ones."""
    seconds, rows = 0.0, islice(recording, timed)
    while part := list(islice(rows, batch_size)):
        x = torch.from_numpy(recording.model_input(part)).to(source.device)
        started_s = time.perf_counter()
        source.module(x).cpu()
        seconds += time.perf_counter() - started_s
    return seconds * max(len(recording) / timed, 1.0)
