"""Records per second of the agent, as ratios of a bare loop that only decodes and forwards the same records.

    python benchmarks/loop.py [--records 6000] [--repeats 5] [--json OUT]

The records stand in an embedded log before the clock starts. It starts for all variants with the poll that brings
the first of them: joining a group costs the same once, however many records come, and is no cost of a record. All
variants run in turn within each repeat, so that what else the machine does falls on all of them alike; medians over
the repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tta_agent.core import process

process.budget(1)

import torch  # noqa: E402

from tta_agent.assembly import build  # noqa: E402
from tta_agent.core.stream_protocols import StreamConsumer  # noqa: E402
from tta_agent.core.types import RawRecord  # noqa: E402
from tta_agent.samples import dataset  # noqa: E402
from tta_agent.serving.drivers.none import NoDriver  # noqa: E402
from tta_agent.settings import env  # noqa: E402
from tta_agent.settings.schema import Settings  # noqa: E402
from tta_agent.stream import factory  # noqa: E402
from tta_agent.stream.codecs.cloudevents import CloudEvents  # noqa: E402
from tta_agent.telemetry.facade import Telemetry  # noqa: E402

VARIANTS = ("bare", "observe", "norm", "tent")
BATCH = 64


def settings_for(folder: Path, variant: str) -> Settings:
    os.environ.update(
        TTA_MODE="observe" if variant == "observe" else "shadow",
        TTA_ADAPT__METHOD=variant if variant in ("norm", "tent") else "tent",
        TTA_MODEL__FACTORY="tta_agent.samples.nets:fashion_net",
        TTA_MODEL__WEIGHTS=str(dataset.ASSETS / dataset.WEIGHTS),
        TTA_MODEL__INPUT_SHAPE="[1,28,28]",
        TTA_MODEL__CHECK_SERVED="false",  # the answers in the log are zeros
        TTA_STORE__PATH=str(folder),
        TTA_STREAM__START="earliest",
        TTA_STREAM__MAX_AGE_S="86400",
        TTA_STREAM__QUEUE_BYTES=str(1 << 30),
        TTA_ADAPT__BATCH_SIZE=str(BATCH),
        TTA_SELECT__HOLDOUT="0.001",  # the bare loop forwards everything, so must the agent
    )
    return env.load()


def fill(settings: Settings, records: int) -> None:
    """Put the images into the log, as the tap writes them."""
    images = dataset.load().inputs[:records].astype("float32") / 255
    producer = factory.open_producer(settings, [])
    zeros = torch.zeros(1, 10).numpy()
    for i, x in enumerate(images):
        event = CloudEvents().encode_inference(
            f"r{i}", x[None], zeros, 0, source="bench", model="m", time_s=time.time()
        )
        producer.send(settings.stream.topic, *event)
    producer.close()


class Spent(NamedTuple):
    """Time that went by, and processor time of all threads; their ratio differs where cores are shared."""

    seconds: float
    processor_s: float


class Timed:
    """A consumer that notes when the poll began that brought the first records."""

    def __init__(self, consumer: StreamConsumer) -> None:
        self._consumer, self._began = consumer, Spent(0.0, 0.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def poll(self, timeout_s: float) -> Sequence[RawRecord]:
        """See `StreamConsumer`."""
        now = _now()
        records = self._consumer.poll(timeout_s)
        if records and not self._began.seconds:
            self._began = now
        return records

    def spent(self) -> Spent:
        """Since then."""
        return Spent(*(b - a for a, b in zip(self._began, _now(), strict=True)))


def _now() -> Spent:
    return Spent(time.perf_counter(), time.process_time())


def bare(settings: Settings, records: int) -> Spent:
    """Time to decode and forward everything, in one thread, with nothing else."""
    model = build.load_source(settings)
    source = Timed(factory.open_source(settings, [settings.stream.topic], group=f"bare-{time.time_ns()}"))
    waiting: list[torch.Tensor] = []
    done = 0
    with torch.no_grad():
        while done < records:
            for raw in source.poll(0.25):
                waiting += [
                    torch.from_numpy(r.x) for r in CloudEvents().decode(raw, model.shape, model.classes)
                ]
                if len(waiting) == BATCH or done + len(waiting) == records:
                    model.module(torch.stack(waiting)).argmax(1)
                    done += len(waiting)
                    waiting = []
    spent = source.spent()
    source.close()
    return spent


def agent(settings: Settings, records: int) -> Spent:
    """Time until the agent, in its threads, has worked on all full batches."""
    topics = [settings.stream.topic, settings.stream.labels_topic]
    stream = Timed(factory.open_source(settings, topics, group=f"agent-{time.time_ns()}"))
    producer = factory.open_producer(settings, [])
    it = build.assemble(settings, build.load_source(settings), stream, producer, NoDriver(), Telemetry.off())
    thread = threading.Thread(target=it.run)
    thread.start()
    full = records - BATCH
    while sum(it.learner.adaptation.totals.values()) + it.learner.routed_total["held_out"] < full:
        assert thread.is_alive(), "the agent stopped before it had worked on everything"
        time.sleep(0.02)  # each look takes the interpreter away from the agent
    spent = Spent(*(one * records / full for one in stream.spent()))
    it.stop()
    thread.join()
    producer.close()
    return spent


def measure(records: int, repeats: int) -> dict[str, object]:
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for repeat in range(repeats):
        for variant in VARIANTS:
            with tempfile.TemporaryDirectory() as folder:
                settings = settings_for(Path(folder), variant)
                fill(settings, records)
                run = bare if variant == "bare" else agent
                seconds[variant].append(run(settings, records).seconds)
        print(
            f"repeat {repeat + 1}: " + ", ".join(f"{v} {s[-1]:.2f} s" for v, s in seconds.items()), flush=True
        )
    rate = {variant: records / statistics.median(taken) for variant, taken in seconds.items()}
    ratios = {
        variant: round(statistics.median(b / s for b, s in zip(seconds["bare"], taken, strict=True)), 3)
        for variant, taken in seconds.items()
    }
    return {"records": records, "repeats": repeats, "records_per_s": rate, "ratio_to_bare": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=6000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(arguments.records, arguments.repeats)
    print(f"{'variant':10} {'records/s':>10} {'of bare':>8}")
    for variant, rate in result["records_per_s"].items():  # type: ignore[attr-defined]
        print(f"{variant:10} {rate:10.0f} {result['ratio_to_bare'][variant]:8.2f}")  # type: ignore[index]
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
