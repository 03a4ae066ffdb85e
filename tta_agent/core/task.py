"""The task of a model: the decision that its logits make, when two decisions differ, and when one is right.

Inside the agent every answer is logits of exclusive classes, `[N, C]`. A model of several labels answers a question
of two classes for each of L labels: `[N, 2, L]`. Axes after the first two are places at which a decision is made, so
that scores are taken along axis 1 and averaged over places.

    task         logits       decision                     wrong by
    multiclass   [N, C]       class 0 .. C - 1             0 or 1
    binary       [N, 2]       class 0 or 1                 0 or 1
    multilabel   [N, 2, L]    set of labels 0 .. L - 1     labels too many and labels missing

Everything that decides, compares or counts answers asks this module. Letters: N records, C classes, L labels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from operator import ne
from typing import Any, Literal, TypeAlias

import numpy as np

from tta_agent.core.types import Answer, Array, softmax

Task = Literal["multiclass", "binary", "multilabel"]
Of: TypeAlias = Array  # logits [N, C] or [N, 2, L]


def decide(logits: Any) -> Any:
    """Decisions at each place, of numpy arrays and of tensors: [N, C] -> [N], [N, 2, L] -> [N, L]."""
    return logits.argmax(1)


def answers(logits: Of) -> list[Answer]:
    """Decision for each record: a class, or a set of labels in rising order."""
    decided = decide(logits)
    if decided.ndim == 1:
        return decided.tolist()  # type: ignore[no-any-return]
    return [tuple(np.flatnonzero(row).tolist()) for row in decided]


def answer(logits: Array) -> Answer:
    """Decision for one record by its logits [C] or [2, L]."""
    return int(logits.argmax()) if logits.ndim == 1 else answers(logits[None])[0]


def differs(one: Of, other: Of) -> Array:
    """Whether two models decide otherwise, for each record, [N]; of label sets, whether any label differs."""
    return any_place(decide(one) != decide(other))


def disagreements(one: Iterable[Answer], other: Iterable[Answer]) -> int:
    """Number of records to which two models give other answers."""
    return sum(map(ne, one, other))


def correct(logits: Of, labels: Array) -> Array:
    """Whether each record is answered rightly, [N]; of label sets, whether the whole set is.

    Args:
        labels: classes [N], or for each label whether it holds, [N, L].
    """
    return ~any_place(decide(logits) != labels)


def errors(given: Answer, truth: Answer) -> int:
    """Number of errors of one answer: 0 or 1 of a class, and the labels in which two sets differ."""
    if isinstance(given, tuple) and isinstance(truth, tuple):
        return len({*given} ^ {*truth})
    return int(given != truth)


def gain(before: Answer, after: Answer, truth: Answer) -> int:
    """+1: `after` has fewer errors than `before`, -1: it has more, 0: as many."""
    fewer = errors(before, truth) - errors(after, truth)
    return (fewer > 0) - (fewer < 0)


def members(given: Answer) -> tuple[int, ...]:
    """Classes that an answer names: one, or those of the set."""
    return given if isinstance(given, tuple) else (given,)


def named(logits: Of) -> Array:
    """Whether each record's answer names each class, [N, C] or [N, L], bool."""
    decided = decide(logits)
    if decided.ndim > 1:
        return np.asarray(decided == 1)
    return np.asarray(decided[:, None] == np.arange(logits.shape[1]))


def tallies(logits: Of) -> Array:
    """How often each class is named, [C] or [L]."""
    if logits.ndim == 2:
        return np.bincount(decide(logits), minlength=logits.shape[1])
    return np.asarray(named(logits).sum(0))


def classes(logits: Of) -> int:
    """Number of classes, or of labels."""
    return int(logits.shape[1] if logits.ndim == 2 else logits.shape[2])


def counts(given: Iterable[Answer]) -> Counter[int]:
    """How often the answers name each class."""
    return Counter(name for one in given for name in members(one))


def chance(logits: Of) -> float:
    """Share of right answers by guessing evenly: 1 / C, or 2^-L."""
    return 1.0 / float(logits.shape[1] ** math.prod(logits.shape[2:]))


def certainty(logits: Of) -> Array:
    """Probability by the model itself that its whole answer is right, [N]: of a set, the product over its labels."""
    p = softmax(logits).max(1)
    return p if p.ndim == 1 else np.asarray(p.reshape(len(p), -1).prod(1))


def scores(logits: Of) -> Array:
    """One number for each class and record: the logits [N, C], or the log-odds of each label, [N, L]."""
    return logits if logits.ndim == 2 else logits[:, 1] - logits[:, 0]


def any_place(found: Array) -> Array:
    """Whether anything is found for a record, [N] as it is, [N, L] -> [N]."""
    return np.asarray(found if found.ndim == 1 else found.reshape(len(found), -1).any(1))


def per_record(values: Any) -> Any:
    """Mean over places, of numpy arrays and of tensors: [N] as it is, [N, L] -> [N]."""
    return values if values.ndim == 1 else values.reshape(len(values), -1).mean(1)


def to_json(given: Answer | None) -> int | list[int] | None:
    """An answer as JSON has it: a number, or a list of labels."""
    return list(given) if isinstance(given, tuple) else given


def from_json(given: Any) -> Answer:
    """The answer that `to_json` wrote."""
    return tuple(map(int, given)) if isinstance(given, list | tuple) else int(given)
