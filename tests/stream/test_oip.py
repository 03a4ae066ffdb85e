"""Open Inference Protocol bodies."""

import json
from typing import Any

import numpy as np
import pytest

from tta_agent.core.errors import DecodeError
from tta_agent.stream.codecs import oip

DTYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def request(**changes: Any) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 3], "data": [0, 1, 2, 3, 4, 5]} | changes
    return json.dumps({"inputs": [{k: v for k, v in tensor.items() if v is not None}]}).encode()


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_datatype_comes_back(dtype: str, binary: bool) -> None:
    array = np.array([[0, 1, 1], [1, 0, 100]]).astype(dtype)
    body, length = oip.encode(oip.Body({"x": array}), binary=binary)
    assert (length is not None) == binary
    found = oip.decode(body, length).inputs["x"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_all_fields_come_back_with_and_without_the_head_length(binary: bool, known: bool) -> None:
    sent = oip.Body({"a": X, "b": X + 1}, {"y": X[:, :2]}, "näme", "m", "3", {"p": 1}, {"z": True, "w": None})
    body, length = oip.encode(sent, binary=binary)
    found = oip.decode(body, length if known else None)
    assert (found.id, found.model, found.version) == ("näme", "m", "3")
    assert found.parameters == {"p": 1}
    assert found.wanted == {"z": True, "w": None}
    assert list(found.inputs) == ["a", "b"]
    np.testing.assert_array_equal(found.inputs["b"], X + 1)
    np.testing.assert_array_equal(found.outputs["y"], X[:, :2])


def test_a_head_with_letters_outside_ascii_is_found_without_its_length() -> None:
    tensor = '{"name":"x","datatype":"FP32","shape":[2,3],"parameters":{"binary_data_size":24}}'
    head = f'{{"id":"ü€","inputs":[{tensor}]}}'
    found = oip.decode(head.encode() + X.tobytes(), None)
    assert found.id == "ü€"
    np.testing.assert_array_equal(found.inputs["x"], X)


def test_nested_data_and_space_after_the_json_are_read() -> None:
    found = oip.decode(request(data=[[0, 1, 2], [3, 4, 5]]) + b" \n", None)
    np.testing.assert_array_equal(found.inputs["x"], X)


def test_numpy_dtypes_without_a_name_cannot_be_encoded() -> None:
    with pytest.raises(TypeError, match="complex64"):
        oip.encode(oip.Body({"x": X.astype(np.complex64)}))


BINARY = {"data": None, "parameters": {"binary_data_size": 24}}
MALFORMED = {
    "json": b"\xff\xd8\xff not json",
    "not_object": b"[1, 2]",
    "tensors": b'{"inputs": {"name": "x"}}',
    "tensor": b'{"inputs": [3]}',
    "name": request(name=None),
    "duplicate_tensor": b'{"outputs": [{"name": "y"}, {"name": "y"}]}',
    "bytes_tensor": request(datatype="BYTES"),
    "datatype": request(datatype="BF16"),
    "shape": request(shape=[2, -3]),
    "no_data": request(data=None),
    "two_data": request(parameters={"binary_data_size": 24}),
    "data": request(data=[[0, 1, 2], [3]]),
    "data_count": request(data=[0, 1, 2]),
    "data_range": request(datatype="UINT8", data=[0, 1, 2, 3, 4, 256]),
    "binary_size": request(data=None, parameters={"binary_data_size": 25}) + bytes(25),
    "truncated": request(**BINARY) + bytes(23),
    "trailing": request(**BINARY) + X.tobytes() + b"abc",
    "parameters": b'{"parameters": 3}',
    "field": b'{"id": 3}',
}


@pytest.mark.parametrize("reason", MALFORMED)
def test_each_malformation_has_its_own_reason(reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        oip.decode(MALFORMED[reason], None)
    assert caught.value.reason == reason
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "body",
    [
        request(data=["a"] * 6),
        request(data=[True] * 6),
        request(datatype="INT32", data=[0.5] * 6),
        request(datatype="BOOL", data=[1] * 6),
        request(data=7, shape=[]),
        request(data=[10**400] * 6),
    ],
)
def test_data_of_the_wrong_kind_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        oip.decode(body, None)
    assert caught.value.reason == "data"


@pytest.mark.parametrize("shape", ["2,3", [2.0, 3], [True, 6], [1] * 40 + [6], [0, 2**70], None])
def test_odd_shapes_are_refused(shape: object) -> None:
    with pytest.raises(DecodeError) as caught:
        oip.decode(request(shape=shape, data=[]), None)
    assert caught.value.reason == "shape"


@pytest.mark.parametrize("length", [0, -1, 10_000])
def test_a_head_length_outside_the_body_is_refused(length: int) -> None:
    with pytest.raises(DecodeError) as caught:
        oip.decode(request(), length)
    assert caught.value.reason == "head_length"


def test_deep_nesting_is_a_refusal_and_not_a_crash() -> None:
    with pytest.raises(DecodeError):
        oip.decode(b'{"inputs": ' + b"[" * 100_000, None)


def test_damaged_bodies_never_raise_anything_else() -> None:
    body, length = oip.encode(oip.Body({"x": X}, {"y": X}, "id", "m", "1"))
    rng = np.random.default_rng(0)
    for _ in range(3000):
        damaged = bytearray(body)
        for at in rng.integers(0, len(body), rng.integers(1, 4)):
            damaged[at] = rng.integers(0, 256)
        cut = bytes(damaged[: rng.integers(1, len(body) + 1)])
        try:
            oip.decode(cut, length if rng.random() < 0.5 else None)
        except DecodeError as error:
            assert error.reason
