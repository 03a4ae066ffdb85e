"""A steady stream: nothing grows once the bounded memories are full. Half an hour of it: `benchmarks/soak.py`."""

from __future__ import annotations

import gc
import itertools
import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import worlds
from tests.pipeline.test_agent import Running, World, until
from tta_agent.core.types import Message
from tta_agent.evaluation import paired, taught
from tta_agent.labels import join, requests
from tta_agent.models.ort_sessions import run
from tta_agent.registry import registry, retention
from tta_agent.stream import router
from tta_agent.stream.codecs.cloudevents import CloudEvents

RATE = 400  # records a second at most
# records until the memories are full and candidates come and go, and between two looks
WARM, EVERY, LOOKS = 2500, 300, 12
MEMORIES = (router, paired, taught, requests)  # of the last records, entities or ids
BOUND = 100
LEAK = 0.5  # objects a record that are too many: one small object a record makes 1.0
SHADOW = {
    "TTA_MODE": "shadow",
    "TTA_ADAPT__METHOD": "tent",
    "TTA_ADAPT__MAX_WAIT_S": "0.5",
    "TTA_STREAM__INPUTS": "as_is",
    "TTA_MODEL__CHECK_SERVED": "false",
    "TTA_GATE__PATIENCE_RECORDS": "100",
    "TTA_GATE__WINDOW_RECORDS": "100",
    "TTA_GATE__RECENT_BYTES": "200000",
    "TTA_LABELS__REQUESTS_PER_DAY": "100000",
}


@dataclass(frozen=True, slots=True)
class Held:
    """What this process and the store hold."""

    threads: int
    open_files: int
    store_files: int
    objects: int


def held(world: World) -> Held:
    gc.collect()
    threads, files = (len(list(Path(f"/proc/self/{name}").iterdir())) for name in ("task", "fd"))
    stored = sum(path.is_file() for path in world.settings.store.path.rglob("*"))
    return Held(threads, files, stored, sys.getallocatedblocks())


def floor(looks: list[Held]) -> Held:
    """The least of each number: a candidate under evaluation holds more than none."""
    return Held(*(min(numbers) for numbers in zip(*map(astuple, looks), strict=True)))


def messages(world: World) -> Iterator[list[tuple[str, Message]]]:
    """Endless records, each with its topic; a label for every third."""
    codec, stream = CloudEvents(), world.settings.stream
    x, _, labels = worlds.images(256)
    answers = run(world.pair.current()[1], x)
    for i in itertools.count():
        row, now_s = i % len(x), time.time()
        about: Any = {"source": "t", "model": "m", "time_s": now_s}
        event = codec.encode_inference(f"r{i}", x[row : row + 1], answers[row : row + 1], 0, **about)
        label = codec.encode_label(f"r{i}", int(labels[row]), now_s)
        yield [(stream.topic, event), (stream.labels_topic, label)][: 2 if i % 3 == 0 else 1]


def idle(agent: Any, sent: int) -> bool:
    """Whether all that was sent has come through all stages."""
    counts = agent.journal.now().get("records", {})
    routed = sum(counts.get(name, 0) for name in ("teach", "held_out"))
    return routed == sent and not agent.learner.batcher.waiting() and not agent._stages.held_bytes


@pytest.mark.slow
@pytest.mark.parametrize("brokers", [None, pytest.param("kafka", marks=pytest.mark.kafka)])
def test_nothing_grows_on_a_steady_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, brokers: str | None
) -> None:
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)  # pytest keeps what is logged
    for module in MEMORIES:
        monkeypatch.setattr(module, "REMEMBERED", BOUND)
    for module in (retention, registry):
        monkeypatch.setattr(module, "KEEP_REJECTED", 2)
    monkeypatch.setattr(join, "FLUSH_EVERY", BOUND)
    address = request.getfixturevalue(brokers) if brokers else None
    world = World(tmp_path, monkeypatch, brokers=address, **SHADOW)
    agent, coming, looks, sent = world.agent(), messages(world), [], 0
    with Running(agent):
        until(lambda: agent.journal.now().get("ready"))
        for total in (WARM + EVERY * i for i in range(LOOKS)):
            for _ in range(sent, total):
                for topic, message in next(coming):
                    world.producer.send(topic, *message)
                time.sleep(1 / RATE)
            sent = total
            world.producer.flush()
            until(lambda: idle(agent, sent))  # noqa: B023
            looks.append(held(world))
    world.producer.close()
    before, after = (floor(part) for part in (looks[: LOOKS // 2], looks[LOOKS // 2 :]))
    assert len(world.events(agent, "verdict")) >= 4  # candidates come and go, with their sessions
    assert after.threads <= before.threads
    assert after.open_files <= before.open_files
    assert after.store_files <= max(look.store_files for look in looks[: LOOKS // 2])
    assert after.objects - before.objects < LEAK * EVERY * LOOKS // 2, looks
