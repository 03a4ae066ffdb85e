"""Coverage-guided fuzzing of the decoder and of every stage that its items pass: `make fuzz`.

An input is: which headers to begin with, one header to replace, with what, the record's timestamp, and the value.
Inputs that found new branches are kept in the folder given as argument and mutated further; libFuzzer's options
may follow it. Any exception ends the run with status 1 and leaves the input in a file.
"""

from __future__ import annotations

import json
import logging
import struct
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.exit(
        print("fuzz: skipped, atheris is not installed (it has wheels for Linux x86-64, Python 3.11 to 3.13)")
    )

with atheris.instrument_imports(include=["tta_agent.stream", "tta_agent.labels"]):
    from tests.stream import test_foreign_bytes as records
    from tta_agent.core.errors import DecodeError
    from tta_agent.labels.join import LabelJoiner
    from tta_agent.stream.codecs.cloudevents import KSERVE_REQUEST, LABEL, CloudEvents
    from tta_agent.stream.decoder import Decoder, dead_letter

HEAD = struct.Struct("<BBBq")  # templates, header, length of its new value, timestamp
TEMPLATES = [
    (),
    CloudEvents().encode_inference(
        "abc", records.X, records.Y, 3, source="s", model="m", time_s=records.NOW_S
    )[2],
    records.cloudevent_headers(KSERVE_REQUEST, "application/json"),
    records.cloudevent_headers(LABEL, "application/json"),
    (("content-type", b"application/cloudevents+json"),),
    *sorted({one.headers for one in records.PRODUCED if one.headers}),
]
FIRST = 5  # templates of our own
NAMES = [*records.HEADERS, "tta_dlq_reason", "x"]
DECODER = Decoder(records.CODEC, records.SHAPE, records.CLASSES)
JOIN = LabelJoiner(horizon_records=1000)


def record(data: bytes) -> records.RawRecord | None:
    """The record that the bytes stand for; None for too few of them."""
    if len(data) < HEAD.size:
        return None
    template, name, length, at_ms = HEAD.unpack_from(data)
    new, value = data[HEAD.size : HEAD.size + length], data[HEAD.size + length :]
    headers = dict(TEMPLATES[template % len(TEMPLATES)])
    if length:
        headers[NAMES[name % len(NAMES)]] = new
    return records.raw(value, headers.items(), at_ms=at_ms)


def try_one(data: bytes) -> None:
    """Called by libFuzzer."""
    found = record(data)
    if found is None:
        return
    items = [*DECODER.read([found]), *DECODER.flush()]
    if DECODER.refused["internal"]:
        raise AssertionError(f"{found} was refused as internal")
    dead_letter(found, DecodeError("why", DECODER.first))
    records.route(items, JOIN)


def seeds() -> Iterator[bytes]:
    """Well-formed inputs to begin with."""
    at_ms = int(records.NOW_S * 1000)
    bodies = [
        CloudEvents().encode_inference("abc", records.X, records.Y, 3, source="s", model="m", time_s=1.7e9)[
            1
        ],
        json.dumps(records.inference_head()).encode(),
        b'{"id":"abc","label":[0,1,2],"ts":1700000000.5}',
        b'{"id":"abc","label":1,"ts":"2023-11-14T22:13:20Z"}',
    ]
    for template in range(FIRST):
        for body in bodies:
            yield HEAD.pack(template, 0, 0, at_ms) + (body or b"")
    for one in records.PRODUCED:
        yield HEAD.pack(TEMPLATES.index(one.headers), 0, 0, at_ms) + (one.value or b"")


def main() -> None:
    """Fuzz until told to stop; `-max_total_time=SECONDS` is libFuzzer's."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds()):
        (corpus / f"seed-{number}").write_bytes(data)
    atheris.Setup(sys.argv, try_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
