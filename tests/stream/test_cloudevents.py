"""The wire format: CloudEvents in Kafka binary mode."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tta_agent.core.errors import DecodeError
from tta_agent.core.exchange import LoggedRequest
from tta_agent.core.types import Array, Label, Message, RawRecord, Record
from tta_agent.stream.codecs import cloudevents as ce
from tta_agent.stream.codecs import oip
from tta_agent.stream.decoder import dead_letter

CODEC = ce.CloudEvents()
SHAPE, CLASSES = (1, 2, 2), 3
TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
X = np.arange(4, dtype=np.float32).reshape(1, *SHAPE)
Y = np.array([[1, 2, 3]], np.float32)


def raw(message: Message, **fields: Any) -> RawRecord:
    return RawRecord("t", 2, 40, 1_000_500, *message, **fields)


def inference(x: Array = X, y: Array | None = Y, **options: Any) -> RawRecord:
    given: dict[str, Any] = {"source": "s", "model": "m", "time_s": 1000.25} | options
    return raw(CODEC.encode_inference("abc", x, y, 3, **given))


def with_headers(record: RawRecord, **changes: bytes | None) -> RawRecord:
    headers = dict(record.headers) | {
        name.replace("content_type", "content-type"): v for name, v in changes.items()
    }
    return replace(record, headers=tuple((name, v) for name, v in headers.items() if v is not None))


def with_body(record: RawRecord, body: Any) -> RawRecord:
    value = body if isinstance(body, bytes) else json.dumps(body).encode()
    return with_headers(replace(record, value=value), ce_inferenceheadercontentlength=None)


def label(value: object, **fields: object) -> RawRecord:
    return with_body(
        raw(CODEC.encode_label("abc", 1, 2.0)), {"id": "abc", "label": value, "ts": 2.0} | fields
    )


def records(record: RawRecord) -> list[Record]:
    found = CODEC.decode(record, SHAPE, CLASSES)
    found = [one for item in found for one in (item.records if isinstance(item, LoggedRequest) else [item])]
    assert all(isinstance(item, Record) for item in found)
    return found  # type: ignore[return-value]


def reason(record: RawRecord) -> str:
    with pytest.raises(DecodeError) as caught:
        CODEC.decode(record, SHAPE, CLASSES)
    assert 0 < len(str(caught.value)) < 600
    return caught.value.reason


def test_an_inference_comes_back() -> None:
    (found,) = records(inference(traceparent=TRACE, entity="camera 7"))
    assert (found.id, found.time_s, found.version, found.key) == ("abc", 1000.25, 3, "camera 7")
    assert (found.traceparent, found.identity) == (TRACE, ("s", "abc", ce.INFERENCE))
    assert (found.topic, found.partition, found.offset) == ("t", 2, 40)
    assert found.x.dtype == np.float32 and found.x.flags.writeable
    np.testing.assert_array_equal(found.x, X[0])
    assert found.served is not None
    np.testing.assert_array_equal(found.served, Y[0])


def test_headers_are_cloudevents_in_binary_mode() -> None:
    key, _, headers = CODEC.encode_inference(
        "abc", X, Y, 3, source="s", model="m", time_s=0.0, traceparent=TRACE
    )
    named = dict(headers)
    assert key == b"abc"
    assert named["content-type"] == b"application/octet-stream"
    assert named["ce_time"] == b"1970-01-01T00:00:00.000000Z"
    assert (named["ce_specversion"], named["ce_modelname"], named["ce_modelversion"]) == (b"1.0", b"m", b"3")
    assert named["traceparent"] == TRACE.encode()
    assert int(named["ce_inferenceheadercontentlength"]) > 0


def test_samples_of_one_record_have_numbered_ids_and_share_a_key() -> None:
    found = records(inference(np.concatenate([X, X + 1]), np.concatenate([Y, Y + 1])))
    assert [record.id for record in found] == ["abc#0", "abc#1"]
    assert {record.key for record in found} == {"abc"}
    assert len({record.identity for record in found}) == 2
    assert all(record.x.base is None for record in found), "a sample must not hold the batch"
    np.testing.assert_array_equal(found[1].x, X[0] + 1)


def test_without_answers_version_and_entity() -> None:
    message = CODEC.encode_inference("abc", X, None, None, source="s", model="m", time_s=1.0)
    (found,) = records(raw(message))
    assert found.served is None and found.version is None and found.key == "abc" and found.traceparent is None


def test_a_kserve_request_in_json_is_read() -> None:
    body, _ = oip.encode(oip.Body({"x": X}), binary=False)
    kserve = with_body(inference(), body)
    kserve = with_headers(
        kserve,
        ce_type=ce.KSERVE_REQUEST.encode(),
        content_type=b"application/json; charset=utf-8",
        ce_time=None,
    )
    (found,) = records(kserve)
    assert found.served is None and found.version is None
    assert found.time_s == 1000.5, "without ce_time the record's timestamp counts"
    np.testing.assert_array_equal(found.x, X[0])


@pytest.mark.parametrize("dtype", ["u1", "i8", "f2", "f8"])
def test_numbers_of_any_dtype_become_float32(dtype: str) -> None:
    (found,) = records(inference(X.astype(dtype)))
    assert found.x.dtype == np.float32
    np.testing.assert_array_equal(found.x, X[0])


def test_none_in_the_shape_takes_any_size() -> None:
    wide = np.zeros((1, 1, 2, 9), np.float32)
    (found,) = CODEC.decode(inference(wide), (1, 2, None), CLASSES)
    assert isinstance(found, Record) and found.x.shape == (1, 2, 9)


@pytest.mark.parametrize("time", [b"2026-01-01T00:00:00Z", b"2026-01-01T01:00:00.123456789+01:00"])
def test_times_of_other_producers_are_read(time: bytes) -> None:
    (found,) = records(with_headers(inference(), ce_time=time))
    assert int(found.time_s) == 1767225600


def test_a_malformed_trace_context_is_ignored() -> None:
    (found,) = records(with_headers(inference(), traceparent=b"zz"))
    assert found.traceparent is None


def test_labels_come_back() -> None:
    (one,) = CODEC.decode(raw(CODEC.encode_label("abc", 2, 12.5)), SHAPE, CLASSES)
    assert one == Label("abc", 2, 12.5, "t", 2, 40)
    many = CODEC.decode(raw(CODEC.encode_label("abc", [2, 0], 12.5)), SHAPE, CLASSES)
    assert [(item.id, item.label) for item in many if isinstance(item, Label)] == [("abc#0", 2), ("abc#1", 0)]
    (dated,) = CODEC.decode(label(1, ts="1970-01-01T00:00:05Z"), SHAPE, CLASSES)
    assert dated.time_s == 5.0
    (undated,) = CODEC.decode(with_headers(label(1, ts=None), ce_time=None), SHAPE, CLASSES)
    assert undated.time_s == 1000.5


def tensor(name: str, array: Array) -> dict[str, Any]:
    return {"name": name, "datatype": "FP64", "shape": list(array.shape), "data": array.ravel().tolist()}


def both(x: Array, y: Array) -> RawRecord:
    """An inference that our own encoder would not write."""
    return with_body(inference(), {"inputs": [tensor("x", x)], "outputs": [tensor("y", y)]})


BAD_X = np.array([np.nan, 1, 2, 3]).reshape(X.shape)
TWO = {"inputs": [tensor("a", X), tensor("b", X)]}
MALFORMED = {
    "empty": replace(inference(), value=None),
    "not_cloudevent": replace(inference(), headers=()),
    "structured": with_headers(inference(), content_type=b"application/cloudevents+json"),
    "specversion": with_headers(inference(), ce_specversion=b"0.3"),
    "header_twice": replace(inference(), headers=(*inference().headers, ("ce_id", b"b"))),
    "no_id": with_headers(inference(), ce_id=None),
    "no_source": with_headers(inference(), ce_source=b""),
    "no_type": with_headers(inference(), ce_type=None),
    "type": with_headers(inference(), ce_type=b"com.example.unknown"),
    "id": with_headers(inference(), ce_id=b"x" * 600),
    "headers": with_headers(inference(), ce_source=b"\xff"),
    "content_type": with_headers(inference(), content_type=b"image/png"),
    "time": with_headers(inference(), ce_time=b"yesterday"),
    "modelversion": with_headers(with_body(both(X, Y), both(X, Y).value), ce_modelversion=b"v" * 600),
    "version_differs": with_headers(inference(), ce_modelversion=b"4"),
    "entitykey": with_headers(inference(), ce_entitykey=b"k" * 600),
    "inferenceheadercontentlength": with_headers(inference(), ce_inferenceheadercontentlength=b"-7"),
    "head_length": with_headers(inference(), ce_inferenceheadercontentlength=b"100000"),
    "json": with_headers(inference(), ce_inferenceheadercontentlength=b"10"),
    "truncated": replace(inference(), value=(inference().value or b"")[:-1]),
    "trailing": replace(inference(), value=(inference().value or b"") + b"x"),
    "input_count": with_body(inference(), TWO),
    "input_dtype": inference(X.astype(bool)),
    "input_rank": inference(X[0]),
    "input_shape": inference(X.reshape(1, 1, 4, 1)),
    "input_empty": inference(X[:0], Y[:0]),
    "input_finite": both(BAD_X, Y),
    "output_rank": inference(X, Y[0]),
    "output_count": inference(X, np.concatenate([Y, Y])),
    "output_classes": inference(X, Y[:, :2]),
    "output_dtype": inference(X, Y.astype(bool)),
    "output_finite": both(X, np.array([[1e300, 0, 0]])),
    "label_json": with_body(label(1), b"{"),
    "label_object": with_body(label(1), {"id": "abc"}),
    "label_empty": label([]),
    "label_type": label("cat"),
    "label_range": label(CLASSES),
    "label_id": label(1, id=7),
    "label_time": label(1, ts="noon"),
}


@pytest.mark.parametrize("expected", MALFORMED)
def test_each_malformation_has_its_own_reason(expected: str) -> None:
    assert reason(MALFORMED[expected]) == expected


def test_there_are_many_of_them() -> None:
    assert len(MALFORMED) >= 20


@pytest.mark.parametrize("value", [True, 1.0, None, [1, "2"], {"a": 1}])
def test_labels_that_are_no_integers_are_refused(value: object) -> None:
    assert reason(label(value)) == "label_type"


@pytest.mark.parametrize("ts", [True, float("inf"), 1e20, [], "2026-01-01T00:00:00"])
def test_label_times_without_a_meaning_are_refused(ts: object) -> None:
    assert reason(label(1, ts=ts)) == "label_time"


def test_a_message_names_the_value_and_what_was_expected() -> None:
    with pytest.raises(DecodeError, match=r"\[4, 1, 1\].*expected \[1, 2, any\]"):
        CODEC.decode(inference(X.reshape(1, 4, 1, 1)), (1, 2, None), CLASSES)
    with pytest.raises(DecodeError, match="label is 3; expected 0 to 2"):
        CODEC.decode(label(3), SHAPE, CLASSES)


def test_a_dead_letter_keeps_the_record_and_says_why() -> None:
    record = replace(inference(), headers=(*inference().headers, ("tta_dlq_reason", b"older")))
    key, value, headers = dead_letter(record, DecodeError("json", "not JSON: ü" + "x" * 5000))
    named = dict(headers)
    assert (key, value) == (record.key, record.value)
    assert headers[: len(record.headers) - 1] == record.headers[:-1]
    assert [text for name, text in headers if name == "tta_dlq_reason"] == [b"json"]
    assert named["tta_dlq_topic"] == b"t" and named["tta_dlq_partition"] == b"2"
    assert named["tta_dlq_offset"] == b"40" and named["tta_dlq_time"].endswith(b"Z")
    assert (
        named["tta_dlq_exception"].startswith("not JSON: ü".encode())
        and len(named["tta_dlq_exception"]) < 2000
    )


def test_a_dead_letter_can_be_replayed() -> None:
    letter = raw(dead_letter(inference(), DecodeError("time", "was wrong")))
    assert records(letter)[0].id == "abc"


def test_damaged_records_never_raise_anything_else() -> None:
    rng = np.random.default_rng(0)
    for _ in range(2000):
        headers = [(name, bytearray(value)) for name, value in inference().headers]
        value = bytearray(inference().value or b"")
        for _ in range(rng.integers(1, 4)):
            part = value if rng.random() < 0.5 else headers[rng.integers(len(headers))][1]
            part[rng.integers(len(part))] = rng.integers(0, 256)
        damaged = replace(
            inference(), value=bytes(value), headers=tuple((name, bytes(text)) for name, text in headers)
        )
        try:
            CODEC.decode(damaged, SHAPE, CLASSES)
        except DecodeError as error:
            assert error.reason
