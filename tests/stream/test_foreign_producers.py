"""Edges of the formats of other producers: what is refused, with which reason, and how images are resized."""

from __future__ import annotations

import io
import json
import os
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tta_agent.core.errors import ConfigError, DecodeError
from tta_agent.core.types import FOREIGN, RawRecord, Record
from tta_agent.registry.names import VersionNames
from tta_agent.settings import env
from tta_agent.stream import factory
from tta_agent.stream.codecs import images, payloads, seldon
from tta_agent.stream.codecs.claim_check import ClaimCheck
from tta_agent.stream.codecs.downloads import AT_ONCE
from tta_agent.stream.codecs.images import ImagePreprocessing
from tta_agent.stream.codecs.oip_json import OipJson

X = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def claim(url: Any, codec: ClaimCheck) -> Record:
    raw = RawRecord("t", 0, 0, 1000, b"k", json.dumps({"id": "a", "data_ref": url}).encode())
    (found,) = codec.decode(raw, (3, 2, 2), 5)
    assert isinstance(found, Record)
    return found


def test_a_claim_is_fetched_only_from_where_it_may_be(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for where in ("logs/a.npy", "secret.npy", "logs-of-others.npy"):
        (tmp_path / where).write_bytes(npy(X))
    codec = ClaimCheck(allow=[f"file://{tmp_path}/logs"], max_bytes=1000)
    np.testing.assert_array_equal(claim(f"file://{tmp_path}/logs/a.npy", codec).x, X[0])
    refused = [
        f"file://{tmp_path}/secret.npy",
        f"file://{tmp_path}/logs/../secret.npy",
        f"file://{tmp_path}/logs/%2e%2e/secret.npy",
        f"file://{tmp_path}/logs-of-others.npy",
        f"simplecache::file://{tmp_path}/logs/a.npy",
        f"{tmp_path}/secret.npy",
    ]
    for url in refused:
        with pytest.raises(DecodeError, match="may not be read") as caught:
            claim(url, codec)
        assert caught.value.reason == "data_ref_prefix"
    with pytest.raises(DecodeError, match="none yet"):
        claim(f"file://{tmp_path}/logs/a.npy", ClaimCheck())


def test_a_claim_whose_file_does_not_come_is_left_behind(tmp_path: Path) -> None:
    stuck = tmp_path / "stuck.npy"
    os.mkfifo(stuck)  # opening it waits for a writer
    (tmp_path / "a.npy").write_bytes(npy(X))
    codec = ClaimCheck(allow=[f"file://{tmp_path}"], timeout_s=0.2)
    reasons = []
    for i in range(AT_ONCE + 1):
        with pytest.raises(DecodeError, match="do not come" if i == AT_ONCE else "did not come") as caught:
            claim(f"file://{stuck}", codec)
        reasons.append(caught.value.reason)
    assert set(reasons) == {"data_ref_timeout"}
    with pytest.raises(DecodeError, match="do not come"):
        claim(f"file://{tmp_path}/a.npy", codec)
    os.close(os.open(stuck, os.O_WRONLY))  # those that hang end
    for thread in threading.enumerate():
        if thread.name == "tta-download":
            thread.join(10)
    np.testing.assert_array_equal(claim(f"file://{tmp_path}/a.npy", codec).x, X[0])


def test_a_claim_that_is_too_large_or_not_there_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / "large.npy").write_bytes(npy(np.zeros(1000)))
    codec = ClaimCheck(allow=[f"file://{tmp_path}"], max_bytes=1000)
    for name, reason in (("large.npy", "data_ref_large"), ("nowhere.npy", "data_ref")):
        with pytest.raises(DecodeError) as caught:
            claim(f"file://{tmp_path}/{name}", codec)
        assert caught.value.reason == reason
    for url in (None, 7, "", "x" * 3000):
        with pytest.raises(DecodeError, match="expected a URL"):
            claim(url, codec)
    with pytest.raises(ConfigError, match="expected a list of prefixes"):
        factory.open_codec(env.load(stream={"options": {"claim_check": {"allow": "s3://bucket/"}}}))


