"""A sample in the whole agent: who waits is read again after a restart, who is left out is not."""

import numpy as np

from tests import worlds
from tests.pipeline.test_implausible import Spy
from tta_agent.assembly import build
from tta_agent.core.messages import CheckpointBarrier, PolledBatch
from tta_agent.core.types import Record
from tta_agent.serving.drivers.none import NoDriver
from tta_agent.settings import env
from tta_agent.stream import factory
from tta_agent.telemetry.facade import Telemetry


def test_a_checkpoint_goes_back_to_the_records_that_wait_for_the_end_of_their_window(tmp_path, monkeypatch):
    given = {**worlds.FASHION, "TTA_STORE__PATH": str(tmp_path / "store"), "TTA_MODE": "observe"}
    given |= {"TTA_SELECT__SAMPLE": "4", "TTA_SELECT__SAMPLE_WINDOW_S": "10"}
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    settings, now_s = env.load(), 0.0
    source, producer = build.load_source(settings), factory.open_producer(settings, [])
    stream = factory.open_source(settings, [settings.stream.topic])
    parts = (settings, source, stream, producer, NoDriver(), Telemetry.off())
    agent = build.assemble(*parts, threaded=False, clock=lambda: now_s)
    learner, x = agent.learner, worlds.images(40)[0].astype(np.float32)
    learner._to_rollout = spy = Spy(learner._to_rollout)

    def poll(start, stop, time_s):
        nonlocal now_s
        now_s = time_s
        some = [
            Record(f"r{i}", time_s, x[i], None, None, f"r{i}", None, "t", 0, i, ("t", f"r{i}", ""))
            for i in range(start, stop)
        ]
        learner.on_poll(PolledBatch(some, {("t", 0): stop}))

    try:
        poll(0, 20, 15.0)
        poll(20, 30, 25.0)
        waiting = {int(one.id[1:]) for one in learner.router.waiting()}
        batched = {int(one.id[1:]) for one in learner.batcher.waiting()}
        assert len(waiting) == 4 and waiting <= set(range(20, 30)) and batched <= set(range(20))
        learner.mark()
        barrier = [item for item in spy.items if isinstance(item, CheckpointBarrier)][-1]
        assert barrier.positions == {("t", 0): min(waiting | batched)}
        done = {int(name[1:]) for _, name, _ in barrier.learner["done"]}
        assert done.isdisjoint(waiting | batched) and set(range(20, 30)) - waiting <= done
        now_s = 60.0
        learner.idle()
        assert not learner.router.waiting()
        assert agent._counts._total["sampled_out"] == 22
    finally:
        agent.close()
        producer.close()
