"""Evidence without labels, as numbers: the same function while rehearsing and in production.

Soft numbers are taken after a temperature is fitted for each model on the anchor, so that doubled logits say
nothing new. None depends on the number of records but by its noise.

References:
    Garg et al., "Leveraging Unlabeled Data to Predict Out-of-Distribution Performance" (ATC), ICLR 2022,
    arXiv:2201.04234.
    Guillory et al., "Predicting with Confidence on Unseen Distributions" (DoC), ICCV 2021, arXiv:2107.03315.
    Deng et al., "Confidence and Dispersity Speak" (nuclear norm), ICML 2023, arXiv:2302.01094.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from tta_agent.core.evidence import AnchorResult
from tta_agent.core.task import correct, decide
from tta_agent.core.types import Array, softmax
from tta_agent.scoring.distributions import (
    divergence,
    effective_rank,
    energy,
    entropy,
    histogram,
    singular_values,
    temperature,
)

VERSION = 1  # of the numbers below; rehearsals of another version are not read
CLEAN = "clean"
LIGHT = 2  # light corruptions of the anchor set that count, in their order: each costs forward passes
SURE = 8  # power of the source's confidence, as the weight of its agreement


@dataclass(frozen=True, slots=True)
class Soft:
    """Outputs of one model on the window after its temperature.

    Attributes:
        p: probabilities [N, C].
        z: logits [N, C], each row of mean 0.
        classes: predictions [N].
        confidence: of the predictions [N], 0 .. 1.
    """

    p: Array
    z: Array
    classes: Array
    confidence: Array


def features(
    serving: Array, candidate: Array, source: Array | None, anchor: AnchorResult, moved: Mapping[str, float]
) -> dict[str, float]:
    """Evidence of a candidate, by name.

    Args:
        serving, candidate, source: logits [N, C] on the same records, in order of arrival; without `source` the
            serving model stands in for it.
        anchor: logits of serving and candidate on the labelled anchor set, clean and lightly corrupted.
        moved: distances of the candidate's tensors from the source's, see `moved.moved`.
    """
    t = {who: temperature(getattr(anchor, who)[CLEAN], anchor.labels) for who in ("serving", "candidate")}
    s, c = soft(serving, t["serving"]), soft(candidate, t["candidate"])
    o = s if source is None or np.array_equal(source, serving) else soft(source, t["serving"])
    return {
        **_sides("serving", "candidate", alone(s, anchor.serving, anchor.labels, t["serving"]),
                 alone(c, anchor.candidate, anchor.labels, t["candidate"])),
        **_pair(s, c), **_drift(o, c),
        **{f"moved_{name}": float(np.log1p(value) if value > 0 else value) for name, value in sorted(moved.items())},
    }  # fmt: skip


def soft(logits: Array, at: float) -> Soft:
    """Outputs of logits [N, C] after temperature `at`."""
    z = np.asarray(logits, np.float64) / at
    p = softmax(z)
    return Soft(p, z - z.mean(1, keepdims=True), decide(p), p.max(1))


def lights(names: Iterable[str]) -> list[str]:
    """Names of the light corruptions that count."""
    return [name for name in names if name != CLEAN][:LIGHT]


def _sides(one: str, other: str, first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """Features of both models, and their difference: second minus first."""
    both = {f"{name}_{one}": value for name, value in first.items()}
    both.update({f"{name}_{other}": value for name, value in second.items()})
    both.update({f"{name}_gained": second[name] - first[name] for name in first})
    return both


def alone(m: Soft, anchor: Mapping[str, Array], labels: Array, at: float) -> dict[str, float]:
    """Features of one model on the window, against its own outputs on the anchor set.

    Args:
        anchor: its logits [A, C] by corruption.
        labels: of the anchor set [A].
        at: its temperature.
    """
    c = m.p.shape[1]
    known = soft(anchor[CLEAN], at)
    right = known.classes == labels
    accuracy = float(right.mean())
    hist = histogram(m.p)
    mean = m.p.mean(0)
    light = [float(correct(anchor[name], labels).mean()) for name in lights(anchor)]
    return {
        "confidence": float(m.confidence.mean()),
        "entropy": float(entropy(m.p).mean() / np.log(c)),
        "energy": float(energy(m.z).mean()),
        "spread": float(entropy(hist) / np.log(c)),
        "top_class": float(hist.max()),
        "concentration": float(-entropy(mean) / np.log(c)),
        "nuclear": _nuclear(m.p),
        "rank": effective_rank(m.z) / c,
        "histogram_from_anchor": divergence(hist, histogram(known.p)),
        "anchor": accuracy,
        "light": float(np.mean(light)) if light else accuracy,
        "atc": _atc(m, known, right),
        "doc": accuracy - float(known.confidence.mean() - m.confidence.mean()),
    }


def _pair(s: Soft, c: Soft) -> dict[str, float]:
    """Features of both models together: where they disagree, the probabilities of the other's prediction."""
    apart = s.classes != c.classes
    rows = np.arange(len(apart))
    share = float(apart.mean())
    if not apart.any():
        return {
            "disagreement": 0.0,
            "histograms": 0.0,
            "conviction": 0.0,
            "second_choice": 0.0,
            "distance": 0.0,
        }
    mine, yours = c.p[rows, c.classes] - c.p[rows, s.classes], s.p[rows, s.classes] - s.p[rows, c.classes]
    second = np.argsort(s.p, axis=1)[:, -2]
    return {
        "disagreement": share,
        "histograms": divergence(histogram(s.p), histogram(c.p)),
        "conviction": float((mine - yours)[apart].mean() * share),
        "second_choice": float((c.classes == second)[apart].mean()),
        "distance": float(np.abs(s.p - c.p).sum(1).mean() / 2),
    }


def _drift(o: Soft, c: Soft) -> dict[str, float]:
    """Features of order: changes of the source's outputs from the first half of the window to the second."""
    half = len(o.p) // 2
    first, last = slice(0, half), slice(half, None)
    weight = o.confidence**SURE
    same = o.classes == c.classes
    runs = float((o.classes[1:] == o.classes[:-1]).mean()) if len(o.p) > 1 else 0.0
    return {
        "drift_confidence": abs(float(o.confidence[last].mean() - o.confidence[first].mean())),
        "drift_classes": divergence(o.p[first].mean(0), o.p[last].mean(0)),
        "runs": runs,
        "sure_agreement": float((weight * same).sum() / weight.sum()),
    }


def _nuclear(p: Array) -> float:
    """Nuclear norm of the softmax matrix over its largest value, 0 .. 1."""
    return float(singular_values(p).sum() / np.sqrt(min(p.shape) * len(p)))


def _atc(m: Soft, known: Soft, right: Array) -> float:
    """Share of the window at or above the confidence that just its own accuracy's share of the anchor reaches."""
    threshold = np.quantile(known.confidence, 1 - right.mean())
    return float((m.confidence >= threshold).mean())
