"""The real gates on simulated answers: what is never better must not be promoted, what is must be, and how soon.

A record's input holds the logits that both graphs give to it, so that a "graph" only has to cut its part out: trial,
gates and bake are those of the agent.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from tta_agent.core import plugins
from tta_agent.core.evidence import Evidence
from tta_agent.core.types import Label, Record, Version
from tta_agent.evaluation.candidate import CandidateEvaluation
from tta_agent.evaluation.decision import GateSet
from tta_agent.evaluation.facts import CandidateFacts
from tta_agent.evaluation.label_guard import LabelGuard
from tta_agent.evaluation.paired import BatchPredictions
from tta_agent.evaluation.taught import TaughtEntities
from tta_agent.rollout.bake import BakeMonitor
from tta_agent.settings.schema import Settings

CLASSES, CHUNK = 10, 64
ROLES = ("serving", "candidate", "source", "proven")
WATCHED = ("integrity", "collapse", "histogram", "flips", "forgetting")


class Part:
    """A session that answers with a part of its input."""

    def __init__(self, which):
        self.which = which

    def run(self, outputs, feeds):
        return [next(iter(feeds.values()))[:, self.which]]

    def get_inputs(self):
        return [type("Node", (), {"name": "x", "type": "tensor(float)", "shape": [None, 2, CLASSES]})]


def gates(names):
    """Instances, as the agent makes them: once, for all candidates."""
    return [_gate(name) for name in names]


@functools.cache
def _gate(name):
    return plugins.make("gates", name, {})


def bench_of(names):
    """The gates as the agent asks them, with the guard by labels where there is more than a proof."""
    return GateSet(gates(names), LabelGuard(Settings().gate.worst_class) if len(names) > 1 else None)


def default_gates():
    """Names of the settings' default."""
    return [name for name in Settings().gate.gates if name != "rehearsed"]


def trial(alpha, bucket_s=0.0, taught=None):
    """Of a candidate that answers with the second part of each record; `taught`: entities that it has learnt from."""
    graphs = {role: Part(int(role == "candidate")) for role in ROLES}
    return CandidateEvaluation(
        Version(1, "", Path(), "none"), 0, graphs, {}, CandidateFacts(alpha), bucket_s=bucket_s,
        taught=taught, taught_before=taught.count if taught else 0,
    )  # fmt: skip


def records(pairs, start=0, keys=None, time_s=0.0):
    """Records [n, 2, C]; the second axis holds the logits of serving and candidate."""
    return [
        Record(f"r{start + i}", time_s, x, None, None, keys[i] if keys else f"r{start + i}", None, "t", 0, start + i)
        for i, x in enumerate(pairs.astype(np.float32))
    ]  # fmt: skip


def logits(labels, accuracy, random, classes=CLASSES):
    """A model's answers to records of these classes: right in `accuracy` of them, [n, C]."""
    z = random.standard_normal((len(labels), classes))
    wrong = (labels + random.integers(1, classes, len(labels))) % classes
    said = np.where(random.random(len(labels)) < accuracy, labels, wrong)
    z[np.arange(len(labels)), said] += 6.0
    return z


STREAMS = ("iid", "class_correlated", "label_shifted")


