"""Evidence of the gates: answers of two graphs to the same records, late labels, and facts about the candidate.

Letters: N records of the window, C classes, A samples of the anchor set. Of L labels, logits are [N, 2, L]: see
`tta_agent.core.task`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tta_agent.core import task
from tta_agent.core.types import Answer, Array


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """Answers of both graphs for one labelled record of the window, and its tenant; in order of arrival of labels.

    `confidence` is that of both graphs' answers, serving's first, 0 .. 1; NaN where it was not kept.
    """

    label: Answer
    serving: Answer
    candidate: Answer
    tenant: str = ""
    confidence: tuple[float, float] = (math.nan, math.nan)

    @property
    def step(self) -> int:
        """+1: only the candidate is right, -1: only serving is, 0: no difference; of label sets: has fewer errors."""
        return task.gain(self.serving, self.candidate, self.label)

    def rights(self) -> tuple[bool, bool]:
        """Whether serving is right, and whether the candidate is."""
        return self.serving == self.label, self.candidate == self.label


@dataclass(frozen=True, slots=True)
class AnchorResult:
    """Answers of both graphs to a labelled set that never changes: `clean`, and under light known corruptions.

    Attributes:
        labels: classes [A], or for each label whether it holds, [A, L].
        serving, candidate: logits [A, C] by the name of the corruption; `clean` comes first.
    """

    labels: Array
    serving: Mapping[str, Array]
    candidate: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class GainEstimate:
    """Estimate of a candidate's gain in accuracy over serving (0.05: 5 points), learnt from rehearsals on own data.

    Attributes:
        gain: most likely.
        lower: conformal lower bound at `alpha`.
        alpha: share of scenarios in which the bound may fail.
        supported: whether the evidence looks like anything that was rehearsed.
        reason: a sentence for people.
    """

    gain: float
    lower: float
    alpha: float
    supported: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence about a candidate: both graphs, in inference mode, on the same held-out records.

    Attributes:
        serving, candidate: logits of both graphs on the window, [N, C] each, in the same order.
        wins, losses: labelled records on which only the candidate (only serving) is right, one label for each
            entity and stretch of time.
        labels: labelled records.
        alpha: the share of the error budget that this candidate may spend.
        parity: share of fixed inputs on which torch and the exported graph agree in argmax, and the largest
            absolute difference of their logits there.
        size_ratio, latency_ratio: bytes of the candidate's graph over those of serving's, and seconds, at least; 1
            for graphs of the same structure.
        judged: the labelled records themselves.
        source, proven: logits of version 0 and of the last certified or rehearsed version on the window, [N, C];
            None where they were not asked.
        tenants: tenant of each record, else its entity, [N].
        anchor: answers on the labelled anchor set, where there is one.
        expected: estimate by rehearsals, where there were some.
        rehearsed_window: records of one estimate; 0 where there is no rehearsal.
        health: of the optimiser, by name: `rounds`, `loss`, `gradient`, `gradient_peak`, `nonfinite`, `resets`.
        null: 99.5 % quantiles of gates' statistics when nothing differs (`tta-agent calibrate`), by gate.
    """

    serving: Array
    candidate: Array
    wins: int
    losses: int
    labels: int
    alpha: float
    parity: tuple[float, float] = (1.0, 0.0)
    size_ratio: float = 1.0
    latency_ratio: float = 1.0
    judged: Sequence[LabelledPair] = ()
    source: Array | None = None
    proven: Array | None = None
    tenants: Sequence[str] = ()
    anchor: AnchorResult | None = None
    expected: GainEstimate | None = None
    rehearsed_window: int = 0
    health: Mapping[str, float] = field(default_factory=dict)
    null: Mapping[str, float] = field(default_factory=dict)
