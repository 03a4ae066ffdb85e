"""Foreign bytes: each field of each kind of record is replaced by anything, and no stage may raise."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.stream.test_variants import VARIANTS, raws
from tta_agent.core.errors import DecodeError
from tta_agent.core.types import Label, RawRecord, Record
from tta_agent.labels.join import LabelJoiner
from tta_agent.labels.requests import LabelRequester, to_file
from tta_agent.pipeline import checkpoint
from tta_agent.settings import env
from tta_agent.stream import factory
from tta_agent.stream.batcher import Batcher
from tta_agent.stream.codecs import oip
from tta_agent.stream.codecs.cloudevents import INFERENCE, KSERVE_REQUEST, LABEL, CloudEvents
from tta_agent.stream.decoder import Decoder, dead_letter
from tta_agent.stream.embedded.rows import headers_from_text, headers_to_text
from tta_agent.stream.router import RecordRouter

CODEC = factory.open_codec(env.load(stream={"options": {"claim_check": {"allow": ["memory://claims/"]}}}))
SHAPE, CLASSES = (1, 2, 2), 3
NOW_S = 1_700_000_000.0
X = np.arange(4, dtype=np.float32).reshape(1, *SHAPE)
Y = np.array([[1, 2, 3]], np.float32)

# -- anything ------------------------------------------------------------------------------------------------------

surrogates = st.characters(categories=["Cs"])
texts = st.one_of(
    st.text(max_size=20),
    st.text(surrogates, min_size=1, max_size=3),
    st.sampled_from(["", "\x00", "0" * 600, "a\nb", "日本", "1" * 19, "-1", "NaN", "1970-01-01T00:00:00Z"]),
    st.datetimes().map(lambda moment: moment.isoformat() + "+23:59"),
)
numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([10**400, -(10**400), 2**63, -(2**63) - 1, 1e308, NOW_S * 1000, -0.0, 2**31]),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)
chunks = st.one_of(st.binary(max_size=64), texts.map(lambda text: text.encode(errors="surrogatepass")))
headers = st.lists(
    st.tuples(
        st.one_of(
            st.sampled_from(["ce_id", "CE_ID", "ce_time", "ce_data", "content-type", "traceparent", "ce_"]),
            st.text(max_size=8),
        ),
        chunks,
    ),
    max_size=4,
)
moments_ms = st.one_of(st.just(int(NOW_S * 1000)), st.integers(-(2**63), 2**63 - 1))


def written(value: Any) -> bytes:
    return json.dumps(value).encode()


# -- kinds of records, by the fields that may be replaced ----------------------------------------------------------


def tensor(**change: Any) -> dict[str, Any]:
    return {"name": "input", "datatype": "FP32", "shape": [1, *SHAPE], "data": X.ravel().tolist(), **change}


def inference_head(**change: Any) -> dict[str, Any]:
    logits = {"name": "logits", "datatype": "FP32", "shape": [1, 3], "data": [1.0, 2.0, 3.0]}
    head = {"id": "abc", "model_name": "m", "model_version": "3", "inputs": [tensor()], "outputs": [logits]}
    return {**head, **change}


def cloudevent_headers(kind: str, content: str, **change: bytes | None) -> tuple[tuple[str, bytes], ...]:
    named: dict[str, bytes | None] = {
        "ce_specversion": b"1.0", "ce_id": b"abc", "ce_source": b"s", "ce_type": kind.encode(),
        "ce_time": b"2023-11-14T22:13:20Z", "content-type": content.encode(), **change,
    }  # fmt: skip
    return tuple((name, value) for name, value in named.items() if value is not None)


def raw(value: bytes | None, heads: Any = (), *, key: bytes | None = b"abc", at_ms: int = int(NOW_S * 1000)):
    return RawRecord("t", 0, 7, at_ms, key, value, tuple(heads))


HEADERS = [
    "ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type", "ce_modelversion", "ce_modelname",
    "ce_entitykey", "ce_tenant", "ce_inferenceheadercontentlength", "ce_traceparent", "traceparent",
]  # fmt: skip
HEAD_FIELDS = ["id", "model_name", "model_version", "inputs", "outputs", "parameters"]
TENSOR_FIELDS = ["name", "datatype", "shape", "data", "parameters"]
LABEL_FIELDS = ["id", "label", "ts"]


@st.composite
def binary_inferences(draw: st.DrawFn) -> RawRecord:
    """CloudEvents in binary mode with raw buffers; a header, a field of the head, or the buffers replaced."""
    key, value, heads = CloudEvents().encode_inference(
        "abc",
        X,
        Y,
        3,
        source="s",
        model="m",
        time_s=NOW_S,
        entity="e",
        traceparent=f"00-{1:032x}-{1:016x}-01",
    )
    assert value is not None
    where = draw(st.sampled_from(["header", "more", "head", "buffers", "cut", "key"]))
    named: dict[str, bytes | None] = dict(heads)
    if where == "header":
        named[draw(st.sampled_from(HEADERS))] = draw(st.one_of(st.none(), chunks))
    kept = tuple((name, part) for name, part in named.items() if part is not None)
    if where == "more":
        kept += tuple(draw(headers))
    if where == "head":
        start = int(dict(heads)["ce_inferenceheadercontentlength"])
        head = json.loads(value[:start])
        target = draw(st.sampled_from([head, *head["inputs"], *head["outputs"]]))
        target[draw(st.sampled_from(sorted({*target, *HEAD_FIELDS})))] = draw(anything)
        value = written(head) + value[start:]
        kept = tuple(pair for pair in kept if pair[0] != "ce_inferenceheadercontentlength")
    if where == "buffers":
        value = value[: -len(X.tobytes())] + draw(st.binary(max_size=40))
    if where == "cut":
        value = value[: draw(st.integers(0, len(value)))]
    return raw(value, kept, key=draw(chunks) if where == "key" else key, at_ms=draw(moments_ms))


@st.composite
def json_inferences(draw: st.DrawFn) -> RawRecord:
    """The body as JSON, in CloudEvents (binary, structured, KServe's) or alone."""
    head = inference_head()
    if draw(st.booleans()):
        head[draw(st.sampled_from(HEAD_FIELDS))] = draw(anything)
    else:
        side = draw(st.sampled_from(["inputs", "outputs"]))
        head[side][0][draw(st.sampled_from(TENSOR_FIELDS))] = draw(anything)
    envelope = draw(st.sampled_from(["alone", "binary", "kserve", "structured"]))
    if envelope == "alone":
        return raw(written(head), key=draw(st.one_of(st.none(), chunks)), at_ms=draw(moments_ms))
    if envelope == "structured":
        event = {"specversion": "1.0", "id": "a", "source": "s", "type": INFERENCE, "data": head}
        event[draw(st.sampled_from([*event, "time", "data_base64"]))] = draw(anything)
        return raw(written(event), [("content-type", b"application/cloudevents+json")])
    kind = KSERVE_REQUEST if envelope == "kserve" else INFERENCE
    named = cloudevent_headers(kind, "application/json", ce_time=draw(st.one_of(st.none(), chunks)))
    return raw(written(head), named, at_ms=draw(moments_ms))


@st.composite
def labels(draw: st.DrawFn) -> RawRecord:
    """Labels of one sample and of many, in CloudEvents or alone."""
    body: dict[str, Any] = {"id": "abc", "label": draw(st.sampled_from([1, [0, 1, 2]])), "ts": NOW_S}
    body[draw(st.sampled_from(LABEL_FIELDS))] = draw(st.one_of(anything, st.lists(scalars, max_size=5)))
    for name in draw(st.sets(st.sampled_from(LABEL_FIELDS), max_size=1)):
        del body[name]
    if draw(st.booleans()):
        return raw(written(body), at_ms=draw(moments_ms))
    name = draw(st.sampled_from(["ce_id", "ce_source", "ce_time", "content-type", "ce_type"]))
    named = cloudevent_headers(LABEL, "application/json", **{name: draw(st.one_of(st.none(), chunks))})
    return raw(written(body), named, at_ms=draw(moments_ms))


PRODUCED = [one for variant in VARIANTS.values() for one in raws(variant)]


@st.composite
def produced(draw: st.DrawFn) -> RawRecord:
    """A record of a real producer, its bytes cut or replaced; or with another header, key or topic."""
    record = draw(st.sampled_from(PRODUCED))
    value, where = (
        record.value or b"",
        draw(st.sampled_from(["value", "value", "cut", "header", "key", "topic"])),
    )
    if where == "value":
        at = draw(st.integers(0, len(value)))
        value = value[:at] + draw(chunks) + value[at + draw(st.integers(0, 8)) :]
    if where == "cut":
        value = value[: draw(st.integers(0, len(value)))]
    named: list[tuple[str, bytes]] = list(record.headers)
    if where == "header" and named:
        at = draw(st.integers(0, len(named) - 1))
        named[at] = (named[at][0], draw(chunks))
    key = draw(st.one_of(st.none(), chunks)) if where == "key" else record.key
    names = [record.topic, "t", "mlserver-output", "a.b.model.c.inputs", "a.b.model.c.outputs", "responses"]
    topic = draw(st.sampled_from(names)) if where == "topic" else record.topic
    return replace(record, topic=topic, value=value, headers=tuple(named), key=key)


@st.composite
def noise(draw: st.DrawFn) -> RawRecord:
    """No structure at all."""
    value = draw(st.one_of(st.none(), st.binary(max_size=100), anything.map(written)))
    return raw(value, draw(headers), key=draw(st.one_of(st.none(), chunks)), at_ms=draw(moments_ms))


# -- the property --------------------------------------------------------------------------------------------------


def passes(record: RawRecord, folder: Path, shape: Any = SHAPE, classes: int | None = CLASSES) -> None:
    """Decode it to items or to a DecodeError; then it passes routing, join, checkpoint and dead-lettering."""
    decoder = Decoder(CODEC, shape, classes)
    items = [*decoder.read_portion(deque([record])), *decoder.flush()]
    assert not decoder.refused["internal"], decoder.first
    assert bool(items) != bool(decoder.refused)
    letter = dead_letter(record, DecodeError("why", decoder.first or "\ud800"))
    assert headers_from_text(headers_to_text(letter[2])) == letter[2]
    with contextlib.closing(LabelJoiner()) as join:
        resumed(route(items, join), folder)
    ask([item for item in items if isinstance(item, Record)], folder)


def route(items: list[Record | Label], join: LabelJoiner) -> dict[str, Any]:
    """State of the checkpoint, once they are routed and batched."""
    router = RecordRouter(join, 0.5, 600.0, lambda: NOW_S)
    piles = router.sort([*items, *items])
    assert not piles.dropped["internal"]
    batcher = Batcher(4096, 1.0)
    batcher.full(piles.teach, lambda: NOW_S)
    router.flush()
    return {"done": router.dealt_with({("t", 0): 0}), "positions": batcher.oldest()}


def resumed(state: dict[str, Any], folder: Path) -> None:
    checkpoint.save(folder / "checkpoint.pt", "f", state)
    again = checkpoint.load(folder / "checkpoint.pt", "f")
    assert again is not None and again["positions"] == state["positions"]
    assert list(map(tuple, again["done"])) == state["done"]


def ask(records: list[Record], folder: Path) -> None:
    asker = LabelRequester(to_file(folder / "requests.jsonl"), bucket_s=60.0)
    for request in asker.consider(records, [0] * len(records), [1] * len(records), NOW_S):
        CloudEvents().encode_label_request(request.id, {"id": request.id}, request.ts)


QUICK = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    print_blob=True,
)