@pytest.mark.parametrize("size", [(50, 37), (37, 50), (32, 32), (200, 40)])
@pytest.mark.parametrize("how", ["bicubic", "bilinear"])
def test_images_are_resized_as_timm_does_for_evaluation(size: tuple[int, int], how: Any) -> None:
    timm_data = pytest.importorskip("timm.data")
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    config = {"input_size": (3, 32, 32), "crop_pct": 0.875, "interpolation": how, "crop_mode": "center"}
    config |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    expected = timm_data.create_transform(**config)(Image.fromarray(pixels)).numpy() * 255
    if size == (32, 32):
        expected = pixels.transpose(2, 0, 1)  # of the model's size already: it stays as it was logged
    found = images.pixels(file.getvalue(), (3, 32, 32), ImagePreprocessing(**config))
    np.testing.assert_allclose(found, expected, atol=0.51)


def test_an_image_that_does_not_fit_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, "PNG")
    with pytest.raises(
        DecodeError, match=r"the image is 30 x 40, the model takes 8 x 8.*TTA_STREAM__OPTIONS"
    ):
        images.pixels(file.getvalue(), (3, 8, 8), ImagePreprocessing())
    assert images.pixels(file.getvalue(), (1, 30, 40), ImagePreprocessing()).shape == (1, 30, 40)
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    with pytest.raises(DecodeError) as caught:
        images.pixels(file.getvalue(), None, ImagePreprocessing())
    assert caught.value.reason == "image_large"
    with pytest.raises(ConfigError, match="image: crop_mode is 'middle'; valid: center, squash"):
        factory.open_codec(env.load(stream={"options": {"image": {"crop_mode": "middle"}}}))


@pytest.mark.parametrize(
    "value",
    [
        b"\x93NUMPY",
        npy(X)[:-1],
        npy(X) + b"x",
        npy(np.array([None], dtype=object)),
        npy(X).replace(b"(1, 3, 2, 2)", b"(10**9,3,2,)"),
    ],
)
def test_a_damaged_npy_file_is_refused(value: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        payloads.read(value, None)
    assert caught.value.reason == "npy"


def test_the_frame_of_a_schema_registry_with_message_indexes() -> None:
    head = struct.pack(">bI", 0, 17)
    assert seldon.unframed(head + b"\x00" + b"body") == b"body"
    assert seldon.unframed(head + b"\x04\x02\x04" + b"body") == b"body"
    assert seldon.unframed(b"body") == b"body"
    for damaged in (head, head + b"\xff\xff\xff\xff\xff\xff", head + b"\x03body"):
        with pytest.raises(DecodeError) as caught:
            seldon.unframed(damaged)
        assert caught.value.reason == "frame"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"instances": []}, "instances"),
        ({"instances": 7}, "instances"),
        ({"instances": [{"a": [1]}, {"b": [1]}]}, "instances"),
        ({"instances": [{"b64": 7}]}, "base64"),
        ({"instances": [{"b64": "aGVsbG8="}]}, "bytes_tensor"),
        ({"instances": [[[10**30]]]}, "data"),
        ({"instances": [[1], [1, 2]]}, "data"),
    ],
)
def test_what_is_wrong_with_instances_is_named(body: Any, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        OipJson().decode(RawRecord("t", 0, 0, 1000, b"k", json.dumps(body).encode()), None, None)
    assert caught.value.reason == reason


class Registry:
    """Of a source and one version that serves."""

    def aliases(self) -> dict[str, int | None]:
        return {"source": 0, "serving": 3, "previous": None}

    def numbers(self) -> list[int]:
        return [0, 3]

    def manifest(self, number: int) -> dict[str, Any]:
        return {"sha256": f"{number}bcdef0123456789"}


def test_names_of_versions() -> None:
    named = VersionNames(Registry(), "v1.2")  # type: ignore[arg-type]
    asked = (
        "v1.2",
        "7",
        "serving",
        "sha256:3bcdef01",
        "3BCDEF0123",
        "3bcdef",
        "previous",
        "v1.3",
        "bcdef012",
    )
    assert [named(name) for name in asked] == [0, 7, 3, 3, 3, *[FOREIGN] * 4]
