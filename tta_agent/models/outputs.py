"""The answer of a model: which output it is, and how that output becomes logits [N, C].

A served model may have several outputs, and its answer may be logits, probabilities, or one number for two classes.
What is served, logged and recorded is the raw output; adaptation, evaluation and scores work on logits. Every raw
output becomes logits here: the torch module's, ONNX Runtime's, and the served answers of the stream.

    kind           raw output                          logits
    logits         [N, C]                              as they are
    probabilities  [N, C] p >= 0, rows sum to 1        log p: the logits up to a constant
    odds           [N, C] p in 0 .. 1 of each class    log p - log(1 - p)
    logit          [N, 1] z                            [0, z]
    probability    [N, 1] p in 0 .. 1                  [log(1 - p), log p]
    scores         [N, L] z of each label              [0, z] of each label, [N, 2, L]
    sigmoids       [N, L] p in 0 .. 1 of each label    [log(1 - p), log p] of each label, [N, 2, L]

The first three are of exclusive classes, the next two of two classes, the last two of label sets: the task
(`tta_agent.core.task`), which TTA_MODEL__TASK may name.

Trailing axes of size 1 ([N, C, 1, 1]) are dropped, and [N] is [N, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from tta_agent.core.errors import ConfigError, DecodeError, nearest
from tta_agent.core.task import Task
from tta_agent.core.types import Answer, Array

Kind = Literal["logits", "probabilities", "odds", "logit", "probability", "scores", "sigmoids"]
TASKS: Mapping[Kind, Task] = {
    "logits": "multiclass", "probabilities": "multiclass", "odds": "multiclass", "logit": "binary",
    "probability": "binary", "scores": "multilabel", "sigmoids": "multilabel",
}  # fmt: skip
OutputShape: TypeAlias = Sequence[int | str | None]  # with the batch axis, as a graph or a tensor has it
NEED = "expected float logits [N, C], or probabilities"
SUM = 0.02  # rows of probabilities sum to 1 within this: half precision, and clamps before they are answered
ABOVE = 1e-3  # half precision again, of one value in 0 .. 1
LEAST = 1e-30  # smaller probabilities count as this one: the gradient of their logarithm would not be finite
LEAST_OF_ONE = 1e-6  # the same of p and 1 - p: next to 1, float32 does not tell smaller ones apart
ONE_OF = "of the outputs %s, %s is the answer"  # for the log
_SAID: Mapping[Kind, str] = {
    "probabilities": "the model answers probabilities: the copy adapts on %s, the served graph stays",
    "logit": "the model answers one logit z: two classes with the logits [0, z], labels 0 and 1",
    "probability": "the model answers one probability p: two classes, labels 0 and 1; the copy adapts on %s",
    "odds": "the model answers one probability for each class: the copy adapts on %s, the served graph stays",
    "scores": "the model answers one logit z for each label: label sets, the logits of each label are [0, z]",
    "sigmoids": "the model answers one probability p for each label: label sets; the copy adapts on %s",
}
_LOGITS = {
    "probabilities": "their logarithms", "probability": "[log(1 - p), log p]", "odds": "their log-odds",
    "sigmoids": "[log(1 - p), log p] of each",
}  # fmt: skip
_OF_TASK: Mapping[tuple[Task, Kind], Kind] = {  # what a named task makes of a kind
    ("multiclass", "sigmoids"): "odds", ("multilabel", "logits"): "scores", ("multilabel", "logit"): "scores",
    ("multilabel", "probability"): "sigmoids",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """The output that is the answer.

    Attributes:
        name: of the output; None where the model has a single one.
        kind: of its values.
    """

    name: str | None = None
    kind: Kind = "logits"

    @property
    def task(self) -> Task:
        """Task by the kind of its values."""
        return TASKS[self.kind]

    def counted(self, count: int) -> str:
        """A number of classes, or of labels, for people."""
        return f"{count} {'labels' if self.task == 'multilabel' else 'classes'}"

    def refuse_label_sets(self, what: str) -> None:
        """Raise ConfigError where the answers are label sets; `what` needs exclusive classes."""
        if self.task == "multilabel":
            raise ConfigError(
                f"{what} needs exclusive classes, and the model answers label sets (TTA_MODEL__TASK)"
            )

    def check_label(self, label: Answer) -> None:
        """Raise DecodeError where a label is a class and label sets are expected, or the other way round."""
        if isinstance(label, tuple) != (self.task == "multilabel"):
            expected = '"labels": [..]' if self.task == "multilabel" else '"label"'
            raise DecodeError(
                "label_task", f"the label is {label!s:.100}; the task is {self.task}: {expected}"
            )

    def columns(self, classes: int) -> int:
        """Values that the raw output has for one sample of a model of `classes` classes."""
        return 1 if self.kind in ("logit", "probability") else classes

    def logits(self, raw: Any) -> Any:
        """Raw output, numpy or torch, [N], [N, C] or [N, C, 1, 1], to logits of the same library, see above."""
        y = raw.reshape(len(raw), -1)
        if self.kind == "logits":
            return y
        library, y = _in_single_precision(y)
        if self.kind == "probabilities":
            return library.log(library.clip(y, LEAST, None))
        joined = library.stack if self.task == "multilabel" else library.concatenate
        if self.kind in ("logit", "scores"):
            return joined((library.zeros_like(y), y), 1)
        p = library.clip(y, LEAST_OF_ONE, 1 - LEAST_OF_ONE)
        if self.kind == "odds":
            return library.log(p / (1 - p))
        return library.log(joined((1 - p, p), 1))


LOGITS = ModelOutput()  # the single output of most models


def words(kind: Kind, *, cut: bool) -> str:
    """Sentence for the log about an answer that is no logits; `cut`: the logits before it were found."""
    said = _SAID[kind]
    return said % ("the logits before them" if cut else _LOGITS[kind]) if "%s" in said else said


def choose(shapes: Mapping[str, OutputShape], wanted: str | None, what: str) -> str:
    """Name of the output that is the answer: as `wanted`, else the only one of the form [N, C].

    Args:
        shapes: of the float outputs, by name.
        wanted: TTA_MODEL__OUTPUT.
        what: the model, for messages.

    Raises:
        ConfigError: no output fits, or several do; lists them with their shapes.
    """
    listed = described(shapes) or "no float output"
    if wanted is not None and wanted not in shapes:
        raise ConfigError(
            f"TTA_MODEL__OUTPUT={wanted}: {what} has no such output; {nearest(wanted, shapes)} ({listed})"
        )
    if wanted is not None and not _is_row(shapes[wanted]):
        raise ConfigError(f"TTA_MODEL__OUTPUT={wanted}: {what} answers {listed}; {NEED}")
    if wanted is not None:
        return wanted
    rows = [name for name, shape in shapes.items() if _is_row(shape)]
    fit = [name for name in rows if len(shapes[name]) > 1] or rows
    if not fit:
        raise ConfigError(f"{what} answers {listed}; {NEED}: adaptation needs a classifier")
    if len(fit) > 1:
        raise ConfigError(
            f"{what} has several outputs that may be its answer: {listed};\n"
            f"name the one that is: TTA_MODEL__OUTPUT={' or '.join(fit)}"
        )
    return fit[0]


def described(shapes: Mapping[str, OutputShape]) -> str:
    """Outputs with their shapes, for messages."""
    return ", ".join(f"{name} [{', '.join(map(_size, shape))}]" for name, shape in shapes.items())


def kind_of(y: Array, more: Callable[[], Iterable[Array]]) -> Kind:
    """Kind of an output by its values on a probe of inputs.

    Args:
        y: answers [N, C]; rows that are not finite are left out.
        more: answers [N, C] to harder inputs and by other weights; asked only where all of `y` lies in 0 .. 1.

    Returns:
        The kind; several values in 0 .. 1 that do not sum to 1 are sigmoids, one for each label.
    """
    one = y.shape[1] == 1
    unbounded: Kind = "logit" if one else "logits"
    if not _bounded(y):
        return unbounded
    if not one and are_probabilities(y):
        return "probabilities"
    if any(len(_finite(answers)) and not _bounded(answers) for answers in more()):
        return unbounded
    return "probability" if one else "sigmoids"


def of_task(kind: Kind, task: Task | None, count: int) -> Kind:
    """The kind of an output under the task that TTA_MODEL__TASK names; as it is where that is None.

    Args:
        count: values of one sample.

    Raises:
        ConfigError: such values cannot be of that task.
    """
    found = _OF_TASK.get((task, kind), kind) if task else kind
    if task not in (None, TASKS[found]) and (task, kind, count) != ("binary", "logits", 2):
        values = {"probabilities": "probabilities that sum to 1"}.get(
            kind, "logits" if kind == "logits" else kind
        )
        raise ConfigError(
            f"TTA_MODEL__TASK={task}: the model answers {count} {'value' if count == 1 else values} for a sample, "
            f"of the task {TASKS[kind]}; leave the setting at auto, or end the model otherwise"
        )
    return found


def are_probabilities(y: Array) -> bool:
    """Whether the finite rows of [N, C] are >= 0 and sum to 1, within rounding."""
    return _bounded(y) and bool(np.abs(_finite(y).sum(1, dtype=np.float64) - 1).max() <= SUM)


def _is_row(shape: OutputShape) -> bool:
    """[N], [N, C], or [N, C, 1, 1]; a shape that is not known at all may be one."""
    return all(size == 1 for size in shape[2:]) and 0 not in shape[1:2]


def _bounded(y: Array) -> bool:
    """Whether the finite rows, of which there is one at least, lie in 0 .. 1."""
    y = _finite(y)
    return bool(len(y) and y.min() >= 0 and y.max() <= 1 + ABOVE)


def _finite(y: Array) -> Array:
    return np.asarray(y[np.isfinite(y).all(1)])


def _in_single_precision(values: Any) -> tuple[Any, Any]:
    """The library of the values, and the values as float32."""
    if isinstance(values, np.ndarray):
        return np, values.astype(np.float32, copy=False)
    import torch  # servers and recorders do without it

    return torch, values.float()


def _size(size: int | str | None) -> str:
    return "?" if size is None else str(size)