@settings(QUICK, max_examples=300)
@given(produced())
def test_what_other_producers_write(tmp_path: Path, record: RawRecord) -> None:
    passes(record, tmp_path, (3, 4, 4), 5)


@QUICK
@given(binary_inferences())
def test_inferences_in_cloudevents(tmp_path: Path, record: RawRecord) -> None:
    passes(record, tmp_path)


@QUICK
@given(json_inferences(), st.booleans())
def test_inferences_in_json(tmp_path: Path, record: RawRecord, known: bool) -> None:
    passes(record, tmp_path, *((SHAPE, CLASSES) if known else (None, None)))


@QUICK
@given(labels(), st.booleans())
@example(raw(b'{"id":"\\ud800","label":1}'), True)
@example(raw(b'{"id":"a","label":1,"ts":1' + b"0" * 400 + b"}"), True)
@example(raw(b'{"id":"a","label":1' + b"0" * 400 + b"}"), False)
@example(raw(b'{"id":"a","label":1,"ts":NaN}'), True)
def test_labels(tmp_path: Path, record: RawRecord, known: bool) -> None:
    passes(record, tmp_path, SHAPE, CLASSES if known else None)


@QUICK
@given(noise())
def test_noise(tmp_path: Path, record: RawRecord) -> None:
    passes(record, tmp_path)


