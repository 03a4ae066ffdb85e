"""The variants of docs/guide/own-stream.md: bytes of real producers, understood without a setting.

Each variant holds the same eight images and, where a response is logged, the same answers, see `fixtures/make.py`.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from tta_agent.core.errors import ConfigError
from tta_agent.core.types import FOREIGN, Array, RawRecord, Record
from tta_agent.models import preprocessing
from tta_agent.models.outputs import LOGITS
from tta_agent.settings import env
from tta_agent.stream import factory
from tta_agent.stream.decoder import Decoder
from tta_agent.stream.input_check import InputCheck

HERE = Path(__file__).parent
VARIANTS: dict[str, dict[str, Any]] = json.loads((HERE / "fixtures/variants.json").read_text())
PAGE = HERE.parents[1] / "docs/guide/own-stream.md"
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SHAPE = (3, 4, 4)
PIXELS = np.random.default_rng(1).integers(0, 256, (8, *SHAPE), dtype=np.uint8)
X = (
    (PIXELS / np.float32(255) - np.float32(MEAN).reshape(3, 1, 1)) / np.float32(STD).reshape(3, 1, 1)
).astype(np.float32)
WEIGHTS = np.random.default_rng(2).normal(size=(5, 48)).astype(np.float32) / 4
WRONG = np.random.default_rng(3).normal(size=(5, 48)).astype(np.float32) / 4
PIXELS_ARE = "div255_mean_std"


def model(x: Array) -> Array:
    return np.asarray(x.reshape(len(x), -1) @ WEIGHTS.T)


Y_OF_SOURCE = model(X)


def raws(variant: Mapping[str, Any]) -> list[RawRecord]:
    def held(text: str | None) -> bytes | None:
        return None if text is None else b64decode(text)

    found = []
    for i, one in enumerate(variant["records"]):
        headers = tuple((name, held(value) or b"") for name, value in one["headers"])
        key, value = held(one["key"]), held(one["value"])
        found.append(RawRecord(one["topic"], 0, i, one["timestamp_ms"], key, value, headers))
    return found


def read(name: str, check: InputCheck | None, codec: str = "auto") -> list[Record]:
    variant = VARIANTS[name]
    if "file" in variant:
        with fsspec.open("memory://claims/abc.npy", "wb") as file:
            file.write(b64decode(variant["file"]))
    options = {"claim_check": {"allow": ["memory://claims/"]}, "image": variant.get("images", {})}
    settings = env.load(stream={"codec": codec, "options": options})
    opened = factory.open_codec(settings, variant.get("output"))
    decoder = Decoder(opened, SHAPE, 5, output=LOGITS, check=check)
    items = [*decoder.read(raws(variant)), *decoder.flush()]
    assert not decoder.refused, decoder.first
    assert all(isinstance(item, Record) for item in items)
    return items  # type: ignore[return-value]


def check(way: str = "auto", ask: Callable[[Array], Array] = model) -> InputCheck:
    return InputCheck(ask, LOGITS, MEAN, STD, way=way)


def comparable(name: str) -> bool:
    """Whether a variant holds answers of the source."""
    return VARIANTS[name].get("answers", "") is not None and VARIANTS[name].get("version") != "v1.2"


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_becomes_the_same_eight_records(name: str) -> None:
    variant = VARIANTS[name]
    pixels, checked = "form" in variant, check()
    if not comparable(name):  # eight records without an answer of the source would wait for more
        records = read(name, check=None)
        x = np.stack(
            [preprocessing.ways(MEAN, STD)[PIXELS_ARE if pixels else "as_is"](one.x) for one in records]
        )
    else:
        records = read(name, checked)
        x = np.stack([record.x for record in records])
        assert checked.reading is not None and checked.reading.verified
        assert checked.reading.prepare.way == (PIXELS_ARE if pixels else "as_is")
    assert [record.id for record in records] == [f"abc#{i}" for i in range(8)]
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, X, rtol=0, atol=variant.get("tolerance", 1e-5))
    assert not pixels or {record.form for record in records} == {variant["form"]}


@pytest.mark.parametrize("name", VARIANTS)
def test_answers_and_versions_of_each_variant(name: str) -> None:
    kind, version = VARIANTS[name].get("answers", "values"), VARIANTS[name].get("version", "0")
    records = read(name, check() if comparable(name) else None)
    if kind == "values":
        served = np.stack([record.served for record in records])  # type: ignore[misc]
        centred = [y - y.mean(1, keepdims=True) for y in (served, model(X))]
        np.testing.assert_allclose(*centred, atol=1e-3)
    else:
        classes = [None] * 8 if kind is None else model(X).argmax(1).tolist()
        assert [(record.served, record.named) for record in records] == [(None, one) for one in classes]
    expected = {"0": 0, "v1.2": FOREIGN, None: None}[version if kind is not None else None]
    assert {record.version for record in records} == {expected}


@pytest.mark.parametrize("name", [name for name in VARIANTS if comparable(name)])
def test_no_variant_is_learnt_from_where_the_answers_are_another_models(name: str) -> None:
    with pytest.raises(ConfigError, match=r"as_is .* \(\d+%\).*\n.*TTA_STREAM__INPUTS"):
        read(name, check(ask=lambda x: np.asarray(x.reshape(len(x), -1) @ WRONG.T)))


def test_the_page_names_each_variant() -> None:
    section = PAGE.read_text().partition("## What is read")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([a-z0-9_.]+)` \|", section, flags=re.MULTILINE)
    assert sorted(rows) == sorted(VARIANTS)
