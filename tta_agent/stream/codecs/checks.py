"""Checks and conversions of decoded tensors, labels and times to what a model takes.

Letters: N samples in one record, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np

from tta_agent.core.errors import ConfigError, DecodeError
from tta_agent.core.types import Array
from tta_agent.models.outputs import choose
from tta_agent.stream.codecs.datatypes import show

MAX_TEXT = 512  # characters of an id or key: records are held by the ten thousand
MAX_SAMPLES = (
    4096  # of one request, and so of its list of labels: a byte of a record may become a thousand in memory
)
MAX_LABEL = 2**31 - 1  # where the number of classes is not known
LATEST_S = 4_102_444_800.0  # the year 2100: a time in milliseconds lies beyond it


def only(tensors: Mapping[str, Array], side: str) -> Array:
    """The single tensor of `inputs` or `outputs`."""
    if len(tensors) != 1:
        names = show(list(tensors))
        raise DecodeError(f"{side}_count", f"{len(tensors)} tensors in {side} {names}; expected exactly one")
    return next(iter(tensors.values()))


def answer(tensors: Mapping[str, Array], wanted: str | None) -> Array:
    """The tensor of `outputs` that is the model's answer.

    Args:
        wanted: its name, where the model has several outputs; else the only one of the form [N, C].
    """
    if len(tensors) < 2:
        return only(tensors, "output")
    try:
        return tensors[choose({name: array.shape for name, array in tensors.items()}, wanted, "the record")]
    except ConfigError as error:
        raise DecodeError("output_count", str(error).replace("\n", " ")) from None


def samples(x: Array, shape: tuple[int | None, ...] | None) -> Array:
    """Inputs as float32 [N, *shape]: a copy, writable.

    Args:
        x: inputs of any numeric dtype.
        shape: of one sample as the model takes it; None stands for any size, or for any shape at all.
    """
    shape = (None,) * max(x.ndim - 1, 1) if shape is None else shape
    if x.ndim != len(shape) + 1:
        expected = f"{len(shape) + 1}: samples, then {_sizes(shape)}"
        raise DecodeError("input_rank", f"input has {x.ndim} dimensions {list(x.shape)}; expected {expected}")
    if x.shape[0] == 0:
        raise DecodeError(
            "input_empty", f"input of shape {list(x.shape)} holds no sample; expected at least 1"
        )
    count(x.shape[0], "input_samples")
    if 0 in x.shape or any(want not in (None, have) for have, want in zip(x.shape[1:], shape, strict=True)):
        raise DecodeError("input_shape", f"samples have shape {list(x.shape[1:])}; expected {_sizes(shape)}")
    return _finite(x, "input")


def logits(y: Array, count: int, classes: int | None) -> Array:
    """The outputs as they were answered, float32 [N, C], or [N, 1] of a model of two classes.

    Trailing axes of size 1 are dropped; [N] is [N, 1].
    """
    single = y.shape == (count,) and classes in (None, 2)
    if not single and (y.ndim < 2 or any(size != 1 for size in y.shape[2:])):
        raise DecodeError("output_rank", f"output has shape {list(y.shape)}; expected [{count}, {classes}]")
    if y.shape[0] != count:
        raise DecodeError("output_count", f"output answers {y.shape[0]} samples; the input holds {count}")
    y = y.reshape(count, -1)
    if classes is not None and y.shape[1] != classes and (classes, y.shape[1]) != (2, 1):
        raise DecodeError("output_classes", f"output has {y.shape[1]} classes; expected {classes}")
    return _finite(y, "output")


def count(samples: int, reason: str) -> None:
    """Refuse a request, or a list of labels, of too many samples."""
    if samples > MAX_SAMPLES:
        advice = f"expected {MAX_SAMPLES} at most; send the others in records of their own"
        raise DecodeError(reason, f"{samples} samples in one record; {advice}")


def label(value: object, classes: int | None) -> int:
    """Class index, checked."""
    last = MAX_LABEL if classes is None else classes - 1
    if type(value) is not int:
        raise DecodeError("label_type", f"label is {show(value)}; expected an integer from 0 to {last}")
    if not 0 <= value <= last:
        raise DecodeError("label_range", f"label is {show(value)}; expected 0 to {last}")
    return value


def label_set(value: object, classes: int | None) -> tuple[int, ...]:
    """Indices of the labels that hold, checked, in rising order."""
    if not isinstance(value, list):
        raise DecodeError("label_type", f"labels is {show(value)}; expected a list of the labels that hold")
    count(len(value), "label_samples")
    return tuple(sorted({label(one, classes) for one in value}))


def instant(value: object, reason: str) -> float:
    """Seconds since the epoch, from such a number or from an RFC 3339 time; from 1970 to 2100."""
    expected = "expected RFC 3339 with an offset, or seconds since 1970"
    seconds = _moment(value, reason, expected).timestamp() if isinstance(value, str) else value
    if type(seconds) not in (int, float) or not 0 <= seconds <= LATEST_S:  # type: ignore[operator]
        raise DecodeError(reason, f"time is {show(value)}; {expected}, up to 2100")
    return float(seconds)  # type: ignore[arg-type]


def _moment(value: str, reason: str, expected: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise DecodeError(reason, f"time is {show(value)}: {error}; {expected}") from error
    if moment.tzinfo is None:
        raise DecodeError(reason, f"time is {show(value)} without an offset; {expected}, e.g. a trailing Z")
    return moment


def text(value: object, reason: str) -> str:
    """Short string, checked: not empty, and valid UTF-8."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
        size = f" ({len(value)} characters)" if isinstance(value, str) else ""
        raise DecodeError(reason, f"{reason} is {show(value)}{size}; expected 1 to {MAX_TEXT} characters")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can spell
        raise DecodeError(reason, f"{reason} is {show(value)}; expected Unicode text: {error}") from error
    return value


def whole(value: str | None, reason: str) -> int | None:
    """Whole number >= 0 from text, or None."""
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal() and len(value) <= 18):
        raise DecodeError(reason, f"{reason} is {show(value)}; expected a whole number")
    return int(value)


def _finite(array: Array, side: str) -> Array:
    if array.dtype.kind not in "iuf":
        raise DecodeError(
            f"{side}_dtype", f"{side} is {array.dtype}; expected a dtype that converts to float32"
        )
    with np.errstate(over="ignore"):
        converted: np.ndarray[Any, np.dtype[np.float32]] = array.astype(np.float32, order="C")
    if not np.isfinite(converted).all():
        bad = int(np.count_nonzero(~np.isfinite(converted)))
        raise DecodeError(
            f"{side}_finite", f"{bad} of {array.size} {side} values are not finite as float32; expected none"
        )
    return converted


def _sizes(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('any' if n is None else str(n) for n in shape)}]"