def reason(record: RawRecord, classes: int | None = CLASSES, shape: Any = SHAPE) -> str:
    with pytest.raises(DecodeError) as caught:
        CODEC.decode(record, shape, classes)
    assert len(str(caught.value)) < 1000
    return caught.value.reason


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"id":"\\ud800","label":1}', "label_id"),
        (b'{"id":"a","label":1,"ts":1' + b"0" * 400 + b"}", "label_time"),
        (b'{"id":"a","label":1,"ts":1e400}', "label_time"),
        (b'{"id":"a","label":1,"ts":1700000000000}', "label_time"),
        (b'{"id":"a","label":1,"ts":-1}', "label_time"),
        (b'{"id":"a","label":1,"ts":"9999-12-31T23:59:59Z"}', "label_time"),
        (b'{"id":"a","label":' + b"9" * 400 + b"}", "label_range"),
        (b'{"id":"a","label":' + b"9" * 5000 + b"}", "label_json"),
        (b'{"id":"a","label":' + b"[" * 100_000, "label_json"),
        (b'{"id":"a","label":[' + b"0," * 4096 + b"0]}", "label_samples"),
        (b'{"id":"' + b"a" * 600 + b'","label":1}', "label_id"),
    ],
)
@pytest.mark.parametrize("classes", [3, None])
def test_labels_are_bounded(body: bytes, expected: str, classes: int | None) -> None:
    assert reason(raw(body), classes) == expected


