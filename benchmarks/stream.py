"""The stream: formats that are read, throughput of a score-only agent, memory under overload, the duty cycle.

python benchmarks/stream.py --quick --json OUT     (some ten minutes on two cores)

formats    variants of what real producers write that are read without a setting (tests/stream/test_variants.py)
ratio      agent in mode observe against a bare consumer that decodes and forwards the same records, on a real Kafka
           with default limits; records of 12 KB and 600 KB, in turn within one run, medians. The clock starts with
           the first records: joining the group costs the same once. Two ratios: of time, which says nothing where
           others use the cores, and of processor time (..._processor)
overload   memory of an agent at ten times the rate that it can take, beyond what it had when it was ready
duty       forward passes a record at rest, and what is served less than by always learning (benchmarks/duty.py)
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import duty
import gate_streams as streams
import lifecycle
import loop
import numpy as np
import torch
from torch import nn

from tests.parts.kafka.broker import broker, unavailable
from tta_agent.demo.processes import Child
from tta_agent.stream import factory
from tta_agent.stream.codecs.cloudevents import CloudEvents

HERE = Path(__file__).resolve().parent
CLASSES = 10
SIZES = {"ratio_12k": (3, 32, 32), "ratio_600k": (3, 224, 224)}
QUEUE_BYTES = 64 << 20  # the default
RETENTION = (
    "log.retention.bytes=536870912\nlog.segment.bytes=67108864\nlog.retention.check.interval.ms=2000\n"
)


def net() -> nn.Module:
    """A net whose forward pass is cheap beside decoding. For TTA_MODEL__FACTORY."""
    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)]
    return nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8), nn.ReLU(), *head)


def environ(folder, servers, shape, topic, **more):
    """Variables of an agent on that broker."""
    weights = folder / "net.pt"
    torch.save(net().state_dict(), weights)
    return {
        **lifecycle.environ(folder),
        "PYTHONPATH": os.pathsep.join(map(str, (HERE.parent, HERE))),
        "TTA_MODE": "observe",
        "TTA_MODEL__FACTORY": "benchmarks.stream:net",
        "TTA_MODEL__WEIGHTS": str(weights),
        "TTA_MODEL__INPUT_SHAPE": json.dumps(shape),
        "TTA_STORE__CHECKPOINT_EVERY": "25",
        "TTA_SCHEDULE__SCHEDULES": "[]",
        "TTA_SELECT__HOLDOUT": "0.001",
        "TTA_STREAM__BOOTSTRAP_SERVERS": servers,
        "TTA_STREAM__TOPIC": topic,
        "TTA_STREAM__LABELS_TOPIC": f"{topic}.labels",
        "TTA_STREAM__INPUTS": "as_is",
        "TTA_STREAM__QUEUE_BYTES": str(QUEUE_BYTES),
        **more,
    }


def fill(settings, shape, records, until=lambda: False):
    """Put records into the topic; how many."""
    producer = factory.open_producer(settings, [settings.stream.topic, settings.stream.labels_topic])
    random, codec, sent = np.random.default_rng(0), CloudEvents(), 0
    x = random.random((16, 1, *shape), dtype=np.float32)
    z = np.zeros((1, CLASSES), np.float32)
    while sent < records and not until():
        about = {"source": "b", "model": "m", "time_s": time.time()}
        event = codec.encode_inference(f"r{sent}", x[sent % 16], z, 0, **about)
        producer.send(settings.stream.topic, *event)
        sent += 1
    with contextlib.suppress(Exception):
        producer.close()
    return sent


def ratio(servers, shape, records, repeats):
    """Records per second, and per second of processor, of the agent over those of the bare loop: medians."""
    found = []
    for i in range(repeats):
        spent = {}
        for run in (loop.bare, loop.agent) if i % 2 else (loop.agent, loop.bare):
            with tempfile.TemporaryDirectory() as folder:
                settings = lifecycle.settings(environ(Path(folder), servers, shape, f"t-{shape[1]}"))
                if not found and not spent:
                    fill(settings, shape, records)
                spent[run.__name__] = run(settings, records)
        found.append([b / a for a, b in zip(spent["agent"], spent["bare"], strict=True)])
        each = ", ".join(
            f"{name} {s / records * 1e6:.0f} us ({cpu / records * 1e6:.0f} of processor)"
            for name, (s, cpu) in spent.items()
        )
        print(
            f"  {shape}: agent over bare {found[-1][0]:.2f}, of processor {found[-1][1]:.2f}; {each}",
            flush=True,
        )
    return [statistics.median(of) for of in zip(*found, strict=True)]


def overload(servers, seconds):
    """Most MiB beyond those at readiness, and records sent and taken, while far more come than are taken."""
    with tempfile.TemporaryDirectory() as folder:
        more = {"TTA_MODE": "shadow", "TTA_ADAPT__METHOD": "tent", "TTA_STREAM__START": "latest"}
        variables = environ(Path(folder), servers, SIZES["ratio_600k"], "overload", **more)
        settings, child = lifecycle.settings(variables), Child("run", variables, Path(folder) / "log")
        child.start()
        status = Path(folder) / "store" / "status.json"
        try:
            lifecycle.wait(child, lambda: status.exists() and "ready" in json.loads(status.read_text()))
            before, most, began_s = resident(child), [0.0] * 11, time.monotonic()

            def done():
                tenth = min(int(10 * (time.monotonic() - began_s) / seconds), 10)
                most[tenth] = max(most[tenth], (resident(child) - before) / 2**20)
                return tenth == 10

            sent = fill(settings, SIZES["ratio_600k"], 10**9, done)
            totals = json.loads(status.read_text()).get("totals", {})
            print("  most MiB in each tenth of the time:", [round(mib) for mib in most[:10]])
            return max(most), sent, sum(totals.values())
        finally:
            child.stop()


def resident(child):
    """Bytes in memory."""
    pages = int(Path(f"/proc/{child.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def formats():
    """Variants that are read rightly, and all."""
    from tests.stream import test_variants as variants

    read = 0
    for name in variants.VARIANTS:
        with contextlib.suppress(Exception, AssertionError):
            variants.test_each_variant_becomes_the_same_eight_records(name)
            read += 1
    return read, len(variants.VARIANTS)


def resting(records):
    """Duty cycle against always learning."""
    model, shift = streams.models()["fashion"], ("gaussian_noise", 4)
    always, rests = (duty.play(model, "norm", shift, share, records, 0) for share in (1.0, 0.0625))
    return {"amortised": rests["cost"], "served_minus_always": rests["served"] - always["served"]}


def main():
    """All parts; those of Kafka where a broker can be started."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--quick", action="store_true")
    asked.add_argument("--json", type=Path)
    asked.add_argument("--only", choices=("ratio", "overload", "duty"))
    asked.add_argument(
        "--client", default="auto", help="library that reads Kafka, of both sides of the ratio"
    )
    asked = asked.parse_args()
    os.environ["TTA_STREAM__CLIENT"] = asked.client
    torch.set_num_threads(1)
    found = dict(zip(("formats_read", "formats"), formats(), strict=True))
    print(found, flush=True)
    if reason := unavailable():
        print(f"without Kafka: {reason}")
    else:
        with tempfile.TemporaryDirectory() as folder, broker(Path(folder), RETENTION) as servers:
            for name, shape in SIZES.items() if asked.only in (None, "ratio") else ():
                records = (12_000 if shape[1] == 32 else 600) * (1 if asked.quick else 2)
                found[name], found[f"{name}_processor"] = ratio(
                    servers, shape, records, 3 if asked.quick else 5
                )
            if asked.only in (None, "overload"):
                mib, sent, taken = overload(servers, 30 if asked.quick else 300)
                found |= {"overload_rss_mb": mib, "overload_sent": sent, "overload_taken": taken}
            print(found, flush=True)
    if asked.only in (None, "duty"):
        found["duty"] = resting(24_000)  # the copy rests 7,100 records after the beginning
    print(found)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
