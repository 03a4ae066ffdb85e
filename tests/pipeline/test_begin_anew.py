"""A change of regime begins a batch of its own."""

import pytest

from tests import worlds
from tests.pipeline.test_implausible import Spy
from tta_agent.assembly import build
from tta_agent.core.messages import CandidateProposal, PolledBatch
from tta_agent.core.types import Record
from tta_agent.models.ort_sessions import HotSwapSession, open_session
from tta_agent.serving.drivers.session import SessionDriver
from tta_agent.settings import env
from tta_agent.stream import factory
from tta_agent.telemetry.facade import Telemetry


@pytest.fixture
def agent(tmp_path, monkeypatch):
    given = {**worlds.FASHION, "TTA_STORE__PATH": str(tmp_path / "store"), "TTA_ADAPT__METHOD": "norm"}
    given |= {"TTA_ADAPT__BATCH_SIZE": "64", "TTA_SELECT__HOLDOUT": "0.0001"}
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    settings = env.load()
    source = build.load_source(settings)
    session = open_session(build.open_registry(settings, source).get(0).path)
    stream = factory.open_source(settings, [settings.stream.topic])
    driver = SessionDriver(HotSwapSession(0, session), open_session)
    producer = factory.open_producer(settings, [])
    made = build.assemble(settings, source, stream, producer, driver, Telemetry.off(), threaded=False)
    made.learner.router._clock = lambda: 0.0  # nothing is too old
    yield made
    made.close()


def poll(agent, start, stop):
    x = worlds.images(700)[0]
    some = [
        Record(f"r{i}", 1.0 * i, x[i], None, None, f"r{i}", None, "t", 0, i, ("t", f"r{i}", ""))
        for i in range(start, stop)
    ]
    agent.learner.on_poll(PolledBatch(some, {("t", 0): stop}))


def test_the_beginning_is_no_change_and_leaves_no_round_of_a_few(agent):
    poll(agent, 0, 65)
    assert agent.learner.adaptation.rounds == 1 and len(agent.learner.batcher.waiting()) == 1
    assert agent.rollout.queue.unsettled, "the first candidate may come soon"


def test_records_that_wait_at_a_change_make_a_round_and_the_first_batch_after_it_a_candidate(agent):
    learner = agent.learner
    poll(agent, 0, 8)
    poll(agent, 8, 168)
    waiting, rounds = len(learner.batcher.waiting()), learner.adaptation.rounds
    assert waiting and rounds == 2
    assert agent.rollout.queue.running is not None and not agent.rollout.queue.unsettled
    poll(agent, 168, 176)
    agent.rollout.queue.unsettled = True  # as the detector's report does
    learner._to_rollout = spy = Spy(learner._to_rollout)
    poll(agent, 176, 177)
    assert not learner.batcher.waiting() and learner.adaptation.rounds == rounds + 1
    poll(agent, 177, 177 + 64)
    assert learner.adaptation.rounds == rounds + 2 and not learner.batcher.waiting()
    assert [item.early for item in proposals(spy)] == [True]
    poll(agent, 241, 241 + 64)
    assert len(proposals(spy)) == 1, "the next one is of twice as many records"
    poll(agent, 305, 305 + 64)
    assert [item.early for item in proposals(spy)] == [True, True]
    for start in range(369, 369 + 4 * 64, 64):
        poll(agent, start, start + 64)
    assert [item.early for item in proposals(spy)] == [True, True, False]


def test_where_classes_come_in_runs_the_first_one_is_not_early(agent, monkeypatch):
    monkeypatch.setattr(agent.learner.adaptation, "in_runs", lambda: True)
    monkeypatch.setattr(agent.learner.adaptation, "settled", lambda: True)
    agent.learner._to_rollout = spy = Spy(agent.learner._to_rollout)
    poll(agent, 0, 160)
    assert [item.early for item in proposals(spy)] == [False]


def proposals(spy):
    return [item for item in spy.items if isinstance(item, CandidateProposal)]