@pytest.mark.parametrize("field", ["id", "model_name", "model_version"])
def test_half_a_surrogate_pair_is_no_text(field: str) -> None:
    assert reason(raw(written(inference_head(**{field: "\ud800"})))) in ("id", "model_name", "model_version")


@pytest.mark.parametrize("at_ms", [-1, 2**62, -(2**63), int(5e12)])
def test_a_record_s_own_timestamp_is_checked_where_it_counts(at_ms: int) -> None:
    assert reason(raw(b'{"id":"a","label":1}', at_ms=at_ms)) == "timestamp"
    assert reason(raw(written(inference_head()), at_ms=at_ms)) == "timestamp"


def test_long_strings_in_data_take_no_room() -> None:
    """An array of strings has room for the longest of them, once for each: 60 GB here."""
    data = ["a" * 500_000, *["b"] * 30_000]
    assert reason(raw(written(inference_head(inputs=[tensor(data=data)])))) == "data"


def test_a_few_bytes_do_not_become_a_million_samples() -> None:
    many = {"name": "input", "datatype": "UINT8", "shape": [1_000_000, 1]}
    body = oip.encode(oip.Body({"input": np.zeros((1_000_000, 1), np.uint8)}))[0]
    named = cloudevent_headers(INFERENCE, "application/octet-stream")
    assert reason(raw(body, named), shape=(1,)) == "input_samples"
    empty = written(inference_head(inputs=[{**many, "shape": [10**9, 0], "data": []}], outputs=[]))
    assert reason(raw(empty), shape=(None,)) in ("input_samples", "input_shape")


@pytest.mark.parametrize("sizes", [[10**400], [2**63, 2**63], [0, 2**62, 2**62], [10**200] * 32])
def test_absurd_shapes_are_refused(sizes: list[int]) -> None:
    assert reason(raw(written(inference_head(inputs=[tensor(shape=sizes, data=[])])))) in (
        "shape",
        "data_count",
    )
    parameters = {"binary_data_size": 16}
    cut = {key: value for key, value in tensor(shape=sizes, parameters=parameters).items() if key != "data"}
    body = written(inference_head(inputs=[cut])) + bytes(16)
    named = cloudevent_headers(INFERENCE, "application/octet-stream")
    assert reason(raw(body, named)) in ("shape", "binary_size")


class Stumbling:
    """A codec with a mistake of its own."""

    def __init__(self, what: Any) -> None:
        self.what = what

    def recognises(self, record: RawRecord) -> bool:
        return True

    def decode(self, record: RawRecord, shape: Any, classes: Any) -> list[Any]:
        if isinstance(self.what, Exception):
            raise self.what
        return [self.what]


SOUND = ("a", NOW_S, X[0], Y[0], 3, "k", None, "t", 0, 7, ("s", "a", "t"), "k")
UNSOUND = [
    ZeroDivisionError("x"), MemoryError("y"), RecursionError("z"), None,
    Label("\ud800", 1, NOW_S), Label("a", 10**400, NOW_S), Label("a", 1, float("nan")),
    Record(*SOUND[:4], 2**70, *SOUND[5:]), Record(*SOUND[:5], "\ud800", *SOUND[6:]),
    Record(*SOUND[:2], X, *SOUND[3:]),
]  # fmt: skip


@pytest.mark.parametrize("what", UNSOUND, ids=lambda what: type(what).__name__)
def test_what_a_codec_does_wrong_is_a_dead_letter_too(what: Any, caplog: pytest.LogCaptureFixture) -> None:
    decoder = Decoder(Stumbling(what), SHAPE, CLASSES)
    assert decoder.read([raw(b"x"), raw(b"y")]) == []
    assert decoder.refused == {"internal": 2}
    assert caplog.text.count("Traceback") == 1


class Broken(LabelJoiner):
    def arrive(self, label: Label) -> Any:
        if label.id == "bad":
            raise OverflowError("too large for SQLite")
        return super().arrive(label)


def test_what_cannot_be_routed_is_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    router = RecordRouter(Broken(), 0.5, 600.0, lambda: NOW_S)
    piles = router.sort([Label("bad", 1, NOW_S), Label("a", 1, NOW_S), Label("bad", 1, NOW_S)])
    assert [label.id for label in piles.labels] == ["a"]
    assert piles.dropped == {"internal": 2}
    assert caplog.text.count("Traceback") == 1
