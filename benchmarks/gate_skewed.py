"""Two classes, one of them rare: are useful candidates promoted, and useless and harmful ones not?

python benchmarks/gate.py --parts skewed [--quick] --json OUT

The agent's own gates and evaluation on simulated answers. Serving has been thrown off by a shift: it calls too many
records positive, and misses some. Labels of 30 % of the records come 500 records late. A candidate is tried until it
is promoted, refused, or has had its time (`TTA_GATE__PATIENCE_RECORDS`, four times that while it leads).

useful    names fewer negatives wrongly (62 to 94 % right), and keeps the positives or finds more
useless   is right as often as serving, on other records
harmful   is more accurate, because it names positives less often: their recall falls from 85 to 55 or 30 %, or to
          nothing
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import gate_simulations as simulations
import numpy as np

from tta_agent.core.types import Label, Version
from tta_agent.evaluation.candidate import CandidateEvaluation
from tta_agent.evaluation.facts import CandidateFacts
from tta_agent.evaluation.paired import BatchPredictions
from tta_agent.settings.schema import Settings

POSITIVES = (0.01, 0.02, 0.09, 0.3)
SERVING = (0.62, 0.85)  # recall of negatives and of positives
CANDIDATES = {  # kind, and recalls of the candidate
    "keeps positives": ("useful", (0.94, 0.85)),
    "finds more positives": ("useful", (0.94, 0.95)),
    "equal": ("useless", SERVING),
    "a third of the positives": ("harmful", (0.97, 0.30)),
    "no positives": ("harmful", (1.0, 0.0)),
    "two thirds of the positives": ("harmful", (0.97, 0.55)),
}
RATE, DELAY, CHUNK = 0.3, 500, 256


@dataclass(frozen=True)
class Outcome:
    """How the evaluation of one candidate ended, after how many records, and the true recalls of the candidate."""

    positives: float
    name: str
    kind: str
    outcome: str
    records: int
    recalls: tuple[float, float]
    warnings: tuple[str, ...]


class Half(simulations.Part):
    """A graph of two classes."""

    def get_inputs(self):
        return [type("Node", (), {"name": "x", "type": "tensor(float)", "shape": [None, 2, 2]})]


def answers(truth, right, random):
    """Logits [n, 2] of which `right` [n] name the true class, mostly surely."""
    margin = random.gamma(2.0, 1.5, len(truth)) * np.where(right, 1, -1) * np.where(truth, 1, -1)
    return np.stack([-margin / 2, margin / 2], 1)


def keeps(before, recall, target, random):
    """Right or wrong [n] of the candidate where serving was so: rights are kept as far as its own recall allows."""
    kept = min(0.98, target / recall) if recall else 0.0
    gained = (target - kept * recall) / (1 - recall)
    return random.random(len(before)) < np.where(before, kept, gained)


def stream(positives, recalls, n, random):
    """Classes [n], and logits [n, 2, 2] of serving and candidate."""
    truth = (random.random(n) < positives).astype(int)
    before = random.random(n) < np.array(SERVING)[truth]
    after = np.zeros(n, bool)
    for c in (0, 1):
        mine = truth == c
        after[mine] = keeps(before[mine], SERVING[c], recalls[c], random)
    return truth, np.stack([answers(truth, right, random) for right in (before, after)], 1)


def tried(job):
    """One candidate."""
    positives, name, seed = job
    kind, recalls = CANDIDATES[name]
    random = np.random.default_rng([seed, round(1000 * positives), list(CANDIDATES).index(name)])
    gate = Settings().gate
    truth, pairs = stream(positives, recalls, 4 * gate.patience_records, random)
    labelled = random.random(len(truth)) < RATE
    gates = simulations.bench_of(simulations.default_gates())
    graphs = {role: Half(int(role == "candidate")) for role in simulations.ROLES}
    asked = CandidateEvaluation(
        Version(1, "", Path(), "none"), 0, graphs, {}, CandidateFacts(gate.alpha), window=gate.window_records
    )
    outcome, seen = run(asked, gates, truth, pairs, labelled, gate.patience_records)
    found = tuple(float((pairs[truth == c, 1].argmax(1) == c).mean()) for c in (0, 1))
    results = asked.decision.results if asked.decision else ()
    failed = tuple(result.gate for result in results if result.verdict == "fail")
    return Outcome(positives, name, kind, outcome, seen, found, failed)


def run(asked, gates, truth, pairs, labelled, patience):
    """Outcome, and the records until then."""
    for start in range(0, len(truth), CHUNK):
        asked.on_records(BatchPredictions(simulations.records(pairs[start : start + CHUNK], start)))
        for i in range(max(start - DELAY, 0), max(start + CHUNK - DELAY, 0)):
            if labelled[i]:
                asked.on_label(Label(f"r{i}", int(truth[i]), 0.0))
        decision = asked.judge(gates, labels_come=True)
        if decision and decision.outcome != "open":
            return decision.outcome, start + CHUNK
        if asked.overdue(patience, labels_come=True):
            return "expired", start + CHUNK
    return "expired", len(truth)


def summary(pool, quick):
    """Promotions by kind, and a row for each share of positives and candidate."""
    seeds = range(3 if quick else 20)
    jobs = list(itertools.product(POSITIVES, CANDIDATES, seeds))
    found = list(pool.map(tried, jobs))
    rows = []
    for key, mine in itertools.groupby(found, key=lambda one: (one.positives, one.name)):
        rows.append(_row(*key, list(mine)))
        print(_told(rows[-1]), flush=True)
    promoted = Counter(one.kind for one in found if one.outcome == "proven")
    asked = Counter(one.kind for one in found)
    return {"skewed": {
        "useful_promoted": promoted["useful"], "useful": asked["useful"],
        "useless_promoted": promoted["useless"], "useless": asked["useless"],
        "harmful_promoted": promoted["harmful"], "harmful": asked["harmful"], "rows": rows,
    }}  # fmt: skip


def _row(positives, name, mine):
    promoted = [one for one in mine if one.outcome == "proven"]
    return {
        "positives": positives, "candidate": name, "kind": mine[0].kind, "runs": len(mine),
        "promoted": len(promoted), "outcomes": dict(Counter(one.outcome for one in mine)),
        "records": float(np.median([one.records for one in promoted])) if promoted else None,
        "recall_before": SERVING, "recall": np.mean([one.recalls for one in mine], 0).round(3).tolist(),
        "warnings": dict(Counter(gate for one in promoted for gate in one.warnings)),
    }  # fmt: skip


def _told(row):
    when = "" if row["records"] is None else f" after {row['records']:.0f} records (median)"
    recalls = ", ".join(f"{name} {a:.0%} to {b:.0%}" for name, a, b in zip(
        ("negatives", "positives"), row["recall_before"], row["recall"], strict=True))  # fmt: skip
    return (
        f"{row['positives']:.0%} positives, {row['kind']}, {row['candidate']}: {row['promoted']} of {row['runs']} "
        f"promoted{when}; recall of {recalls}; {row['outcomes']}, despite {row['warnings']}"
    )
