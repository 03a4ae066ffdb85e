"""The agent's life as processes: SIGTERM at any moment, SIGKILL again and again; what is lost, what counts twice.

The model is a small net that takes as long for a batch as `SLEEP_S` of the environment says, so that there is a
moment to be interrupted in. Nothing here serves: the mode is shadow, or the driver is one that takes its time.

What a checkpoint says is held against the log: of the records before its offsets, those that are not held out must
have been counted by the copy once each, no more and no less.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tta_agent.assembly import build
from tta_agent.core.types import Version
from tta_agent.demo.processes import Child
from tta_agent.pipeline import checkpoint
from tta_agent.serving.drivers.none import NoDriver
from tta_agent.settings import env
from tta_agent.stream import factory
from tta_agent.stream.batcher import held_out
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.stream.holdout import secret_of
from tta_agent.telemetry.facade import Telemetry
from tta_agent.testing import tiny_net

SHAPE, CLASSES, BATCH = (1, 8, 8), 4, 64
QUIET_S = 10.0  # without a further record, after which an agent has read them all
WITHIN_S = 10.0  # an orderly end


class SlowNet(torch.nn.Module):
    """Takes `SLEEP_S` of the environment for a batch of the stream; ONNX export and fixed inputs do not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self._sleep_s = tiny_net("batch"), float(os.environ.get("SLEEP_S", "0"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B, C]."""
        if self._sleep_s and not torch.compiler.is_exporting() and len(x) >= BATCH // 2:
            time.sleep(self._sleep_s)
        logits: torch.Tensor = self.net(x)
        return logits


def slow_net() -> torch.nn.Module:
    """For TTA_MODEL__FACTORY."""
    torch.manual_seed(0)
    return SlowNet()


class SlowDriver(NoDriver):
    """A server that takes four seconds for a swap."""

    def publish(self, version: Version, golden: Any) -> None:
        """Load it."""
        time.sleep(4.0)
        super().publish(version, golden)


def environ(folder: Path, sleep_s: float = 0.0, **more: str) -> dict[str, str]:
    """Of an agent in a folder of its own."""
    weights = folder / "net.pt"
    if not weights.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(slow_net().state_dict(), weights)
    return {
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "SLEEP_S": str(sleep_s),
        "TTA_MODE": "shadow",
        "TTA_MODEL__FACTORY": "benchmarks.lifecycle:slow_net",
        "TTA_MODEL__WEIGHTS": str(weights),
        "TTA_MODEL__INPUT_SHAPE": "[1,8,8]",
        "TTA_MODEL__CHECK_SERVED": "false",  # the answers in the log are drawn at random
        "TTA_STORE__PATH": str(folder / "store"),
        "TTA_STORE__CHECKPOINT_EVERY": "1",
        "TTA_STREAM__START": "earliest",
        "TTA_STREAM__MAX_AGE_S": "1e9",
        "TTA_SCHEDULE__SCHEDULES": '["stochastic_restore"]',
        **more,
    }


def settings(variables: Mapping[str, str]) -> Any:
    """As the agent reads them, without touching this process's environment for longer than that."""
    before = dict(os.environ)
    try:
        os.environ.update(variables)
        return env.load()
    finally:
        os.environ.clear()
        os.environ.update(before)


def feed(variables: Mapping[str, str], n: int, start: int = 0) -> None:
    """n records in the log; the key of each is its id."""
    s, codec, rng = settings(variables), CloudEvents(), np.random.default_rng(start)
    producer = factory.open_producer(s, [])
    for i in range(start, start + n):
        x = rng.standard_normal((1, *SHAPE), dtype=np.float32)
        z = rng.standard_normal((1, CLASSES), dtype=np.float32)
        producer.send(
            s.stream.topic,
            *codec.encode_inference(
                f"r{i}", x, z, 0, source="t", model="m", time_s=time.time(), traceparent=None
            ),
        )
    producer.flush()
    producer.close()


def wait(child: Child, until: Callable[[], bool], seconds: float = 120.0) -> None:
    """Poll; raises AssertionError with the end of the log where the process ends or time does."""
    deadline_s = time.monotonic() + seconds
    while not until():
        tail = child.log.read_text(errors="replace")[-2000:]
        assert not child.died() and time.monotonic() < deadline_s, tail
        time.sleep(0.05)


def says(child: Child, text: str) -> bool:
    """Whether its log holds this text."""
    return child.log.exists() and text in child.log.read_text(errors="replace")


# SIGTERM


def ended_cleanly(child: Child) -> bool:
    """Status 0 within ten seconds of SIGTERM, without a traceback."""
    os.kill(child.pid, signal.SIGTERM)
    deadline_s = time.monotonic() + WITHIN_S
    while not child.died() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    in_time = child.died()
    return child.stop(0.1) == 0 and in_time and not says(child, "Traceback")


def sigterm(folder: Path, moment: str, later_s: float = 0.0) -> bool:
    """Whether an agent ends cleanly: `loading`, `idle`, with a `backlog`, in a `slow` batch, inside a `swap`.

    Args:
        later_s: after that moment has begun; at least a second for `loading`: an interpreter has to start first.
    """
    more: dict[str, str] = {}
    sleep_s = {"slow": 3.0, "backlog": 0.05}.get(moment, 0.0)
    if moment == "swap":
        gates = {"TTA_GATE__GATES": '["tta_agent.testing:Anything"]', "TTA_SCHEDULE__CANDIDATE_EVERY": "1"}
        more = {"TTA_MODE": "auto", "TTA_SWAP__DRIVER": "benchmarks.lifecycle:SlowDriver", **gates}
    variables = environ(folder, sleep_s, **more)
    feed(variables, {"backlog": 20_000, "slow": 640, "swap": 2_000}.get(moment, 1))
    child = Child("run", variables, folder / "agent.log")
    child.start()
    try:
        if moment != "loading":
            wait(child, lambda: says(child, "starting from the source"))
        if moment in ("slow", "backlog", "swap"):
            wait(child, lambda: (folder / "store" / "log.db").exists())
        time.sleep(max(later_s, 1.0 if moment == "loading" else 0.0))
        return ended_cleanly(child)
    finally:
        child.stop(0.1)


MOMENTS = ("loading", "idle", "backlog", "slow", "swap")


def sigterm_series(folder: Path, runs: int, seed: int = 0) -> dict[str, int]:
    """`runs` agents, each ended at a random moment of up to six seconds."""
    rng = random.Random(seed)
    clean = 0
    for i in range(runs):
        clean += sigterm(folder / f"term{i}", MOMENTS[i % len(MOMENTS)], rng.uniform(0.0, 6.0))
        shutil.rmtree(folder / f"term{i}", ignore_errors=True)
    return {"sigterm_runs": runs, "sigterm_clean": clean}


# SIGKILL


def counted(variables: Mapping[str, str], records: int) -> tuple[int, int]:
    """Of the checkpoint: samples that the copy has counted, and those that it must have."""
    s = settings(variables)
    state = checkpoint.load(s.store.path / "checkpoint.pt", _fingerprint(s))
    if state is None:
        return 0, 0
    learner, positions = state["learner"], state["positions"]
    done = {identity[1] for identity in learner["done"]}
    must = 0
    for raw in _log(variables, records):
        item = CloudEvents().decode(raw, None, None)[0]
        read = raw.offset < positions.get((raw.topic, raw.partition), 0) or item.id in done
        must += read and not _held(item.key, s)
    return sum(learner["totals"].values()), must


def _held(key: str, s: Any) -> bool:
    """Whether the agent of this store holds an entity out."""
    return held_out(key, s.select.holdout, secret_of(s.store.path))


def _fingerprint(s: Any) -> str:
    return f"{build.fingerprint(build.load_source(s).module)}/{s.adapt.method}"


def _log(variables: Mapping[str, str], records: int) -> list[Any]:
    """The whole topic, by a group of its own."""
    s = settings(variables)
    consumer = factory.open_source(s, [s.stream.topic], group=f"look-{time.time_ns()}")
    raws: list[Any] = []
    deadline_s = time.monotonic() + 60
    while len(raws) < records and time.monotonic() < deadline_s:
        raws += consumer.poll(0.2)
    consumer.close()
    return raws


def restored_bit_for_bit(variables: Mapping[str, str], scratch: Path) -> bool:
    """Whether an agent that resumes holds the very state of the checkpoint, its random state included."""
    s = settings(variables)
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(s.store.path, scratch)
    s = s.model_copy(update={"store": s.store.model_copy(update={"path": scratch})})
    source = build.load_source(s)
    saved = checkpoint.load(scratch / "checkpoint.pt", _fingerprint(s))
    if saved is None:
        return True
    consumer = factory.open_source(s, [s.stream.topic], group=f"look-{time.time_ns()}")
    agent = build.assemble(
        s, source, consumer, factory.open_producer(s, []), NoDriver(), Telemetry.off(), threaded=False
    )
    agent.resume()
    learner, done = agent.learner, saved["learner"]["done"]
    now = {**learner.adaptation.state_dict(), "done": done, "duty": learner.duty.state_dict()}
    agent.close()
    return same(now, saved["learner"])


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit, NaN included."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and one.cpu().numpy().tobytes() == other.cpu().numpy().tobytes()
    return bool(one == other) or (one != one and other != other)


def kill_series(
    folder: Path, kills: int, records: int, seed: int = 0, look_every: int = 5, **more: str
) -> dict[str, Any]:
    """An agent that is killed so often on its way through the records, and then may finish.

    Args:
        look_every: kills between two looks whether a restart holds the checkpoint's state bit for bit.
        more: variables, for instance of a Kafka broker.

    Returns:
        `resumed` counts the lives that began where a checkpoint of the life before stood; without them the other
        numbers would say nothing.
    """
    rng = random.Random(seed)
    sleep_s = 0.75 * kills / max(records / BATCH, 1)
    variables = environ(folder, sleep_s, **more)
    feed(variables, records)
    lost = twice = resumed = 0
    equal = True
    for i in range(kills):
        child = _begun(variables, folder / f"life{i}.log")
        resumed += says(child, "resumed after")
        _until_checkpoint(folder / "store" / "checkpoint.pt", rng.randrange(3))
        time.sleep(rng.uniform(0.0, 1.5 * sleep_s))
        child.kill()
        has, must = counted(variables, records)
        lost, twice = max(lost, must - has), max(twice, has - must)
        if i % look_every == 0:
            equal = restored_bit_for_bit(variables, folder / "scratch") and equal
    has, must = _finished({**variables, "SLEEP_S": "0"}, records, folder)
    s = settings(variables)
    everything = sum(not _held(f"r{i}", s) for i in range(records))
    lost, twice = max(lost, everything - has), max(twice, has - everything)
    return {"kills": kills, "resumed": resumed, "lost": lost, "applied_twice": twice, "bit_equal": equal}


def _until_checkpoint(path: Path, times: int, seconds: float = 20.0) -> None:
    """Until it has been written so often, whatever the machine's pace; gives up where nothing is left to read."""
    deadline_s, before = time.monotonic() + seconds, _written(path)
    while times and time.monotonic() < deadline_s:
        if (now := _written(path)) != before:
            times, before = times - 1, now
        time.sleep(0.01)


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _begun(variables: Mapping[str, str], log: Path) -> Child:
    child = Child("run", variables, log)
    child.start()
    wait(child, lambda: says(child, "resumed after") or says(child, "starting from the source"))
    return child


def _finished(variables: Mapping[str, str], records: int, folder: Path) -> tuple[int, int]:
    """Let it come to the end of the records, and end it in order; counted and to be counted."""
    child = _begun(variables, folder / "last.log")
    before, since_s = (-1, -1), time.monotonic()
    while time.monotonic() - since_s < QUIET_S:
        time.sleep(2.0)
        if (now := counted(variables, records)) != before:
            before, since_s = now, time.monotonic()
    assert ended_cleanly(child), child.log.read_text(errors="replace")[-2000:]
    return counted(variables, records)
