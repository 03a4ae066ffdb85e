"""Hostile records, SIGTERM at random moments, SIGKILL again and again.

    python benchmarks/hostile.py --quick --json OUT      (about ten minutes on two cores)
    python benchmarks/hostile.py --kafka HOST:PORT       (the same on a broker; it needs no topic creation of its own)

Among 3,200 good records, each with its label, stand 800 and more malformed ones of two dozen kinds. Every good label
must find its record, every malformed one must become a dead letter, and the process must neither end nor grow.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import lifecycle
from tta_agent.core.types import Message
from tta_agent.demo.processes import Child
from tta_agent.labels.store import read_counts
from tta_agent.stream import factory
from tta_agent.stream.codecs.cloudevents import CloudEvents

GOOD, MALFORMED = 3200, 832


def malformed(number: int) -> tuple[str, Message]:
    """One of the kinds in turn, for the topic of `inferences` or of `labels`."""
    x, z = np.zeros((1, *lifecycle.SHAPE), np.float32), np.zeros((1, lifecycle.CLASSES), np.float32)
    key, body, headers = inference("bad", x, z)

    def without(name: str) -> Message:
        return key, body, tuple(header for header in headers if header[0] != name)

    def changed(name: str, value: bytes) -> Message:
        return key, body, (*without(name)[2], (name, value))

    def label(text: bytes) -> Message:
        return b"bad", text, CloudEvents().encode_label("bad", 1, 0.0)[2]

    kinds: list[tuple[str, Message]] = [
        ("inferences", (key, None, headers)),
        ("inferences", (key, b"", headers)),
        ("inferences", (key, body, ())),
        ("inferences", (key, b"\x00\xff garbage", headers)),
        ("inferences", (key, (body or b"")[:150], headers)),
        ("inferences", (key, (body or b"") + b"12", headers)),
        *(("inferences", without(name)) for name in ("ce_id", "ce_source", "ce_specversion")),
        ("inferences", changed("ce_id", b"\xed\xa0\x80")),
        ("inferences", changed("ce_time", b"yesterday")),
        ("inferences", changed("ce_time", b"9" * 5000)),
        ("inferences", changed("ce_inferenceheadercontentlength", b"9" * 400)),
        ("inferences", changed("ce_modelversion", b"9" * 400)),
        ("inferences", inference("bad", np.full_like(x, np.nan), z)),
        ("inferences", inference("bad", x[:, :, 1:], z)),
        ("inferences", inference("bad", x, np.full_like(z, np.inf))),
        ("labels", label(b'{"id":"\\ud800","label":3}')),
        ("labels", label(b'{"id":"bad","label":1,"ts":' + b"9" * 400 + b"}")),
        ("labels", label(b'{"id":"bad","label":' + b"9" * 5000 + b"}")),
        ("labels", label(b"[" * 100_000)),
        ("labels", label(b'{"label":1}')),
        ("labels", label(b'{"id":"bad","label":"cat"}')),
        ("labels", label(b"{")),
    ]
    return kinds[number % len(kinds)]


def inference(id: str, x: Any, z: Any) -> Message:
    """One record as the tap writes it."""
    return CloudEvents().encode_inference(id, x, z, 0, source="t", model="m", time_s=time.time())


def send_everything(variables: Mapping[str, str]) -> None:
    """Good records, their labels, and the malformed ones between them."""
    s, rng = lifecycle.settings(variables), np.random.default_rng(0)
    producer = factory.open_producer(s, [])
    topics = {"inferences": s.stream.topic, "labels": s.stream.labels_topic}
    for i in range(GOOD):
        x = rng.standard_normal((1, *lifecycle.SHAPE), dtype=np.float32)
        z = rng.standard_normal((1, lifecycle.CLASSES), dtype=np.float32)
        producer.send(topics["inferences"], *inference(f"r{i}", x, z))
        producer.send(
            topics["labels"], *CloudEvents().encode_label(f"r{i}", i % lifecycle.CLASSES, time.time())
        )
        if i * MALFORMED // GOOD != (i + 1) * MALFORMED // GOOD:
            where, message = malformed(i * MALFORMED // GOOD)
            producer.send(topics[where], *message)
    producer.flush()
    producer.close()


def hostile_records(folder: Path, **more: str) -> dict[str, Any]:
    """What one agent makes of them."""
    variables = lifecycle.environ(folder, TTA_STREAM__DEAD_LETTER_TOPIC="dead", **more)
    child = Child("run", variables, folder / "agent.log")
    child.start()
    try:
        lifecycle.wait(child, lambda: lifecycle.says(child, "starting from the source"))
        before_mb = _rss_mb(child.pid)
        send_everything(variables)
        _wait_for_labels(child, folder)
        grown_mb = max(_rss_mb(child.pid) - before_mb, 0.0)
        crashed = child.died()
        clean = not crashed and lifecycle.ended_cleanly(child)
    finally:
        child.stop(0.1)
    return {
        "malformed": MALFORMED,
        "good": GOOD,
        "matched": _matched(folder),
        "dead_letters": _dead_letters(variables),
        "crashes": int(crashed),
        "hangs": int(not crashed and not clean),
        "rss_growth_mb": round(grown_mb, 1),
    }


def _matched(folder: Path) -> int:
    """Labels that found their record, as far as they are written down."""
    return read_counts(folder / "store" / "labels.db")[0].get("matched", 0)


def _wait_for_labels(child: Child, folder: Path) -> None:
    """Until no more are written down; the last ones are with the checkpoint at the end."""
    last, since_s = -1, time.monotonic()
    while not child.died() and time.monotonic() - since_s < 8 and last < GOOD:
        if (now := _matched(folder)) != last:
            last, since_s = now, time.monotonic()
        time.sleep(0.2)


def _dead_letters(variables: Mapping[str, str]) -> int:
    s = lifecycle.settings(variables)
    consumer = factory.open_source(s, ["dead"], group=f"look-{time.time_ns()}")
    count, since_s = 0, time.monotonic()
    while count < MALFORMED and time.monotonic() - since_s < 10:
        if came := len(consumer.poll(0.2)):
            count, since_s = count + came, time.monotonic()
    consumer.close()
    return count


def _rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="10 kills in 2,000 records instead of 100 in 20,000"
    )
    parser.add_argument("--kafka", help="bootstrap servers of a broker; the embedded log where not given")
    parser.add_argument("--json", type=Path, help="write the figures")
    args = parser.parse_args()
    more = {"TTA_STREAM__BOOTSTRAP_SERVERS": args.kafka} if args.kafka else {}
    kills, records = (10, 2_000) if args.quick else (100, 20_000)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        found: dict[str, Any] = hostile_records(folder / "hostile", **more)
        print(json.dumps(found), flush=True)
        found |= lifecycle.sigterm_series(folder / "term", 10 if args.quick else 20)
        print(json.dumps(found), flush=True)
        topics = (
            {"TTA_STREAM__TOPIC": "kills", "TTA_STREAM__LABELS_TOPIC": "kills.labels"} if args.kafka else {}
        )
        found |= lifecycle.kill_series(folder / "kill", kills, records, **more, **topics)
    print(json.dumps(found, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
