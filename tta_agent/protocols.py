"""The seams. Small protocols, not base classes: a plugin implements them without importing us."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from tta_agent.types import (
    Evidence,
    Finding,
    Golden,
    Headers,
    Partition,
    Positions,
    RawRecord,
    Selection,
    StepReport,
    Version,
    View,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


class Source(Protocol):
    """A partitioned log, read as a member of a consumer group. Not thread-safe: one thread owns it."""

    def poll(self, timeout_s: float) -> Sequence[RawRecord]:
        """Records in offset order per partition; empty after `timeout_s` at most. Never blocks longer.

        Partitions that are paused deliver nothing. Raises StreamError where the log cannot be reached.
        """

    def pause(self) -> None:
        """Stop delivering; poll still must be called (it keeps the group membership alive). Idempotent."""

    def resume(self) -> None:
        """Deliver again, with nothing lost. Idempotent."""

    def lag(self) -> int:
        """Records between the positions of this member and the end of its partitions."""

    def assignment(self) -> Sequence[Partition]:
        """The partitions that this member owns now; may be empty before the first poll."""

    def seek(self, positions: Positions) -> None:
        """Read on from these offsets, also before the first poll and for partitions assigned later."""

    def commit(self, positions: Positions) -> None:
        """Store the next offsets to read for the group; ignores partitions that are no longer owned."""

    def close(self) -> None:
        """Leave the group. Idempotent; nothing may be called afterwards."""


class Producer(Protocol):
    """Appends to topics. Thread-safe."""

    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """Append, in order per key. May buffer; raises StreamError where the log cannot be reached."""

    def flush(self) -> None:
        """Return when everything sent is durable."""

    def close(self) -> None:
        """Flush and free. Idempotent."""


class Adapter(Protocol):
    """A copy of the model that changes while it answers."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> logits [B, C] with graph attached: the one learning forward pass."""

    def predict(self, x: Tensor) -> Tensor:
        """The same logits with no graph and no side effect at all."""

    def step(self, x: Tensor, logits: Tensor, selection: Selection) -> StepReport:
        """Learn from the selected samples of the batch that `forward` has just seen.

        An empty selection touches neither weights nor momentum nor statistics; a non-finite loss or
        gradient resets the adapter and is reported in `diagnostics["nonfinite"]`.
        """

    def servable(self) -> nn.Module:
        """A frozen inference-mode copy in which each sample's answer is its own."""

    def reset(self) -> None:
        """Back to the source, optimiser and averages included, bit for bit."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bit-equal continuation needs: tensors and plain values only."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""


class Selector(Protocol):
    """Decides which samples teach."""

    def select(self, view: View) -> Selection:
        """Index [K] and weight [K] of the teachers, and the count of the others by reason."""


class Gate(Protocol):
    """Decides one aspect of whether a candidate may serve."""

    def judge(self, evidence: Evidence) -> Finding:
        """Pass, fail or inconclusive. Inconclusive never swaps."""


class Swapper(Protocol):
    """Puts versions into a model server. A failure raises SwapError and leaves `live()` unchanged."""

    def probe(self) -> None:
        """Raise SwapError, with what to do, where the server cannot swap at all."""

    def publish(self, version: Version, golden: Golden) -> None:
        """Load the version beside the live one, warm it, and verify it on the golden batch."""

    def activate(self, version: Version) -> None:
        """Make the published version answer. No request fails meanwhile."""

    def verify(self, golden: Golden) -> None:
        """Raise SwapError unless the live version answers the golden batch as expected."""

    def live(self) -> int:
        """Number of the version that answers now, as the server says."""

    def rollback(self) -> None:
        """Make the version that served before answer again."""

    def close(self) -> None:
        """Free connections. Idempotent."""
