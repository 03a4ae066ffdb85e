"""Classification extension: an answer as its best classes, `value:index` each, instead of all values."""

from __future__ import annotations

import numpy as np

from tta_agent.core.errors import DecodeError
from tta_agent.core.types import Array
from tta_agent.models.ort_sessions import Session, answer_shape
from tta_agent.stream.codecs import datatypes, oip
from tta_agent.stream.codecs.datatypes import show


def wanted(request: oip.Body, output: str, session: Session) -> int | None:
    """Number of classes that a request asks for; None: it wants the answer as it is, as it does with 0.

    Args:
        output: name of the answer.

    Raises:
        DecodeError: no whole number, or the answer is no vector of classes.
    """
    count = request.classification.get(output)
    if count is None:
        return None
    if type(count) is not int or count < 0:
        raise DecodeError(
            "classification", f"classification of {output} is {show(count)}; expected a whole number"
        )
    if (rank := len(answer_shape(session))) != 1:
        told = f"one answer of {output} has {rank} dimensions; expected 1, a value for each class"
        raise DecodeError("classification", f"classification is not to be had: {told}")
    return count or None


def best(answers: Array, count: int) -> Array:
    """The greatest values of each answer [N, C] and their classes, in falling order: `bytes` [N, min(count, C)].

    Equal values keep the order of their classes.
    """
    order = np.argsort(-answers, axis=1, kind="stable")[:, :count]
    values = np.take_along_axis(answers, order, axis=1)
    texts = [f"{value}:{index}".encode() for value, index in zip(values.flat, order.flat, strict=True)]
    return datatypes.of_bytes(texts).reshape(order.shape)
