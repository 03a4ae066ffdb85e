"""What takes a version back after a swap."""

import numpy as np
import pytest

from tests.evaluation.test_candidate import KEEP, ROLL, label, linear, record, torch_round_trip
from tta_agent.core.types import GateResult, Version
from tta_agent.evaluation.paired import BatchPredictions
from tta_agent.rollout.bake import BakeMonitor


class Veto:
    """Fails while it is told to."""

    def __init__(self, gate="collapse"):
        self.verdict, self.gate, self.asked = "pass", gate, 0

    def judge(self, evidence):
        self.asked += 1
        return GateResult(self.gate, 0.0, 0.0, self.verdict, "told to")


def make(tmp_path, *vetoes, **more):
    versions = [Version(number, "", tmp_path, "certified") for number in (3, 1)]
    keep = linear(KEEP)
    graphs = {"serving": keep, "candidate": linear(ROLL), "source": keep}
    options = {"alpha": 0.05, "bake_records": 100, "window": 10, "trips": 2, **more}
    return BakeMonitor(*versions, graphs, vetoes, **options)


def feed(bake, start, n, now_s=0.0):
    """Why it must go, if it must, after n records one by one."""
    found = [bake.on_records(BatchPredictions([record(i, 0)]), now_s) for i in range(start, start + n)]
    return next((finding for finding in found if finding), None)


def test_labels_that_the_version_before_wins_take_it_back(tmp_path):
    bake = make(tmp_path)
    feed(bake, 0, 40)
    found = [bake.on_label(label(i, 0)) for i in range(40)]  # the baseline answers 0
    first = next(i for i, finding in enumerate(found) if finding)
    assert found[first].gate == "reverse"
    assert 4 <= first <= 9  # 1/alpha = 20 against it


def test_while_it_bakes_labels_of_records_that_teach_count_too(tmp_path):
    for baking in (True, False):
        bake = make(tmp_path)
        feed(bake, 0, 10 if baking else 100)
        assert bake.settles() is not baking
        bake.on_training_records(BatchPredictions([record(i, 0) for i in range(500, 520)]))
        again = make(tmp_path)
        again.load_state_dict(torch_round_trip(bake.state_dict()))
        for one in (bake, again):
            found = [one.on_label(label(i, 0)) for i in range(500, 520)]
            assert any(found) is baking
            assert one.pairs.records == (
                10 if baking else 100
            )  # it bakes for as many held-out records as before


def test_labels_that_it_wins_settle_it(tmp_path):
    bake = make(tmp_path)
    feed(bake, 0, 99)
    assert not any(bake.on_label(label(i, 1)) for i in range(90))
    assert not bake.settles()
    feed(bake, 99, 1)
    assert bake.settles()
    assert not bake.settles()  # told once
    assert not bake.baking


def test_a_version_that_turns_bad_after_the_bake_is_found_by_the_detector(tmp_path):
    bake = make(tmp_path)
    feed(bake, 0, 400)
    assert bake.settles()
    assert not any(bake.on_label(label(i, 1)) for i in range(300))
    found = [bake.on_label(label(i, 0)) for i in range(300, 400)]
    assert next(finding for finding in found if finding).gate == "detector"


def test_a_veto_must_fail_in_windows_that_follow_each_other(tmp_path):
    veto = Veto()
    bake = make(tmp_path, veto)
    for i, verdict in enumerate(("fail", "pass", "fail", "pass")):
        veto.verdict = verdict
        assert feed(bake, 10 * i, 10) is None
    veto.verdict = "fail"
    assert feed(bake, 40, 10) is None
    assert feed(bake, 50, 10).gate == "collapse"


def test_a_broken_graph_goes_at_once(tmp_path):
    veto = Veto("integrity")
    veto.verdict = "fail"
    assert feed(make(tmp_path, veto), 0, 10).gate == "integrity"


def test_a_guarded_version_ends(tmp_path):
    bake = make(tmp_path, expires_s=100.0)
    assert feed(bake, 0, 1, now_s=99.0) is None
    assert feed(bake, 1, 1, now_s=100.0).gate == "expiry"


@pytest.mark.parametrize("settled", [False, True])
def test_it_survives_a_restart(tmp_path, settled):
    one, other = make(tmp_path), make(tmp_path)
    feed(one, 0, 120 if settled else 15)
    assert one.settles() is settled
    one.on_label(label(3, 0))
    other.load_state_dict(torch_round_trip(one.state_dict()))
    assert other.baking is one.baking is not settled
    for bake in (one, other):
        feed(bake, 200, 10)
    ends = [[bake.on_label(label(i, 0)) for i in range(200, 210)] for bake in (one, other)]
    assert ends[0] == ends[1]
    assert np.array_equal(one.pairs.window("candidate"), other.pairs.window("candidate"))


def test_a_guess_about_collapse_takes_nothing_back_while_labels_say_that_the_version_is_better(tmp_path):
    guess = Veto()
    guess.veto = "plausibility"
    guess.verdict = "fail"
    unlabelled, led, trailing = (make(tmp_path, guess) for _ in range(3))
    assert feed(unlabelled, 0, 20).gate == "collapse"
    for bake, right in ((led, 1), (trailing, 0)):
        feed(bake, 0, 9)
        for i in range(3):
            bake.on_label(label(i, right))
    again = make(tmp_path, guess)
    again.load_state_dict(torch_round_trip(led.state_dict()))
    for bake in (led, again):
        assert feed(bake, 9, 31) is None
    assert feed(trailing, 9, 31).gate == "collapse"


def test_a_lead_of_long_ago_is_no_lead(tmp_path):
    guess = Veto()
    guess.veto = "plausibility"
    bake = make(tmp_path, guess, alpha=1e-9)
    feed(bake, 0, 260)
    for i in range(250):
        bake.on_label(label(i, int(i < 200)))
    guess.verdict = "fail"
    assert feed(bake, 260, 30).gate == "collapse"


def test_a_guess_that_labels_set_aside_at_the_promotion_takes_nothing_back(tmp_path):
    guess, sure = Veto("histogram"), Veto("forgetting")
    guess.veto = "plausibility"
    guess.verdict = "fail"
    bake = make(tmp_path, guess, sure, outranked=["histogram", "forgetting"])
    assert feed(bake, 0, 60) is None
    sure.verdict = "fail"  # of safety: nothing sets it aside
    assert feed(bake, 60, 20).gate == "forgetting"
