"""Protocols of the replaceable parts. A plugin implements one without inheriting from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from tta_agent.core.evidence import Evidence
from tta_agent.core.types import (
    GateResult,
    Golden,
    Moment,
    Selection,
    StepReport,
    Version,
    View,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


@runtime_checkable
class Stateful(Protocol):
    """State that survives a restart, and that a reset clears."""

    def state_dict(self) -> dict[str, Any]:
        """State for a bit-equal continuation: tensors and plain values only."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""

    def reset(self) -> None:
        """Back to how it was built, bit for bit."""


class Adapter(Stateful, Protocol):
    """A copy of the model that changes while it answers.

    Built as `Class(model, **options)`; where the constructor has a parameter `origin`, it is given a `SourceInfo`.
    Three attributes may say more: `selectors`, the selectors (with options) that its paper uses, which are taken
    where the settings name none; `answers_after_step = True`, where the paper reports the answers after the step on
    the same batch; `smallest_batch`, the samples below which a sliding window is put in front of it. Two refuse a
    model at start: `needs_images` and `exclusive_classes`, see `tta_agent.models.misfit`; selectors may have them.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> logits [B, C] with graph attached: the one learning forward pass."""

    def predict(self, x: Tensor) -> Tensor:
        """The same logits with no graph and no side effect at all."""

    def step(self, x: Tensor, logits: Tensor, selection: Selection) -> StepReport:
        """Learn from the selected samples of the batch that `forward` has just seen.

        An empty selection touches neither weights nor momentum nor statistics. No number that is not finite stays: a
        batch in which single inputs lead to one is left without a trace (`diagnostics["skipped"]`); otherwise, and
        where weights, averages or moments hold one, the adapter resets itself (`diagnostics["nonfinite"]`).
        """

    def servable(self) -> nn.Module:
        """A frozen inference-mode copy in which each sample's answer is its own."""

    def moved(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Every parameter that learns, by name, with its value in the source; schedules may pull it back."""


@runtime_checkable
class StreamAveraging(Protocol):
    """An adapter that serves averages over the stream, for which the source stands in at first."""

    def source_share(self) -> float:
        """How much of what is served is still the source's, 0 to 1."""


class Selector(Protocol):
    """Selection of the samples to learn from, in the order of the batch. With a memory it is `Stateful` too."""

    def select(self, view: View) -> Selection:
        """Indices [K] and weights [K] of the samples to learn from, and counts of the others by reason."""


@runtime_checkable
class InputSelector(Selector, Protocol):
    """A selector that needs `view.x` alone. It is asked before the learning forward pass: inputs that it leaves out
    are in no statistics of the batch, are answered by the deployed model, and are no evidence.
    """

    def look(self, x: Tensor) -> Tensor:
        """Which of the inputs [B, ...] `select` would keep, [B]; nothing is remembered."""


class Schedule(Stateful, Protocol):
    """Rule that is applied after each round: it may pull parameters towards the source, or ask for a reset."""

    def after(self, moment: Moment) -> bool:
        """Whether copy, selectors and schedules are to be reset to the source now."""


class Gate(Protocol):
    """Test of one aspect of a candidate.

    Built as `Class(**options)`. All gates must pass, but those that are proofs: they carry a class attribute `proof`
    ("certified", "rehearsed" or "guarded"), and of one kind all must pass. A proof that fails only says that this
    kind is not to be had.

    A class attribute `veto = "plausibility"` says that the gate only guesses about accuracy, without labels: where
    labels have decided, its failure is a warning. `of_classes = False` beside it: the guess is not about the classes
    that are named. A gate without the attribute is of safety, and rejects always.

    A class attribute `watches = True` has the gate judge the served version as well, for as long as it serves, window
    after window: the served version as `candidate`, the version to which a rollback would lead as `serving`. What
    only a candidate's evaluation knows (`parity`, `size_ratio`, `latency_ratio`, `health`, `expected`) is then at its
    default.
    """

    def judge(self, evidence: Evidence) -> GateResult:
        """Pass, fail or inconclusive; an inconclusive result never swaps."""


class ServerDriver(Protocol):
    """Driver of one kind of model server. A failure raises SwapError and leaves `live()` unchanged.

    Built as `Class(server, **options)` with a `ServerInfo`; connects at the first call only.
    """

    def probe(self) -> None:
        """Raise SwapError, with what to do, where the server cannot swap at all."""

    def publish(self, version: Version, golden: Golden) -> None:
        """Load the version beside the live one, warm it, and verify it on the golden batch."""

    def activate(self, version: Version) -> None:
        """Make the published version answer. No request fails meanwhile."""

    def verify(self, golden: Golden) -> None:
        """Raise WrongAnswer where the live version answers the golden batch otherwise than expected.

        Any other SwapError says that it could not be asked, and is no evidence about it.
        """

    def live(self) -> int:
        """Number of the version that answers now, asked from the server."""

    def rollback(self) -> None:
        """Make the version that served before answer again."""

    def close(self) -> None:
        """Free connections. Idempotent."""
