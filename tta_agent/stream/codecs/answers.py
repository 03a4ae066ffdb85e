"""Served answers as they are logged: logits or probabilities of all classes, the best few, or the class alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tta_agent.core.errors import DecodeError
from tta_agent.core.exchange import ServedAnswers
from tta_agent.core.types import Array
from tta_agent.stream.codecs import checks
from tta_agent.stream.codecs.datatypes import BYTES, show


def read(tensors: Mapping[str, Array], count: int, classes: int | None, wanted: str | None) -> ServedAnswers:
    """Answers in the output tensors of a request of `count` samples.

    Values of all classes are taken where they are there. Else a tensor of integers [N] or [N, 1] is the class, with
    [N, k] the best k; a tensor of strings is Triton's classification (`value:class` or `value:class:name`, the best
    first). With scores beside them the best class is that of the highest score.

    Args:
        classes: of the model; None where not known.
        wanted: name of the output that is the answer, of several.

    Raises:
        DecodeError: no tensor is an answer, several may be, or its shape does not fit.
    """
    if len(tensors) == 1 and (only := next(iter(tensors.values()))).dtype.kind == "f":
        return ServedAnswers(checks.logits(only, count, classes))
    named = [
        one for name, one in tensors.items() if wanted in (None, name) and _names_classes(one, count, classes)
    ]
    whole = {name: one for name, one in tensors.items() if not any(one is other for other in named)}
    scores = [one for one in whole.values() if _is_score(one, named, classes)]
    whole = {name: one for name, one in whole.items() if not any(one is other for other in scores)}
    if whole or not named:
        return ServedAnswers(checks.logits(checks.answer(whole or tensors, wanted), count, classes))
    if len(named) > 1:
        raise DecodeError(
            "output_count", f"{len(named)} outputs name classes: {show(list(tensors))}; set TTA_MODEL__OUTPUT"
        )
    return _of_classes(named[0], scores[0] if scores else None, count, classes)


def _names_classes(y: Array, count: int, classes: int | None) -> bool:
    """Whether a tensor holds numbers of classes, not a value for each class."""
    if y.dtype == BYTES:
        return True
    row = y.size // max(count, 1)
    return y.dtype.kind in "iu" and y.shape[:1] == (count,) and row != classes and row * count == y.size


def _is_score(y: Array, named: list[Array], classes: int | None) -> bool:
    """Whether a tensor holds a score for each class that is named."""
    row = y.size // max(len(y), 1) if y.ndim else 0
    return len(named) == 1 and y.shape == named[0].shape and row != classes


def _of_classes(y: Array, scores: Array | None, count: int, classes: int | None) -> ServedAnswers:
    if y.dtype == BYTES:
        y = _parsed(y)
    if y.size != count * (k := y.size // count) or not k:
        raise DecodeError(
            "output_count", f"output has shape {list(y.shape)}; the input holds {count} samples"
        )
    named = y.reshape(count, k)
    best = np.zeros(count, np.int64) if scores is None else scores.reshape(count, k).argmax(1)
    found = named[np.arange(count), best].astype(np.int64)
    for one in found.tolist():
        checks.label(one, classes)
    return ServedAnswers(classes=found, best=k)


def _parsed(y: Array) -> Array:
    """Classes of Triton's classification strings."""
    try:
        parts = [bytes(text).split(b":") for text in y.ravel()]
        numbers = [int(part[1]) for part in parts if float(part[0]) is not None]
        return np.array(numbers, np.int64).reshape(y.shape)
    except (ValueError, IndexError, OverflowError) as error:
        told = (
            f"output is {show([*y.ravel()[:2]])}; expected strings `value:class` as Triton's classification"
        )
        raise DecodeError("output_text", told) from error
