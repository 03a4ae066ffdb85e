"""Wire formats: plain JSON, recognition, and which one is read and written under which setting."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.plugins.distribution import install
from tta_agent.core import plugins
from tta_agent.core.errors import ConfigError, DecodeError, PluginNotFound
from tta_agent.core.stream_protocols import Codec
from tta_agent.core.types import Label, RawRecord, Record, Shape
from tta_agent.settings import env
from tta_agent.settings.schema import Settings
from tta_agent.stream import factory
from tta_agent.stream.codecs import oip
from tta_agent.stream.codecs.auto import AutoCodec
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.stream.codecs.oip_json import OipJson

ALL = "cloudevents, mlserver, seldon, claim_check, image, npy, oip_binary, oip_json, oip_proto"
SHAPE, CLASSES = (1, 2, 2), 3
X = np.arange(8, dtype=np.float32).reshape(2, *SHAPE)
Y = np.array([[1, 2, 3], [3, 2, 1]], np.float32)


def raw(value: object, key: bytes | None = b"the key") -> RawRecord:
    body = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
    return RawRecord("t", 1, 7, 12_500, key, body)


def request(n: int = 1, **fields: object) -> dict[str, Any]:
    body, _ = oip.encode(oip.Body({"input": X[:n]}, {"logits": Y[:n]}, "abc", "m", "3"), binary=False)
    return {**json.loads(body), **fields}


def event(id: str = "e") -> RawRecord:
    message = CloudEvents().encode_inference(id, X[:1], None, None, source="s", model="m", time_s=1.0)
    return RawRecord("t", 0, 0, 0, *message)


def settings(codec: str, **options: Any) -> Settings:
    return env.load(stream={"codec": codec, "options": options})


def decode(value: object, key: bytes | None = b"the key") -> Sequence[Record | Label]:
    return OipJson().decode(raw(value, key), SHAPE, CLASSES)


def test_plain_json_is_an_inference() -> None:
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    record = replace(raw(request()), headers=(("traceparent", trace.encode()),))
    (found,) = OipJson().decode(record, SHAPE, CLASSES)
    assert isinstance(found, Record) and found.served is not None
    assert (found.id, found.key, found.version, found.time_s) == ("abc", "abc", 3, 12.5)
    assert (found.traceparent, found.topic, found.partition, found.offset) == (trace, "t", 1, 7)
    np.testing.assert_array_equal(found.x, X[0])
    np.testing.assert_array_equal(found.served, Y[0])
    assert [one.id for one in decode(request(2))] == ["abc#0", "abc#1"]


def test_the_key_names_what_has_no_id() -> None:
    (found,) = decode({name: value for name, value in request().items() if name != "id"})
    assert found.id == "the key"


def test_plain_json_is_a_label() -> None:
    assert decode({"id": "abc", "label": 2, "ts": 9}) == [Label("abc", 2, 9.0, "t", 1, 7)]
    assert [(one.id, one.time_s) for one in decode({"id": "abc", "label": [0, 1]})] == [
        ("abc#0", 12.5),
        ("abc#1", 12.5),
    ]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (raw({"inputs": []}), "input_count"),
        (raw({"inputs": []}, key=None), "id"),
        (raw({"inputs": []}, key=b"\xff"), "id"),
        (raw(request(model_version="v" * 600)), "model_version"),
        (raw(request(id=7)), "field"),
        (raw(b'{"inputs": '), "json"),
        (raw(oip.encode(oip.Body({"input": X}, {}, "abc"))[0]), "json"),
        (raw({"id": "abc", "label": "cat"}), "label_type"),
        (raw({"label": 1}), "label_id"),
        (raw(b'{"label": 1'), "label_json"),
        (raw(b"junk"), "label_json"),
    ],
)
def test_what_is_wrong_with_plain_json_is_named(record: RawRecord, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        OipJson().decode(record, SHAPE, CLASSES)
    assert caught.value.reason == reason


class Fake:
    """Recognises everything."""

    def __init__(self, by_headers: bool) -> None:
        self.by_headers = by_headers

    def recognises(self, raw: RawRecord) -> bool:
        return True

    def decode(self, raw: RawRecord, shape: Shape | None, classes: int | None) -> Sequence[Record | Label]:
        return [Label("headers" if self.by_headers else "value", 0, 0.0)]


def test_codecs_that_go_by_headers_are_asked_first_then_by_name() -> None:
    codecs: dict[str, Codec] = {"b": Fake(False), "z": Fake(True), "a": Fake(False), "y": Fake(True)}
    auto = AutoCodec(codecs)
    assert auto.names == ["y", "z", "a", "b"]
    assert auto.decode(raw(b"?"), None, None)[0].id == "headers"


def test_each_record_is_read_in_its_own_format_and_each_format_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    auto = factory.open_codec(settings("auto"))
    with caplog.at_level(logging.INFO):
        for record in (event("a"), raw(request()), event("b"), raw({"id": "c", "label": 1}), raw(request())):
            assert auto.recognises(record)
            auto.decode(record, SHAPE, CLASSES)
    told = [record.message for record in caplog.records]
    assert told == ["records of t are read as cloudevents", "records of t are read as oip_json"]


def test_a_damaged_record_is_refused_by_its_format_and_an_unknown_one_by_all() -> None:
    auto = factory.open_codec(settings("auto"))
    damaged = replace(event(), headers=tuple(h for h in event().headers if h[0] != "ce_id"))
    for record, reason, words in (
        (damaged, "no_id", "ce_id"),
        (raw(b"junk"), "unknown_format", rf"headers: \[\]; it begins b'junk'.*tried: {ALL}"),
        (raw(None), "empty", "no value"),
    ):
        with pytest.raises(DecodeError, match=words) as caught:
            auto.decode(record, SHAPE, CLASSES)
        assert caught.value.reason == reason
    assert not auto.recognises(raw(b"junk"))


def test_what_is_written_under_which_setting() -> None:
    for codec in ("auto", "cloudevents", "tta_agent.stream.codecs.cloudevents:CloudEvents"):
        assert isinstance(factory.open_writer(settings(codec)), CloudEvents)
    with pytest.raises(ConfigError, match="TTA_STREAM__CODEC=oip_json can only be read"):
        factory.open_writer(settings("oip_json"))
    assert isinstance(factory.open_writer(settings("oip_json"), or_default=True), CloudEvents)


def test_an_unknown_codec_and_options_that_do_not_fit() -> None:
    for opened in (factory.open_codec, factory.open_writer):
        with pytest.raises(
            PluginNotFound, match=r"no codec is called 'cloudevent'; did you mean cloudevents\?"
        ):
            opened(settings("cloudevent"))
        with pytest.raises(ConfigError, match=r"codec 'cloudevents' with options \{'strict': True\}"):
            opened(settings("cloudevents", cloudevents={"strict": True}))


def test_an_installed_codec_that_cannot_be_imported_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (install(tmp_path, "codecs", "codec", "broken", "FirstByte") / "toy_codec.py").write_text(
        "import nowhere"
    )
    monkeypatch.syspath_prepend(tmp_path)
    auto = factory.open_codec(settings("auto"))
    assert factory.codec_names(auto, settings("auto")) == (ALL)
    assert "codec broken is left out: cannot import 'toy_codec:FirstByte'" in caplog.text
    with pytest.raises(PluginNotFound, match="No module named 'nowhere'"):
        factory.open_codec(settings("broken"))
    assert "broken" in plugins.available("codecs")
    sys.modules.pop("toy_codec", None)
