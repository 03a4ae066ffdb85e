"""Paired evaluation and its bookkeeping."""

import numpy as np
import onnx
import pytest
from onnx import helper

from tta_agent.sessions import open_session
from tta_agent.trial import Trial
from tta_agent.types import Label, Record, Version


def linear(weight):
    """A graph [N, 3] -> [N, 3] that multiplies by `weight`."""
    w = onnx.numpy_helper.from_array(np.asarray(weight, np.float32), "w")
    io = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", 3]) for n in ("input", "logits")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["logits"])], "g", io[:1], io[1:], [w]
    )
    return open_session(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
        ).SerializeToString()
    )


KEEP, ROLL = np.eye(3), np.roll(np.eye(3), 1, axis=1)


def record(i, hot, offset=None, partition=0):
    x = np.eye(3, dtype=np.float32)[hot]
    return Record(f"r{i}", 0.0, x, None, None, f"r{i}", None, "t", partition, i if offset is None else offset)


@pytest.fixture
def trial(tmp_path):
    version = Version(1, "", tmp_path, "none")
    return Trial(
        version, linear(KEEP), linear(ROLL), alpha=0.01, born={("t", 0): 10}, parity=(1, 0), size_ratio=1
    )


def label(i, truth):
    return Label(f"r{i}", truth, 0.0)


def test_wins_and_losses_are_counted_on_disagreements(trial):
    trial.observe([record(i, 0) for i in range(10, 14)])
    for i, truth in ((10, 1), (11, 0), (12, 2), (10, 1)):  # candidate right, serving right, neither, again
        trial.label(label(i, truth))
    assert (trial.wins, trial.losses, trial.labels) == (1, 1, 3)


def test_records_that_the_candidate_may_have_learnt_from_do_not_count(trial):
    trial.observe([record(9, 0), record(10, 0), record(3, 0, partition=1)])
    trial.label(label(9, 1))
    assert (trial.records, trial.labels) == (2, 0)


def test_a_record_that_comes_twice_counts_once(trial):
    trial.observe([record(10, 0)])
    trial.label(label(10, 1))
    trial.observe([record(10, 0)])
    trial.label(label(10, 1))
    assert (trial.records, trial.wins) == (1, 1)


def test_evidence_is_paired(trial):
    trial.observe([record(10, 0)])
    trial.observe([record(11, 1), record(12, 2)])
    evidence = trial.evidence()
    assert evidence.serving.argmax(1).tolist() == [0, 1, 2]
    assert evidence.candidate.argmax(1).tolist() == [1, 2, 0]


def test_a_trial_survives_a_restart(trial, tmp_path):
    trial.observe([record(i, 0) for i in range(10, 20)])
    trial.label(label(10, 1))
    again = Trial(
        trial.version, linear(KEEP), linear(ROLL), alpha=0.01, born=trial.born, parity=(1, 0), size_ratio=1
    )
    again.load_state_dict(trial.state_dict())
    for one in (trial, again):
        one.observe([record(i, 0) for i in range(15, 25)])
        one.label(label(10, 1))
        one.label(label(11, 0))
    assert (again.records, again.wins, again.losses, again.labels) == (15, 1, 1, 2)
    assert np.array_equal(again.evidence().candidate, trial.evidence().candidate)


def test_outdated_when_the_copy_moved_much_further_than_the_candidate_stands_from_serving(tmp_path):
    version = Version(1, "", tmp_path, "none")
    near = Trial(version, linear(KEEP), linear(KEEP), alpha=0.01, born={}, parity=(1, 0), size_ratio=1)
    near.observe([record(i, i % 3) for i in range(64)])
    assert near.outdated_by(linear(ROLL))
    far = Trial(version, linear(KEEP), linear(ROLL), alpha=0.01, born={}, parity=(1, 0), size_ratio=1)
    far.observe([record(i, i % 3) for i in range(64)])
    assert not far.outdated_by(linear(ROLL))
