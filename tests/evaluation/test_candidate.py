"""Paired evaluation and its bookkeeping."""

import io
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from tta_agent.core.evidence import GainEstimate
from tta_agent.core.types import Label, Record, Version
from tta_agent.evaluation.candidate import CandidateEvaluation, CandidateFacts
from tta_agent.evaluation.paired import BatchPredictions
from tta_agent.models.ort_sessions import open_session


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


def make(tmp_path, candidate, *, born=None, **more):
    keep = linear(KEEP)
    graphs = {"serving": keep, "candidate": linear(candidate), "source": keep, "proven": keep}
    return CandidateEvaluation(
        Version(1, "", tmp_path, "none"), 0, graphs, born or {}, CandidateFacts(0.01), **more
    )


@pytest.fixture
def trial(tmp_path):
    return make(tmp_path, ROLL, born={("t", 0): 10})


def observe(trial, records):
    return trial.observe(BatchPredictions(records))


def label(i, truth):
    return Label(f"r{i}", truth, 0.0)


def counts(trial):
    pairing = trial.pairing
    return pairing.records, pairing.wins, pairing.losses, pairing.labels


def test_wins_and_losses_are_counted_on_disagreements(trial):
    observe(trial, [record(i, 0) for i in range(10, 14)])
    for i, truth in ((10, 1), (11, 0), (12, 2), (10, 1)):  # candidate right, serving right, neither, again
        trial.label(label(i, truth))
    assert counts(trial) == (4, 1, 1, 3)
    assert [judged.step for judged in trial.evidence().judged] == [1, -1, 0]


def test_records_that_the_candidate_may_have_learnt_from_do_not_count(trial):
    observe(trial, [record(9, 0), record(10, 0), record(3, 0, partition=1)])
    trial.label(label(9, 1))
    assert counts(trial) == (2, 0, 0, 0)


def test_a_record_that_comes_twice_counts_once(trial):
    observe(trial, [record(10, 0)])
    trial.label(label(10, 1))
    observe(trial, [record(10, 0)])
    trial.label(label(10, 1))
    assert counts(trial) == (1, 1, 0, 1)


def test_one_label_counts_for_each_entity_and_stretch_of_time(tmp_path):
    trial = make(tmp_path, ROLL, bucket_s=60.0)
    same = [replace(record(i, 0), key="camera", time_s=float(i)) for i in range(10)]
    later = replace(record(99, 0), key="camera", time_s=61.0)
    other = replace(record(98, 0), key="scanner", time_s=1.0)
    observe(trial, [*same, later, other])
    for r in (*same, later, other):
        trial.label(Label(r.id, 1, 0.0))
    assert counts(trial) == (12, 3, 0, 3)


def test_evidence_is_paired(trial):
    observe(trial, [record(10, 0)])
    observe(trial, [record(11, 1), record(12, 2)])
    evidence = trial.evidence()
    assert evidence.serving.argmax(1).tolist() == [0, 1, 2]
    assert evidence.candidate.argmax(1).tolist() == [1, 2, 0]
    assert np.array_equal(evidence.source, evidence.serving)
    assert list(evidence.tenants) == ["r10", "r11", "r12"]


def test_the_window_forgets_and_the_labels_stay(tmp_path):
    trial = make(tmp_path, ROLL, window=4)
    for i in range(10):
        observe(trial, [record(i, 0)])
        trial.label(label(i, 1))
    assert trial.evidence().serving.shape == (4, 3)
    assert counts(trial) == (10, 10, 0, 10)
    trial.pairing.forget_window()
    assert len(trial.pairing.window("serving")) == trial.pairing.held == 0
    assert counts(trial) == (10, 10, 0, 10)


def test_each_graph_is_asked_once_for_records_that_arrive_together(tmp_path):
    asked_for = []

    class Counting:
        def __init__(self):
            self.inner = linear(KEEP)

        def run(self, outputs, feeds):
            asked_for.append(len(next(iter(feeds.values()))))
            return self.inner.run(outputs, feeds)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    session = Counting()
    graphs = dict.fromkeys(("serving", "candidate", "source", "proven"), session)
    trial = CandidateEvaluation(Version(1, "", tmp_path, "none"), 0, graphs, {}, CandidateFacts(0.01))
    observe(trial, [record(i, 0) for i in range(5)])
    assert asked_for == [5]


def test_a_rehearsal_is_asked_about_windows_that_share_no_record(tmp_path):
    seen = []

    def expect(serving, candidate, source, anchor, moved):
        seen.append(len(serving))
        return GainEstimate(0.1, 0.05, 0.05, True, "")

    trial = make(tmp_path, ROLL, expect=expect, every=8)
    for i in range(20):
        observe(trial, [record(i, 0)])
    assert seen == [8, 8]
    assert trial.evidence().expected.lower == 0.05


def test_a_trial_survives_a_restart(trial, tmp_path):
    observe(trial, [record(i, 0) for i in range(10, 20)])
    trial.label(label(10, 1))
    again = make(tmp_path, ROLL, born={("t", 0): 10})
    again.load_state_dict(torch_round_trip(trial.state_dict()))
    for one in (trial, again):
        observe(one, [record(i, 0) for i in range(15, 25)])
        one.label(label(10, 1))
        one.label(label(11, 0))
    assert counts(again) == counts(trial) == (15, 1, 1, 2)
    assert np.array_equal(again.evidence().candidate, trial.evidence().candidate)


def test_a_candidate_that_leads_gets_more_time(tmp_path):
    trial = make(tmp_path, ROLL)
    observe(trial, [record(i, 0) for i in range(40)])
    assert trial.overdue(40) and not trial.overdue(41)
    for i in range(2):
        trial.label(label(i, 1))
    assert trial.pairing.wins == 2 and not trial.overdue(40)
    assert trial.overdue(10)
    for i in range(2, 4):
        trial.label(label(i, 0))
    assert trial.overdue(40)  # two won, two lost


def torch_round_trip(state):
    """As a checkpoint keeps it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_outdated_when_the_copy_moved_much_further_than_the_candidate_stands_from_serving(tmp_path):
    near = make(tmp_path, KEEP)
    observe(near, [record(i, i % 3) for i in range(64)])
    assert near.outdated_by(linear(ROLL))
    far = make(tmp_path, ROLL)
    observe(far, [record(i, i % 3) for i in range(64)])
    assert not far.outdated_by(linear(ROLL))
