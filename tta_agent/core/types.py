"""Values that travel between the packages; they import nothing of ours.

Letters: B samples in a batch, C classes, K selected samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = npt.NDArray[Any]
Partition: TypeAlias = tuple[str, int]  # topic, number
Positions: TypeAlias = Mapping[Partition, int]  # the next offset to read
Headers: TypeAlias = tuple[tuple[str, bytes], ...]
Message: TypeAlias = tuple[bytes | None, bytes | None, Headers]  # key, value, headers of a record to append
Done: TypeAlias = Callable[
    [Exception | None], None
]  # called once: with None when durable, else with the error
Shape: TypeAlias = tuple[int | None, ...]  # of one sample, without the batch axis; None: any size
FOREIGN = -2  # number of a version that the registry does not know
Verdict: TypeAlias = Literal["pass", "fail", "inconclusive"]
Answer: TypeAlias = int | tuple[int, ...]  # a class, or a set of labels in rising order: see core/task.py
Proof: TypeAlias = Literal["source", "certified", "rehearsed", "guarded", "none"]
PROVING: Mapping[str, tuple[str, ...]] = {  # our gates behind each proof
    "certified": ("certificate", "average"), "rehearsed": ("rehearsed",), "guarded": ("guarded",),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One record of the log, undecoded."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Record:
    """One inference on one sample.

    Attributes:
        id: inference id; labels are joined on it.
        time_s: when it happened, seconds since the epoch.
        x: the sample as the model takes it, without the batch axis, float32.
        served: the server's answer, or None where only the request was logged: logits [C] ([2, L] of L labels) once
            it is decoded, the raw output of the model where a codec gives it.
        version: model version that answered, or None.
        key: entity key (session, device, patient); decides who is held out for the gate. Defaults to the id.
        tenant: on whose behalf the request was made; defaults to the entity key.
        traceparent: W3C trace context of the request, or None.
        topic, partition, offset: place in the log.
        identity: (source, id, type); equal identities are duplicates.
        form: datatype of the input on the wire, and its layout where it was another: `FP32`, `UINT8 NHWC`, `PNG`.
        version_name: name of the version that answered, where it is no number of the registry.
        named: class that was answered, where nothing else of the answer was logged.
    """

    id: str
    time_s: float
    x: Array
    served: Array | None
    version: int | None
    key: str
    traceparent: str | None
    topic: str
    partition: int
    offset: int
    identity: tuple[str, str, str] = ("", "", "")
    tenant: str = ""
    form: str = ""
    version_name: str = ""
    named: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that it holds in memory, for bounded queues."""
        return self.x.nbytes + (self.served.nbytes if self.served is not None else 0) + 256


@dataclass(frozen=True, slots=True)
class Label:
    """Truth about one inference, which arrives late: its class, or its set of labels."""

    id: str
    label: Answer
    time_s: float
    topic: str = ""
    partition: int = 0
    offset: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes that it holds in memory, for bounded queues."""
        return 256 + len(self.id)


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """Facts about the deployed model besides its weights, for adapters that need more than the stream.

    Attributes:
        mean, std: how pixels in 0 .. 1 became inputs, per channel: x = (pixel - mean) / std.
        inputs: source samples as the model takes them, [N, ...], or None where none were given.
        labels: their classes [N], int64, or None.
        cache: folder for what is computed once from source data, or None.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    inputs: Tensor | None = None
    labels: Tensor | None = None
    cache: Path | None = None


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The model server as the settings name it.

    Attributes:
        url: base address.
        model: its name there.
        timeout_s: longest wait for one call.
        output: name of the output that is the answer; None where there is a single one.
        token: bearer token of its repository API, or None.
        source: number of the deployed model there; version n of the registry is `source` + n.
    """

    url: str
    model: str
    timeout_s: float
    output: str | None = None
    token: str | None = field(default=None, repr=False)
    source: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """A batch as selectors see it: inputs [B, ...], detached logits [B, C], forward passes without side effects.

    `predict(x)` asks the copy as it is now. `source_logits()` [B, C] are the deployed model's, in inference mode:
    what was served, where the source served it. `source_batch_logits()` are the source's weights under the
    statistics of this batch.
    """

    x: Tensor
    logits: Tensor
    predict: Callable[[Tensor], Tensor]
    source_logits: Callable[[], Tensor]
    source_batch_logits: Callable[[], Tensor]


@dataclass(frozen=True, slots=True)
class Moment:
    """A round as schedules see it, after its step.

    Attributes:
        logits: answers of the batch before the step, [B, C], detached.
        report: of the step.
        moved: every parameter that moves, by name, with its value in the source: (parameter, source value).
    """

    logits: Tensor
    report: StepReport
    moved: Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Selection:
    """Samples to learn from: `index` [K] into the batch, `weight` [K] of each; `dropped`: the others by reason."""

    index: Tensor
    weight: Tensor
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepReport:
    """Outcome of one step. `loss` is None where nothing was learnt from."""

    seen: int
    used: int
    loss: float | None
    diagnostics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GateResult:
    """Result of one gate: a number, its threshold, and a sentence for people."""

    gate: str
    value: float
    threshold: float
    verdict: Verdict
    reason: str
    bound: float | None = None


@dataclass(frozen=True, slots=True)
class Golden:
    """A fixed batch and the answers, as they are served, that a version must give to it, for verifying a swap."""

    x: Array
    logits: Array


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable graph of the registry.

    Attributes:
        data: SHA-256 of each file beside it that holds large tensors, by name.
    """

    number: int
    sha256: str
    path: Path
    proof: Proof
    data: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the graph, its data files included."""
        return sum(
            path.stat().st_size for path in (self.path, *(self.path.parent / name for name in self.data))
        )


def softmax(logits: Array) -> Array:
    """Probabilities of logits [N, C] or [N, C, places] along the classes, float64."""
    z = np.asarray(logits, dtype=np.float64)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))
