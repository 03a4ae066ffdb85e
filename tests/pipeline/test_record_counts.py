"""Nothing is dropped in silence: each reason is counted, and told once where it takes too much."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.pipeline.test_agent import Running, World, until
from tta_agent.assembly import build
from tta_agent.pipeline.record_counts import WINDOW, RecordCounts
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.telemetry import event_log
from tta_agent.telemetry.event_log import EventLog
from tta_agent.telemetry.facade import Telemetry

X = np.zeros((1, 1, 28, 28), np.float32)
Z = np.zeros((1, 10), np.float32)


def counting(folder: Path) -> RecordCounts:
    return RecordCounts(EventLog(folder), Telemetry.off(), max_age_s=600.0, horizon_s=86_400.0)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if " dropped as " in record.message]


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("duplicate", "ce_id"),
        ("stale", "TTA_STREAM__MAX_AGE_S=600 s"),
        ("internal", "traceback"),
    ],
)
@pytest.mark.parametrize(("share", "times"), [(0.19, 0), (0.22, 1)])
def test_a_reason_that_takes_a_fifth_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, reason: str, advice: str, share: float, times: int
) -> None:
    counts = counting(tmp_path)
    for i in range(3 * WINDOW):
        counts.routed({reason if i % 100 < 100 * share else "teach": 1})
    assert len(told(caplog)) == times
    assert all(reason in text and advice in text for text in told(caplog))


def test_what_is_held_out_on_purpose_is_no_loss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = counting(tmp_path)
    for _ in range(3):
        counts.routed({"held_out": WINDOW // 2, "teach": WINDOW // 2})
    assert not told(caplog)


def test_one_topic_does_not_hide_another(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = counting(tmp_path)
    for _ in range(50):
        counts.decoded("inference", {"read": 1000})
        counts.decoded("labels", {"read": 10, "label_id": 10, "label_time": 5})
    assert len(told(caplog)) == 1
    assert "600 of 1000 records of labels are dropped as undecodable" in told(caplog)[0]
    status = json.loads((tmp_path / "status.json").read_text())["records"]
    counts._journal.flush()
    status = json.loads((tmp_path / "status.json").read_text())["records"]
    assert status["undecodable"] == {"label_id": 500, "label_time": 250}


def test_late_and_orphaned_labels_are_told_and_answers_without_a_label_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counts, stored = counting(tmp_path), Counter(matched=10_000, late=9_000, expired=50)
    counts.labelled(stored)
    for _ in range(30):
        stored.update(matched=50, late=30, orphan=20, expired=400)
        counts.labelled(stored)
    assert [("late" in text, "orphan" in text) for text in told(caplog)] == [(True, False)]
    assert "TTA_LABELS__HORIZON_S=86400 s" in told(caplog)[0]
    now = counts._journal.now()["records"]
    assert (now["matched"], now["late"], now["orphan"], now["expired"]) == (1500, 900, 600, 12_000)


def send(world: World, count: int, *, behind_s: float = 0.0, id: str | None = None) -> None:
    for i in range(count):
        message = CloudEvents().encode_inference(
            id or f"r{i}", X, Z, 0, source="t", model="m", time_s=time.time() - behind_s
        )
        world.producer.send(world.settings.stream.topic, *message)
    world.producer.flush()


@pytest.mark.parametrize(
    ("how", "reason", "advice"),
    [({"id": "constant"}, "duplicate", "ce_id"), ({"behind_s": 660.0}, "stale", "TTA_STREAM__MAX_AGE_S=600")],
)
def test_a_constant_id_or_a_clock_that_is_behind_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    how: dict[str, Any],
    reason: str,
    advice: str,
) -> None:
    world = World(
        tmp_path, monkeypatch, TTA_MODE="observe", TTA_HTTP__PORT="0", TTA_MODEL__CHECK_SERVED="false"
    )
    agent = world.agent()
    interface = build.open_interface(world.settings, agent.rollout.served.registry, agent.journal.now)
    assert interface is not None
    with caplog.at_level(logging.WARNING), Running(agent):
        send(world, 1_050, **how)
        world.producer.send(world.settings.stream.labels_topic, b"k", b"{")
        world.producer.flush()
        count = 1_049 if reason == "duplicate" else 1_050
        until(lambda: agent.journal.now().get("records", {}).get(reason) == count)
        until(lambda: agent.journal.now()["records"]["undecodable"])
        shown = httpx.get(f"{interface.url}/v1/status").json()["records"]
        path = world.settings.store.path / "status.json"
        until(lambda: json.loads(path.read_text()).get("records") == agent.journal.now()["records"])
    interface.close()
    assert shown[reason] == count
    assert shown["undecodable"]
    assert len(told(caplog)) == 1
    assert advice in told(caplog)[0]


@pytest.mark.parametrize("how", ["status", "flush"])
def test_the_last_numbers_reach_the_file_though_no_more_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    journal = EventLog(tmp_path)
    monkeypatch.setattr(event_log, "STATUS_EVERY_S", 3600.0)
    journal._written_s = time.monotonic()
    journal.status(a=1)
    journal.status()
    assert not (tmp_path / "status.json").exists()
    if how == "status":
        monkeypatch.setattr(event_log, "STATUS_EVERY_S", 0.0)
    getattr(journal, how)()
    assert json.loads((tmp_path / "status.json").read_text())["a"] == 1
