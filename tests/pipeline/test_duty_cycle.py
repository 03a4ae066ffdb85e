"""Learning rests once the copy no longer improves, and begins again with a change."""

import json

import numpy as np
import pytest

from tests import worlds
from tta_agent.assembly import build
from tta_agent.core.messages import PolledBatch
from tta_agent.core.types import Record
from tta_agent.models.ort_sessions import HotSwapSession, open_session
from tta_agent.pipeline.duty_cycle import LEAST, DutyCycle
from tta_agent.serving.drivers.session import SessionDriver
from tta_agent.settings import env
from tta_agent.stream import factory
from tta_agent.telemetry.facade import Telemetry


def after(entropies, share=0.25):
    duty = DutyCycle(share)
    for entropy in entropies:
        duty.learnt(entropy)
    return duty


def noise(n, seed=0):
    return np.random.default_rng(seed).normal(0, 0.05, n)


def test_a_steady_copy_rests_and_takes_an_even_share():
    duty = after(1 + noise(2 * LEAST))
    assert duty.rests and duty.share == 0.25
    assert sum(duty.takes() for _ in range(400)) == 100


def test_there_is_no_rest_right_after_a_change_nor_while_the_entropy_falls():
    assert not after(1 + noise(LEAST - 1)).rests
    assert not after(2 - np.arange(2 * LEAST) / 20 + noise(2 * LEAST)).rests
    duty = after(1 + noise(2 * LEAST))
    duty.change()
    assert not duty.rests and all(duty.takes() for _ in range(10))


@pytest.mark.parametrize("entropy", [None, float("nan")])
def test_batches_without_an_entropy_are_no_sign_of_a_steady_copy(entropy):
    assert not after([entropy] * 2 * LEAST).rests


def test_by_default_it_never_rests():
    assert not after(1 + noise(4 * LEAST), share=env.load(model=worlds_model()).adapt.rest_share).rests


def test_it_goes_on_where_it_stood():
    duty, again = after(1 + noise(2 * LEAST)), DutyCycle(0.25)
    duty.takes()
    again.load_state_dict(json.loads(json.dumps(duty.state_dict())))
    assert again.rests and [duty.takes() for _ in range(9)] == [again.takes() for _ in range(9)]


def worlds_model():
    return {
        "factory": worlds.FASHION["TTA_MODEL__FACTORY"],
        "weights": worlds.FASHION["TTA_MODEL__WEIGHTS"],
        "input_shape": [1, 28, 28],
    }


def test_the_agent_rests_says_so_and_learns_again_after_a_change(tmp_path, monkeypatch):
    given = {**worlds.FASHION, "TTA_STORE__PATH": str(tmp_path / "store"), "TTA_ADAPT__METHOD": "norm"}
    given |= {"TTA_ADAPT__BATCH_SIZE": "16", "TTA_ADAPT__REST_SHARE": "0.25", "TTA_SELECT__HOLDOUT": "0.0001"}
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    settings = env.load()
    source = build.load_source(settings)
    session = open_session(build.open_registry(settings, source).get(0).path)
    stream, producer = factory.open_source(settings, ["t"]), factory.open_producer(settings, [])
    driver = SessionDriver(HotSwapSession(0, session), open_session)
    agent = build.assemble(settings, source, stream, producer, driver, Telemetry.off(), threaded=False)
    x, at = worlds.images(1000)[1], 0

    def poll(batches):
        nonlocal at
        some = [
            Record(f"r{i}", 1.0 * i, x[i % 1000], None, None, f"r{i}", None, "t", 0, i, ("t", f"r{i}", ""))
            for i in range(at, at + 16 * batches)
        ]
        at += 16 * batches
        agent.learner.on_poll(PolledBatch(some, {("t", 0): at}))
        return agent.learner.adaptation.rounds

    try:
        agent.learner.router._clock = lambda: 0.0
        while not agent.learner.duty.rests:
            assert poll(4) < 500
        before, left = poll(1), agent.learner.adaptation.totals["rested"]
        assert poll(40) == before + 10
        assert agent.learner.adaptation.totals["rested"] == left + 30 * 16
        agent.journal.flush()
        status = json.loads((tmp_path / "store" / "status.json").read_text())
        assert status["learning_share"] == 0.25 and status["totals"]["rested"] > 0
        agent.learner._hurried = False
        agent.rollout.queue.unsettled = True  # as the detector's report does
        poll(1)
        rounds = poll(1)
        assert not agent.learner.duty.rests and poll(4) == rounds + 4
    finally:
        agent.close()
