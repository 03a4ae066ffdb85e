"""Paired evaluation and its bookkeeping."""

import io
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from tta_agent.core.evidence import GainEstimate
from tta_agent.core.types import GateResult, Label, Record, Version
from tta_agent.drift.regime import DataRegime
from tta_agent.evaluation.candidate import STEP, CandidateEvaluation
from tta_agent.evaluation.decision import GateSet
from tta_agent.evaluation.facts import CandidateFacts
from tta_agent.evaluation.paired import BatchPredictions
from tta_agent.evaluation.phase import Phase
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


def make(tmp_path, candidate, *, until=None, **more):
    keep = linear(KEEP)
    graphs = {"serving": keep, "candidate": linear(candidate), "source": keep, "proven": keep}
    return CandidateEvaluation(
        Version(1, "", tmp_path, "none"), 0, graphs, until or {}, CandidateFacts(0.01), **more
    )


@pytest.fixture
def evaluation(tmp_path):
    return make(tmp_path, ROLL, until={("t", 0): 10})


def observe(evaluation, records):
    return evaluation.on_records(BatchPredictions(records))


def label(i, truth):
    return Label(f"r{i}", truth, 0.0)


def counts(evaluation):
    pairs = evaluation.pairs
    return pairs.records, pairs.wins, pairs.losses, pairs.labels


def test_wins_and_losses_are_counted_on_disagreements(evaluation):
    observe(evaluation, [record(i, 0) for i in range(10, 14)])
    for i, truth in ((10, 1), (11, 0), (12, 2), (10, 1)):  # candidate right, serving right, neither, again
        evaluation.on_label(label(i, truth))
    assert counts(evaluation) == (4, 1, 1, 3)
    assert [judged.step for judged in evaluation.evidence().judged] == [1, -1, 0]


def test_records_that_the_candidate_may_have_learnt_from_do_not_count(evaluation):
    observe(evaluation, [record(9, 0), record(10, 0), record(3, 0, partition=1)])
    evaluation.on_label(label(9, 1))
    assert counts(evaluation) == (2, 0, 0, 0)


def test_a_record_that_comes_twice_counts_once(evaluation):
    observe(evaluation, [record(10, 0)])
    evaluation.on_label(label(10, 1))
    observe(evaluation, [record(10, 0)])
    evaluation.on_label(label(10, 1))
    assert counts(evaluation) == (1, 1, 0, 1)


def test_one_label_counts_for_each_entity_and_stretch_of_time(tmp_path):
    evaluation = make(tmp_path, ROLL, bucket_s=60.0)
    same = [replace(record(i, 0), key="camera", time_s=float(i)) for i in range(10)]
    later = replace(record(99, 0), key="camera", time_s=61.0)
    other = replace(record(98, 0), key="scanner", time_s=1.0)
    observe(evaluation, [*same, later, other])
    for r in (*same, later, other):
        evaluation.on_label(Label(r.id, 1, 0.0))
    assert counts(evaluation) == (12, 3, 0, 3)


def test_evidence_is_paired(evaluation):
    observe(evaluation, [record(10, 0)])
    observe(evaluation, [record(11, 1), record(12, 2)])
    evidence = evaluation.evidence()
    assert evidence.serving.argmax(1).tolist() == [0, 1, 2]
    assert evidence.candidate.argmax(1).tolist() == [1, 2, 0]
    assert np.array_equal(evidence.source, evidence.serving)
    assert list(evidence.tenants) == ["r10", "r11", "r12"]


def test_the_window_forgets_and_the_labels_stay(tmp_path):
    evaluation = make(tmp_path, ROLL, window=4)
    for i in range(10):
        observe(evaluation, [record(i, 0)])
        evaluation.on_label(label(i, 1))
    assert evaluation.evidence().serving.shape == (4, 3)
    assert counts(evaluation) == (10, 10, 0, 10)
    evaluation.pairs.forget_window()
    assert len(evaluation.pairs.window("serving")) == evaluation.pairs.held == 0
    assert counts(evaluation) == (10, 10, 0, 10)


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
    evaluation = CandidateEvaluation(Version(1, "", tmp_path, "none"), 0, graphs, {}, CandidateFacts(0.01))
    observe(evaluation, [record(i, 0) for i in range(5)])
    assert asked_for == [5]


def test_a_rehearsal_is_asked_about_windows_that_share_no_record(tmp_path):
    seen = []

    def expect(serving, candidate, source, anchor, moved):
        seen.append(len(serving))
        return GainEstimate(0.1, 0.05, 0.05, True, "")

    evaluation = make(tmp_path, ROLL, estimate=expect, every=8)
    for i in range(20):
        observe(evaluation, [record(i, 0)])
    assert seen == [8, 8]
    assert evaluation.evidence().expected.lower == 0.05
    again = make(tmp_path, ROLL, estimate=expect, every=8)
    again.load_state_dict(torch_round_trip(evaluation.state_dict()), None)
    for i in range(20, 100):
        observe(again, [record(i, 0)])
    assert seen == [8, 8, 8, 8]  # at 8, 16, 32 and 64 records