def labels_of(stream, n, random):
    """Classes in order of arrival."""
    if stream == "class_correlated":
        runs = random.integers(0, CLASSES, n // 25 + 1)
        return np.repeat(runs, 25)[:n]
    if stream == "label_shifted":
        share = 0.6 ** np.arange(CLASSES)
        return random.choice(random.permutation(CLASSES), n, p=share / share.sum())
    return random.integers(0, CLASSES, n)


def null_pairs(truth, random, share=0.2):
    """Logits [n, 2, C] of two equally good models: where they differ, each is right as often as the other."""
    z = logits(truth, 0.7, random)
    both = np.stack([z, z], axis=1)
    for row in np.flatnonzero(random.random(len(z)) < share):
        names = random.permutation([truth[row], (truth[row] + random.integers(1, CLASSES)) % CLASSES])
        for side in (0, 1):
            both[row, side, both[row, side].argmax()] = 0.0
            both[row, side, names[side]] = 6.0
    return both


def promotes(
    names, stream, seed, *, alpha=0.01, n=2000, label_rate=0.3, delay=200, make=null_pairs, repeat=1
):
    """Whether the gates would promote, at any look, a candidate that is not better; and on how many labels.

    Args:
        names: of gates.
        delay: records until a label comes.
        repeat: identical outcomes of one entity in a row.
    """
    random = np.random.default_rng([seed, STREAMS.index(stream)])
    truth = np.repeat(labels_of(stream, n // repeat, random), repeat)
    pairs = np.repeat(make(truth[::repeat], random), repeat, axis=0)
    keys = [f"e{i // repeat}" for i in range(n)]
    asked, bench = trial(alpha, bucket_s=60.0 if repeat > 1 else 0.0), bench_of(names)
    labelled = random.random(n) < (1.0 if repeat > 1 else label_rate)
    for start in range(0, n + delay, CHUNK):
        stop = min(start + CHUNK, n)
        if start < n:
            asked.on_records(
                BatchPredictions(
                    records(pairs[start:stop], start, keys[start:stop], time_s=float(start // repeat))
                )
            )
        for i in range(
            max(start - delay, 0), min(max(stop - delay, 0) if start < n else start + CHUNK - delay, n)
        ):
            if labelled[i]:
                asked.on_label(Label(f"r{i}", int(truth[i]), 0.0))
        if bench.decide(asked.evidence()).outcome == "proven":
            return True
    return False


SESSIONS = 40  # entities at a time
VISITS = (20, 10.0)  # records of each, and seconds from one to the next


def promotes_returning(seed, *, memorises, counted=False, alpha=0.01, n=4000, label_rate=0.3, bucket_s=600.0):
    """Whether the certificate promotes a candidate in a stream of sessions: entities come again, then never.

    The outcome is the same for all records of an entity, as in a film of one scene. At the candidate's birth half of
    the first sessions have taught the copy.

    Args:
        memorises: it is right on all entities that it has learnt from, and worse than serving on others; else equal.
        counted: records of the entities that it has learnt from count all the same, as they must not.
    """
    random = np.random.default_rng([seed, 11])
    many = n // VISITS[0] + SESSIONS
    entity = np.array([i % SESSIONS + SESSIONS * (i // (SESSIONS * VISITS[0])) for i in range(n)])
    truth = random.integers(0, CLASSES, many)
    pairs = null_pairs(truth, random)
    taught, known = TaughtEntities(), np.arange(0, SESSIONS, 2)
    if memorises:
        pairs[:, 1] = logits(truth, 0.6, random)
        pairs[known, 1] = logits(truth[known], 1.0, random)
    seen = [] if counted else [f"e{i}" for i in known]
    taught.add([_of(name, i) for i, name in enumerate(seen)])
    asked, bench = trial(alpha, bucket_s, taught), bench_of(["certificate"])
    for start in range(0, n, CHUNK):
        rows = entity[start : start + CHUNK]
        some = records(pairs[rows], start, [f"e{i}" for i in rows], start / SESSIONS * VISITS[1])
        taught.add(some)
        asked.on_records(BatchPredictions(some))
        for i in np.flatnonzero(random.random(len(rows)) < label_rate):
            asked.on_label(Label(f"r{start + i}", int(truth[rows[i]]), 0.0))
        if bench.decide(asked.evidence()).outcome == "proven":
            return True
    return False


def _of(entity, i):
    return Record(f"taught{i}", 0.0, np.zeros(1), None, None, entity, None, "t", 0, i)


def decisive_labels(p_win, seed, alpha=0.01, most=5000):
    """Decisive labels until the certificate passes, where the candidate wins each with probability p_win."""
    random = np.random.default_rng([seed, int(p_win * 100)])
    certificate = gates(["certificate"])[0]
    empty = np.zeros((0, CLASSES))
    wins = losses = 0
    for _ in range(most):
        won = random.random() < p_win
        wins, losses = wins + won, losses + (not won)
        if certificate.judge(Evidence(empty, empty, wins, losses, wins + losses, alpha)).verdict == "pass":
            return wins + losses
    return most


COLLAPSES = ("bias", "swapped", "doubled", "nan", "stale")


def injected(kind, good, stale, random):
    """What a broken candidate answers, [n, C], made of what a good one does."""
    bad = good.copy()
    if kind == "bias":
        bad[:, random.integers(CLASSES)] += 6.0
    elif kind == "swapped":
        a, b = random.permutation(CLASSES)[:2]
        bad[:, [a, b]] = bad[:, [b, a]]
    elif kind == "doubled":
        bad = bad * 2
    elif kind == "nan":
        bad[:] = np.nan
    else:
        bad = stale.copy()
    return bad


def caught(kind, serving, good, stale, truth, seed, *, label_rate=1.0):
    """Whether an injected failure is never promoted, and vetoed or, where it serves already, taken back within two
    windows; doubled logits are no failure of their own and must only not be promoted.

    Args:
        serving, good, stale: logits [n, C] of what serves, of a sound candidate, of one made for another domain.
        truth: classes [n].
        label_rate: share of held-out records whose label comes.
    """
    random = np.random.default_rng([seed, COLLAPSES.index(kind)])
    order = random.permutation(len(truth))
    serving, good, stale, truth = (column[order] for column in (serving, good, stale, truth))
    baseline = serving if kind == "doubled" else good
    bad = injected(kind, baseline, stale, random)
    within = 2 * Settings().watch.window_records
    outcome, after = _tried(baseline, bad, truth, random, label_rate)
    if outcome == "proven":
        return False
    vetoed = outcome == "rejected" and after <= within
    return kind == "doubled" or vetoed or _taken_back(baseline, bad, truth, random, label_rate, within)


def all_caught(kind, *, seeds, **how):
    """Of how many seeds; the rest as `caught`."""
    return sum(caught(kind, seed=seed, **how) for seed in seeds)


def _tried(serving, bad, truth, random, label_rate):
    """How its trial ends, and after how many records."""
    asked, bench = trial(0.01), bench_of(default_gates())
    for start in range(0, len(truth), CHUNK):
        pairs = np.stack([serving[start : start + CHUNK], bad[start : start + CHUNK]], axis=1)
        asked.on_records(BatchPredictions(records(pairs, start)))
        for i in range(start, min(start + CHUNK, len(truth))):
            if random.random() < label_rate:
                asked.on_label(Label(f"r{i}", int(truth[i]), 0.0))
        decision = bench.decide(asked.evidence())
        if decision.outcome != "open":
            return decision.outcome, start + CHUNK
    return "open", len(truth)


def _taken_back(good, bad, truth, random, label_rate, within):
    """In service, beside what served before, by the record `within`."""
    graphs = {role: Part(int(role == "candidate")) for role in ("serving", "candidate", "source")}
    versions = (Version(2, "", Path(), "certified"), Version(1, "", Path(), "certified"))
    bake = BakeMonitor(
        *versions, graphs, gates(WATCHED), alpha=0.05, bake_records=1000, window=within // 2, trips=2
    )
    for start in range(0, within, 20):
        pairs = np.stack([good[start : start + 20], bad[start : start + 20]], axis=1)
        if bake.on_records(BatchPredictions(records(pairs, start)), 0.0):
            return True
        for i in range(start, start + 20):
            if random.random() < label_rate and bake.on_label(Label(f"r{i}", int(truth[i]), 0.0)):
                return True
    return False


def turns_bad(seed, *, good=1500, after=3000, label_rate=0.3):
    """Held-out records until a version that was better, and is not any more, is taken back.

    Args:
        good, after: records before and after the turn: right in 75 % against 50 %, and the other way round.
    """
    random = np.random.default_rng([seed, 7])
    graphs = {role: Part(int(role == "candidate")) for role in ("serving", "candidate", "source")}
    versions = (Version(2, "", Path(), "certified"), Version(1, "", Path(), "certified"))
    w = Settings().watch
    bake = BakeMonitor(
        *versions, graphs, gates(WATCHED), alpha=w.alpha, bake_records=w.bake_records, window=w.window_records,
        trips=w.trips,
    )  # fmt: skip
    for start in range(0, good + after, 20):
        truth = random.integers(0, CLASSES, 20)
        rates = (0.5, 0.75) if start < good else (0.75, 0.5)
        pairs = 0.4 * np.stack([logits(truth, rate, random) for rate in rates], axis=1)  # seldom sure
        gone = bake.on_records(BatchPredictions(records(pairs, start)), 0.0)
        bake.settles()
        for i, label in enumerate(truth):
            if random.random() < label_rate:
                gone = gone or bake.on_label(Label(f"r{start + i}", int(label), 0.0))
        if gone:
            return start + 20 - good
    return None
