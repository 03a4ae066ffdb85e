"""A steady stream for half an hour: memory, threads, open files, files of the store, and records that wait.

    python benchmarks/soak.py [--minutes 30] [--rate 60] [--json OUT]

An agent in mode shadow with `tent` on a real Kafka, records of 12 KB, labels for a third of them. Each number is the
median of its samples, one every five seconds, in the second and in the last quarter of the time. Memory of the last
100,000 identities fills first, which takes 28 minutes at 60 records a second and 9 at 180; after that growth of
resident memory, by a line through the last third of the time, should be none.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import lifecycle
import numpy as np
import stream

from tests.parts.kafka.broker import broker
from tta_agent.demo.processes import Child
from tta_agent.stream import factory
from tta_agent.stream.codecs.cloudevents import CloudEvents

EVERY_S = 5.0


def numbers(child, store, sent):
    """What is looked at, by name."""
    status = json.loads((store / "status.json").read_text())
    taken = sum(status.get("records", {}).get(name, 0) for name in ("teach", "held_out"))
    process = Path(f"/proc/{child.pid}")
    return {
        "rss_mb": stream.resident(child) / 2**20,
        "threads": len(list((process / "task").iterdir())),
        "open_files": len(list((process / "fd").iterdir())),
        "store_files": sum(path.is_file() for path in store.rglob("*")),
        "store_mb": sum(path.stat().st_size for path in store.rglob("*") if path.is_file()) / 2**20,
        "waiting": sent - taken,
    }


def soak(settings, child, seconds, rate):
    """Samples of the numbers over the time."""
    store, codec, random = settings.store.path, CloudEvents(), np.random.default_rng(0)
    x = random.random((64, 1, *stream.SIZES["ratio_12k"]), dtype=np.float32)
    topics = settings.stream.topic, settings.stream.labels_topic
    producer = factory.open_producer(settings, topics)
    found, sent, began_s, next_s = [], 0, time.monotonic(), EVERY_S
    while (passed_s := time.monotonic() - began_s) < seconds:
        while sent < rate * passed_s:
            logits = random.random((1, stream.CLASSES), dtype=np.float32)
            about = {"source": "soak", "model": "m", "time_s": time.time()}
            producer.send(topics[0], *codec.encode_inference(f"r{sent}", x[sent % 64], logits, 0, **about))
            if sent % 3 == 0:
                producer.send(topics[1], *codec.encode_label(f"r{sent}", sent % stream.CLASSES, time.time()))
            sent += 1
        if passed_s >= next_s:
            next_s += EVERY_S
            found.append(numbers(child, store, sent))
        time.sleep(0.05)
    producer.close()
    return found


def growth(samples):
    """MiB of resident memory a minute, in the last third of the time."""
    part = samples[-(len(samples) // 3) :]
    minutes = np.arange(len(part)) * EVERY_S / 60
    return round(float(np.polyfit(minutes, [one["rss_mb"] for one in part], 1)[0]), 2)


def main():
    """One run."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--minutes", type=float, default=30.0)
    asked.add_argument("--rate", type=float, default=60.0, help="records a second")
    asked.add_argument("--json", type=Path)
    asked = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder, broker(Path(folder), stream.RETENTION) as servers:
        more = {"TTA_MODE": "shadow", "TTA_ADAPT__METHOD": "tent", "TTA_STREAM__START": "latest"}
        more |= {"TTA_MODEL__CHECK_SERVED": "false", "TTA_SELECT__HOLDOUT": "0.2"}
        variables = stream.environ(Path(folder), servers, stream.SIZES["ratio_12k"], "soak", **more)
        settings, child = lifecycle.settings(variables), Child("run", variables, Path(folder) / "log")
        status = settings.store.path / "status.json"
        child.start()
        try:
            lifecycle.wait(child, lambda: status.exists() and "ready" in json.loads(status.read_text()))
            samples = soak(settings, child, 60 * asked.minutes, asked.rate)
        finally:
            child.stop()
    n = len(samples) // 4
    found = {
        name: [
            round(statistics.median(s[name] for s in part), 1)
            for part in (samples[n : 2 * n], samples[3 * n :])
        ]
        for name in samples[0]
    }
    for name, (second, last) in found.items():
        print(f"{name:12} {second:9.1f} in the second quarter, {last:9.1f} in the last")
    print(f"growth of memory in the last third: {growth(samples)} MiB a minute")
    if asked.json:
        asked.json.write_text(
            json.dumps({"minutes": asked.minutes, "growth": growth(samples), "samples": samples, **found})
            + "\n"
        )


if __name__ == "__main__":
    main()