def test_an_evaluation_survives_a_restart(evaluation, tmp_path):
    observe(evaluation, [record(i, 0) for i in range(10, 20)])
    evaluation.on_label(label(10, 1))
    again = make(tmp_path, ROLL, until={("t", 0): 10})
    again.load_state_dict(torch_round_trip(evaluation.state_dict()), None)
    for one in (evaluation, again):
        observe(one, [record(i, 0) for i in range(15, 25)])
        one.on_label(label(10, 1))
        one.on_label(label(11, 0))
    assert counts(again) == counts(evaluation) == (15, 1, 1, 2)
    assert np.array_equal(again.evidence().candidate, evaluation.evidence().candidate)


def test_a_candidate_that_leads_gets_more_time(tmp_path):
    evaluation = make(tmp_path, ROLL)
    observe(evaluation, [record(i, 0) for i in range(40)])
    assert evaluation.overdue(40) and not evaluation.overdue(41)
    for i in range(2):
        evaluation.on_label(label(i, 1))
    assert evaluation.pairs.wins == 2 and not evaluation.overdue(40)
    assert evaluation.overdue(10)
    for i in range(2, 4):
        evaluation.on_label(label(i, 0))
    assert evaluation.overdue(40)  # two won, two lost


def test_where_labels_come_the_time_begins_with_the_first(tmp_path):
    evaluation = make(tmp_path, ROLL)
    observe(evaluation, [record(i, 0) for i in range(60)])
    assert not evaluation.overdue(40, labels_come=True)
    evaluation.on_label(label(0, 0))
    again = make(tmp_path, ROLL)
    again.load_state_dict(torch_round_trip(evaluation.state_dict()), None)
    assert again.overdue(40) and not again.overdue(40, labels_come=True)
    again.on_label(label(1, 0))
    observe(again, [record(i, 0) for i in range(60, 100)])
    assert again.overdue(40, labels_come=True)


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


class Verdict:
    """A gate that says what it is told, as a proof."""

    proof, verdict = "certified", "inconclusive"

    def judge(self, evidence):
        return GateResult("told", 0.0, 0.0, self.verdict, "")


def test_gates_are_asked_again_only_where_there_is_news(evaluation):
    gates = GateSet([Verdict()])
    observe(evaluation, [record(i, 0) for i in range(10, 10 + STEP - 1)])
    assert evaluation.judge(gates) is None
    evaluation.on_label(label(10, 1))
    assert evaluation.judge(gates).outcome == "open" and evaluation.judge(gates) is None
    observe(evaluation, [record(i, 0) for i in range(50, 50 + STEP)])
    assert evaluation.judge(gates) is not None


def test_a_proof_that_is_held_back_is_judged_anew_with_any_evidence_and_may_be_undone(evaluation):
    gate = Verdict()
    gate.verdict = "pass"
    observe(evaluation, [record(i, 0) for i in range(10, 10 + STEP)])
    assert evaluation.judge(GateSet([gate])).outcome == "proven"
    evaluation.hold("approval")
    assert (evaluation.phase, evaluation.held_by) == (Phase.PROVEN, "approval")
    assert evaluation.judge(GateSet([gate])) is None
    gate.verdict = "inconclusive"
    observe(evaluation, [record(99, 0)])
    assert evaluation.judge(GateSet([gate])).outcome == "open"
    assert (evaluation.phase, evaluation.held_by) == (Phase.RUNNING, None)


def test_a_suspended_evaluation_counts_labels_and_goes_on_where_it_was(evaluation):
    gate, regime = Verdict(), DataRegime()
    observe(evaluation, [record(i, 0) for i in range(10, 10 + STEP)])
    evaluation.suspend(regime)
    assert evaluation.on_label(label(10, 1)) and evaluation.regime is regime
    evaluation.resume()
    assert evaluation.phase is Phase.RUNNING
    gate.verdict = "pass"
    evaluation.judge(GateSet([gate]))
    evaluation.suspend(regime)
    evaluation.resume()
    assert evaluation.phase is Phase.PROVEN


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("to", Phase)
def test_no_way_leads_out_of_the_end_nor_twice_into_a_suspension(evaluation, phase, to):
    evaluation.phase = phase
    allowed = phase is not Phase.ENDED and not (phase is to is Phase.SUSPENDED)
    if allowed:
        evaluation._to(to)
        assert evaluation.phase is to
    else:
        with pytest.raises(ValueError, match=f"no way from {phase} to {to}"):
            evaluation._to(to)
