"""Prequential evidence where entities come again: a copy may know them, and its candidates must not profit."""

import numpy as np
import pytest

from benchmarks.gate_simulations import CLASSES, gates, logits, records, trial
from tests.evaluation.test_candidate import torch_round_trip
from tta_agent.core.types import Label, Record
from tta_agent.evaluation import taught as module
from tta_agent.evaluation.decision import GateSet
from tta_agent.evaluation.paired import BatchPredictions
from tta_agent.evaluation.taught import TaughtEntities


def teach(taught, *entities):
    taught.add([_of(entity, taught.count + i) for i, entity in enumerate(entities)])


def _of(entity, i):
    return Record(f"r{i}", 0.0, np.zeros(3), None, None, entity, None, "t", 0, i)


def test_an_entity_is_known_from_its_first_record_on():
    taught = TaughtEntities()
    teach(taught, "a", "b")
    born = taught.count
    teach(taught, "c", "a")
    assert [taught.among_first(name, born) for name in "abcd"] == [True, True, False, False]
    assert taught.among_first("c", taught.count)


def test_entities_of_one_record_take_no_place_and_others_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED", 10)
    taught = TaughtEntities()
    teach(taught, "camera")
    taught.add([_of(f"r{i}", i) for i in range(100)])
    assert taught.among_first("camera", 1) and taught.count == 101
    for i in range(9):
        teach(taught, f"e{i}", "camera")
    assert taught.among_first("camera", 1)  # it comes again and again
    teach(taught, *(f"f{i}" for i in range(10)))
    assert not taught.among_first("camera", 1)


def test_it_survives_a_restart():
    taught, again = TaughtEntities(), TaughtEntities()
    teach(taught, "a", "b", "a")
    again.load_state_dict(torch_round_trip(taught.state_dict()))
    assert again.state_dict() == taught.state_dict()


def memorised(truth, known, random):
    """Logits [n, 2, C]: both are right in 60 %, but of entities that it knows the candidate is right in 95 %."""
    z = np.stack([logits(truth, 0.6, random), logits(truth, 0.6, random)], axis=1)
    z[known, 1] = logits(truth[known], 0.95, random)
    return z


def outcome(seed, *, known_rate, taught, better=0.0, n=600):
    """How the certificate decides on n labelled records; some are of entities that taught before the birth."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, CLASSES, n)
    known = random.random(n) < known_rate
    pairs = memorised(truth, known, random)
    if better:
        pairs[~known, 1] = logits(truth[~known], 0.6 + better, random)
    keys = [f"seen{random.integers(30)}" if k else f"new{i}" for i, k in enumerate(known)]
    evaluation = trial(0.01)
    evaluation._taught, evaluation._taught_before = taught, taught.count
    bench = GateSet(gates(["certificate"]))
    for start in range(0, n, 50):
        some = slice(start, start + 50)
        arrived = records(pairs[some], start, keys[some])
        taught.add(arrived)  # all of them teach the copy further
        evaluation.on_records(BatchPredictions(arrived))
        for i in range(start, start + 50):
            evaluation.on_label(Label(f"r{i}", int(truth[i]), 0.0))
        if bench.decide(evaluation.evidence()).outcome == "proven":
            return "proven"
    return "open"


def seen_before():
    taught = TaughtEntities()
    teach(taught, *(f"seen{i}" for i in range(30)))
    return taught


def test_a_copy_that_has_memorised_entities_is_not_promoted_by_them():
    runs = range(60)
    honest = [outcome(seed, known_rate=0.5, taught=seen_before()) for seed in runs]
    naive = [outcome(seed, known_rate=0.5, taught=TaughtEntities()) for seed in runs]
    assert honest.count("proven") <= 2  # alpha is 1 %
    assert naive.count("proven") == len(runs)  # what would happen if their records counted


def test_a_copy_that_is_better_on_new_entities_is_promoted_though_many_are_known():
    assert all(
        outcome(seed, known_rate=0.5, taught=seen_before(), better=0.3) == "proven" for seed in range(20)
    )


@pytest.mark.parametrize("known_rate", [0.0, 0.5, 0.95])
def test_an_equal_candidate_is_not_promoted_where_entities_return(known_rate):
    assert sum(outcome(s, known_rate=known_rate, taught=seen_before()) == "proven" for s in range(40)) <= 1
