"""Implausible records on their way through the agent: scored and counted, and evidence of nothing."""

import json
import time

import numpy as np
import pytest

from tests import worlds
from tta_agent.assembly import build
from tta_agent.core.errors import ConfigError
from tta_agent.core.messages import CandidateProposal
from tta_agent.models.ort_sessions import HotSwapSession, open_session, run
from tta_agent.serving.drivers.session import SessionDriver
from tta_agent.settings import env
from tta_agent.stream import factory
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.stream.router import RoutedRecords
from tta_agent.telemetry.facade import Telemetry

N = 640


class Spy:
    """The next stage, and the records that it was given."""

    def __init__(self, stage):
        self.stage, self.items = stage, []

    def put(self, item, nbytes=0):
        self.items.append(item)
        self.stage.put(item, nbytes)

    def full(self):
        return self.stage.full()

    def inputs(self):
        routed = [item for item in self.items if isinstance(item, RoutedRecords)]
        return [record.x for records in routed for record in (*records.held, *records.teach)]


def started(tmp_path, monkeypatch, **environ):
    """An agent that calls its stages directly, after N records of which every fifth lies at 1e4 or -1e4."""
    given = {
        **worlds.FASHION,
        "TTA_STORE__PATH": str(tmp_path / "store"),
        "TTA_STREAM__START": "earliest",
        "TTA_ADAPT__METHOD": "norm",
    }
    for key, value in {**given, **environ}.items():
        monkeypatch.setenv(key, value)
    settings = env.load()
    source = build.load_source(settings)
    session = open_session(build.open_registry(settings, source).get(0).path)
    producer = factory.open_producer(settings, [])
    x = worlds.images(N)[0].copy()
    x[::10], x[5::10] = 1e4, -1e4
    for i in range(N):
        answer = run(session, x[i : i + 1])
        about = {"source": "t", "model": "m", "time_s": time.time()}
        producer.send("inference", *CloudEvents().encode_inference(f"r{i}", x[i : i + 1], answer, 0, **about))
    producer.flush()
    stream = factory.open_source(settings, ["inference", "inference.labels"])
    driver = SessionDriver(HotSwapSession(0, session), open_session)
    agent = build.assemble(settings, source, stream, producer, driver, Telemetry.off(), threaded=False)
    spy = Spy(agent.learner._to_rollout)
    agent.learner.connect(spy)
    read = 0
    while read < N:
        read += agent.read()
    return agent, spy


def test_they_neither_teach_nor_are_evidence_nor_drift(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("tta_agent.pipeline.record_counts.WINDOW", N // 4)
    monkeypatch.setattr("tta_agent.pipeline.record_counts.SHARE", 0.15)  # a fifth here
    agent, spy = started(tmp_path, monkeypatch)
    try:
        told = [line for line in caplog.messages if "are dropped as implausible" in line]
        assert len(told) == 1
        assert "TTA_SELECT__SCREEN" in told[0]
        inputs = spy.inputs()
        assert len(inputs) == N - N // 5
        assert max(float(np.abs(x).max()) for x in inputs) <= 1.0
        totals, routed = agent.learner.adaptation.totals, agent.learner.routed_total
        waiting = [record for record in agent.learner.batcher.waiting() if abs(record.x).max() > 1]
        assert totals["rejected_implausible"] > N // 10
        assert totals["rejected_implausible"] + routed["held_out_implausible"] + len(waiting) == N // 5
        agent.journal.flush()
        status = json.loads((tmp_path / "store" / "status.json").read_text())
        assert status["totals"]["rejected_implausible"] == totals["rejected_implausible"]
        assert not [event for event in agent.journal.read_events() if event["event"] == "drift"]
        assert not [item for item in spy.items if isinstance(item, CandidateProposal) and not sound(item)]
    finally:
        agent.close()


def sound(proposal):
    """The statistics are near those of the images, and not of 1e4."""
    return all(
        t.abs().max() < 100 for name, t in proposal.module.state_dict().items() if "running_var" in name
    )


def test_without_a_screen_they_count_as_any_other(tmp_path, monkeypatch):
    agent, spy = started(tmp_path, monkeypatch, TTA_SELECT__SCREEN="[]")
    try:
        assert len(spy.inputs()) == N
        assert "rejected_implausible" not in agent.learner.adaptation.totals
    finally:
        agent.close()


@pytest.mark.parametrize("selectors", ["[]", '["entropy"]', '["plausible", "entropy"]'])
def test_every_method_has_the_screen_whatever_its_selectors_are(selectors, monkeypatch):
    for key, value in {**worlds.FASHION, "TTA_SELECT__SELECTORS": selectors}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("TTA_SELECT__OPTIONS", '{"plausible": {"records": 128}}')
    settings = env.load()
    x = worlds.images(64)[0].copy()
    x[3] = 1e4
    adaptation = build.make_adaptation(settings, build.load_source(settings), Telemetry.off())
    assert adaptation.round(x).dropped["implausible"] == 1
    assert [part.records for part in adaptation._screen.selectors] == [128]


def test_source_data_reaches_the_screen(tmp_path, monkeypatch):
    x = worlds.images(64)[0]
    np.savez(tmp_path / "source.npz", inputs=x * 50)
    for key, value in {**worlds.FASHION, "TTA_MODEL__SOURCE_DATA": str(tmp_path / "source.npz")}.items():
        monkeypatch.setenv(key, value)
    settings = env.load()
    adaptation = build.make_adaptation(settings, build.load_source(settings), Telemetry.off())
    assert adaptation.plausible(x[:8] * 50).all()
    assert not adaptation.plausible(x[:8] * 1e4).any()


def test_a_bad_option_is_named_in_one_line_without_the_source_data(monkeypatch):
    for key, value in worlds.FASHION.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("TTA_SELECT__OPTIONS", '{"plausible": {"records": 3}}')
    settings = env.load()
    with pytest.raises(
        ConfigError, match=r"^selector 'plausible' with options \{'records': 3\}: records 3 are too few"
    ):
        build.make_adaptation(settings, build.load_source(settings), Telemetry.off())
