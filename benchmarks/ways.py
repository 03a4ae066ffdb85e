"""Which files a record and a late label pass in a real agent, found by really running it.

The agent runs without threads on an embedded log, with the shipped net and shifted images. One label is sent at a
time, each of a held-out record, until a candidate is certified and swapped in. A file is passed when a function in it
is called; a crossing is such a call from another file of ours, whatever foreign code lies between. Some of these
files *handle* the label: a function in them takes or returns it, as raw record, label, labelled pair, evidence or
decision, or a list of such. The others run in the same poll: they look for commands, ask for drift, write the status.
Gates are plugins of which there may be any number: they, and all that they call, do not count.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from tta_agent import corruptions
from tta_agent.assembly import build
from tta_agent.core.evidence import Evidence, LabelledPair
from tta_agent.core.messages import PolledBatch
from tta_agent.core.types import Label, RawRecord
from tta_agent.evaluation.decision import Decision
from tta_agent.models.ort_sessions import HotSwapSession, open_session, run
from tta_agent.samples import dataset
from tta_agent.serving.drivers.session import SessionDriver
from tta_agent.settings import env
from tta_agent.settings.schema import Settings
from tta_agent.stream import factory
from tta_agent.stream.batcher import held_out
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.stream.router import RoutedRecords
from tta_agent.telemetry.facade import Telemetry

OURS = ("tta_agent", "tta_adapters", "tta_policies")
GATES = "tta_policies/gates/"
BATCH, RECORDS = 64, 30 * 64
RARELY = 10**6  # of what happens by the clock or at intervals, and is no part of the way


@dataclass
class Trace:
    """Calls between files of ours while it is entered; it may be entered several times."""

    files: dict[str, None] = field(default_factory=dict)  # in the order in which they are first passed
    handling: dict[str, None] = field(default_factory=dict)  # those of them that handle what was polled
    crossings: int = 0
    judgements: int = 0  # calls of gates from outside of them

    def __enter__(self) -> Trace:
        sys.setprofile(self._see)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _see(self, frame: FrameType, event: str, value: Any) -> None:
        if event not in ("call", "return") or (here := _file(frame)) is None:
            return
        before = [file for file in map(_file, _callers(frame)) if file]
        if any(file.startswith(GATES) for file in before):
            return
        if here.startswith(GATES):
            self.judgements += event == "call"
            return
        if any(map(_carries, [value] if event == "return" else _arguments(frame))):
            self.handling[here] = None
        if event == "call":
            self.files[here] = None
            self.crossings += bool(before) and before[0] != here


def _arguments(frame: FrameType) -> Iterator[Any]:
    code, found = frame.f_code, frame.f_locals
    return (
        found[name] for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if name in found
    )


def _carries(value: Any) -> bool:
    """Whether a value is the label in one of its forms, or a list of such."""
    if isinstance(value, list | tuple) and value:
        value = value[0]
    if isinstance(value, RoutedRecords):
        return bool(value.labels)
    return isinstance(value, RawRecord | Label | PolledBatch | LabelledPair | Evidence | Decision)


def _callers(frame: FrameType) -> Iterator[FrameType]:
    while (back := frame.f_back) is not None:
        yield back
        frame = back


_known: dict[str, str | None] = {}


def _file(frame: FrameType) -> str | None:
    """A file of ours from its family on; None for foreign code and for a module that is just being imported."""
    name = frame.f_code.co_filename
    if name not in _known:
        parts = Path(name).parts
        at = next((i for i, part in enumerate(parts) if part in OURS), None)
        _known[name] = None if at is None else "/".join(parts[at:])
    return None if frame.f_code.co_name == "<module>" else _known[name]


class World:
    """An agent, a server in this process, and users who send shifted images."""

    def __init__(self, folder: Path) -> None:
        s = self.settings = _settings(folder)
        source = build.load_source(s)
        registry = build.open_registry(s, source)
        self.pair = HotSwapSession(0, open_session(registry.get(0).path))
        self.producer = factory.open_producer(s, [])
        stream = factory.open_source(s, [s.stream.topic, s.stream.labels_topic])
        driver = SessionDriver(self.pair, open_session)
        self.agent = build.assemble(s, source, stream, self.producer, driver, Telemetry.off(), threaded=False)
        data = dataset.load()
        clean = torch.from_numpy(data.inputs[:RECORDS]).float() / 255
        shifted, _ = corruptions.mixture(clean, ("gaussian_noise", "impulse_noise"), 4, 0, "imagenet")
        self.inputs, self.labels = shifted.numpy(), data.labels

    def send(self, rows: range) -> None:
        """Inferences as the tap writes them."""
        for i in rows:
            x, (number, session) = self.inputs[i : i + 1], self.pair.current()
            event = CloudEvents().encode_inference(
                f"r{i}", x, run(session, x), number, source="t", model="m", time_s=time.time()
            )
            self.producer.send(self.settings.stream.topic, *event)
        self.producer.flush()

    def send_label(self, row: int) -> None:
        """The truth about one of them."""
        event = CloudEvents().encode_label(f"r{row}", int(self.labels[row]), time.time())
        self.producer.send(self.settings.stream.labels_topic, *event)
        self.producer.flush()

    def read(self, count: int, whole: Trace) -> Trace:
        """Let the agent read so many records; what the last poll passed, and all of it into `whole`."""
        while count > 0:
            with Trace() as poll:
                count -= self.agent.read()
            whole.files |= poll.files
            whole.handling |= poll.handling
            whole.crossings += poll.crossings
        return poll

    def close(self) -> None:
        """End everything."""
        self.agent.close()
        self.producer.close()


def _settings(folder: Path) -> Settings:
    weights = dataset.ASSETS / dataset.WEIGHTS
    net = {"factory": "tta_agent.samples.nets:fashion_net", "weights": weights, "input_shape": [1, 28, 28]}
    return env.load(
        mode="auto",
        model=net,
        store={"path": folder, "checkpoint_every": RARELY},
        stream={"start": "earliest"},
        adapt={"batch_size": BATCH},
        schedule={"candidate_every": 4},
        watch={"health_every_s": RARELY},
    )


def measure() -> dict[str, dict[str, Any]]:
    """Files, crossings and the files in their order, by way.

    The record's way is every poll from the first to the one that swaps: 1,920 records and some labels. The label's
    is the poll of one label after which the gates are asked, to a judgement without a swap (of several such labels
    the one that passes most files) and to a promotion.
    """
    with tempfile.TemporaryDirectory() as folder:
        world, whole, judged = World(Path(folder)), Trace(), Trace()
        try:
            promoted = _to_the_swap(world, whole, judged)
        finally:
            world.close()
    ways = {
        "record to the first swap": whole,
        "label to a judgement": judged,
        "label to a promotion": promoted,
    }
    return {
        name: {
            "handling": len(way.handling),
            "files": len(way.files),
            "crossings": way.crossings,
            "trace": list(way.files),
            "handlers": list(way.handling),
        }
        for name, way in ways.items()
    }


def _to_the_swap(world: World, whole: Trace, judged: Trace) -> Trace:
    """Records first, so that the evaluation waits for nothing but labels; then those, one by one."""
    for start in range(0, RECORDS, BATCH):
        world.send(range(start, start + BATCH))
        world.read(BATCH, whole)
    holdout = world.settings.select.holdout
    for row in (row for row in range(RECORDS) if held_out(f"r{row}", holdout)):
        world.send_label(row)
        poll = world.read(1, whole)
        if world.pair.current()[0]:
            return poll
        if poll.judgements and len(poll.files) > len(judged.files):
            judged.files, judged.handling, judged.crossings = poll.files, poll.handling, poll.crossings
    raise AssertionError(f"no swap by the labels of {RECORDS} records")
