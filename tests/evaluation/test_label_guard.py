"""Guard by labels: a class that is harmed does not pass, one that is not does, and soon enough."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tta_agent.core.evidence import Evidence, LabelledPair
from tta_agent.evaluation.class_tally import (
    ALONE,
    UNSEEN,
    ClassTally,
    exposed,
    groups,
    mean_recall,
    tally,
    unasked,
)
from tta_agent.evaluation.label_guard import HARM, LEVEL, LabelGuard, log_unharmed
from tta_agent.evaluation.sequential import log_capital


def two_classes(names, classes=2):
    return np.eye(classes, dtype=np.float32)[np.asarray(names, int)] * 4


def evidence(pairs, classes=2, **more):
    """Of labels, serving's and the candidate's classes, one row a record."""
    _, serving, candidate = np.asarray(pairs).T
    judged = tuple(LabelledPair(*map(int, row)) for row in pairs)
    steps = [one.step for one in judged]
    return Evidence(
        two_classes(serving, classes), two_classes(candidate, classes), steps.count(1), steps.count(-1), len(judged),
        0.01, judged=judged, **more,
    )  # fmt: skip


def rows(label, serving, candidate, n):
    return [(label, serving, candidate)] * n


def worst(pairs, *, doubt="classes", loss=0.2, classes=2):
    return LabelGuard(loss).judge(evidence(pairs, classes), doubt)[0]


def test_capital_is_the_product_of_the_bets():
    values = ((1.0, 3), (0.0, 5), (-1.0, 2))
    bets = (0.25, 0.5, 0.75, 0.95)
    hand = np.mean([
        np.prod([(1 + f * (v + 0.2) / 0.8) ** n for v, n in values]) for f in bets
    ])  # fmt: skip
    assert math.isclose(math.exp(log_capital(values, -0.2, -1.0)), hand)
    assert log_capital((), 0.0, -1.0) == 0.0


@pytest.mark.parametrize(("win", "lose"), [(0.0, 0.2), (0.1, 0.3), (0.3, 0.5)])
def test_a_class_that_is_harmed_seldom_passes_at_any_look(win, lose):
    random, runs, passed = np.random.default_rng(1), 400, 0
    for _ in range(runs):
        steps = random.choice([1, -1, 0], 300, p=[win, lose, 1 - win - lose])
        right = np.where(steps == 1, 1, np.where(steps == -1, 0, random.random(300) < 0.4))
        wins, losses, hits = np.cumsum(steps == 1), np.cumsum(steps == -1), np.cumsum(right)
        one = [ClassTally("0", n + 1, *map(int, (wins[n], losses[n], hits[n]))) for n in range(300)]
        passed += any(log_unharmed(t, 0.2, 0.6) >= math.log(1 / LEVEL) for t in one)
    assert passed <= stats.binom.ppf(0.999, runs, LEVEL)


def test_a_candidate_that_harms_no_class_is_seldom_refused():
    random, runs, refused, classes = np.random.default_rng(2), 100, 0, 5
    for _ in range(runs):
        truth = random.integers(0, classes, 400)
        lost = random.random(400) < 0.2  # just what is borne
        pairs = [(c, c, (c + 1) % classes if gone else c) for c, gone in zip(truth, lost, strict=True)]
        refused += any(worst(pairs[:n], classes=classes).verdict == "fail" for n in range(20, 401, 20))
    assert refused <= stats.binom.ppf(0.999, runs, HARM)


def test_sixteen_labels_without_a_loss_show_that_a_class_is_kept():
    kept = rows(0, 1, 0, 40) + rows(0, 0, 0, 400)  # nearly all are right: only the fall can be shown
    assert worst(kept + rows(1, 1, 1, 16)).verdict == "pass"
    found = worst(kept + rows(1, 1, 1, 15))
    assert found.verdict == "inconclusive"
    assert "class 1: recall 100% to 100% on 15 labels" in found.reason


def test_a_rare_class_that_is_lost_is_refused_though_accuracy_rises():
    found = worst(rows(0, 1, 0, 60) + rows(0, 0, 0, 40) + rows(1, 1, 0, 12))
    assert (found.verdict, found.value, found.threshold) == ("fail", -1.0, -0.2)
    assert "recall 100% to 0% on 12 labels" in found.reason


def test_a_rare_class_without_labels_holds_a_candidate_that_takes_it_away():
    pairs = rows(0, 1, 0, 60) + rows(0, 0, 0, 40)  # all right, but never a 1
    for doubt in ("none", "some", "classes"):
        assert worst(pairs, doubt=doubt).verdict == "inconclusive"
    many = rows(0, 1, 0, UNSEEN)
    assert worst(many).verdict == "pass"  # of so many labels none is a 1: there are none


def test_where_nothing_is_doubted_classes_that_are_named_as_often_need_no_labels():
    balanced = rows(0, 0, 0, 30) + rows(0, 1, 0, 3) + rows(1, 0, 1, 3)
    assert worst(balanced, doubt="none").verdict == "pass"
    assert worst(balanced, doubt="classes").verdict == "inconclusive"


def test_where_the_classes_are_not_doubted_only_ruin_is_ruled_out_and_that_what_looks_like_harm():
    kept = rows(0, 1, 0, 40) + rows(0, 0, 0, 400)
    few = kept + rows(1, 1, 1, 7)
    assert worst(few, doubt="some").verdict == "pass"
    assert worst(few, doubt="classes").verdict == "inconclusive"
    lossy = kept + rows(1, 1, 1, 20) + rows(1, 1, 0, 7)
    assert worst(lossy, doubt="some").verdict == "inconclusive"  # a quarter seems lost
    assert worst(kept + rows(1, 1, 1, 20) + rows(1, 1, 0, 4), doubt="some").verdict == "pass"


def test_a_class_that_serving_favours_may_give_up_some_of_what_it_had():
    """Serving calls everything a 0; the candidate mends the other four and keeps 70 % of the 0s."""
    pairs = rows(0, 0, 0, 28) + rows(0, 0, 1, 12)
    for c in (1, 2, 3, 4):
        pairs += rows(c, 0, c, 30) + rows(c, 0, 0, 10)
    assert mean_recall(tally(evidence(pairs, 5))) == pytest.approx(0.2)
    assert worst(pairs, classes=5).verdict == "pass"
    assert worst(rows(0, 0, 0, 4) + rows(0, 0, 1, 36) + pairs[40:], classes=5).verdict == "fail"


def test_classes_with_few_labels_are_judged_together():
    few = [ClassTally(str(c), 4, 1, 0, 4, 3) for c in range(5)]
    big = ClassTally("9", ALONE, 2, 1, 8, 7)
    alone, together = groups([*few, big])
    assert alone is big
    assert (together.labels, together.wins, together.right) == (20, 5, 20)
    assert groups([]) == []


def test_exposed_are_classes_named_less_often_beyond_chance_and_than_they_occur():
    before, after = [0] * 60 + [1] * 40, [0] * 95 + [1] * 5
    pairs = list(zip(before, after, strict=True))
    assert exposed(evidence([(b, b, a) for b, a in pairs]), 0.2) == {"1"}
    assert exposed(evidence([(a, b, a) for b, a in pairs]), 0.2) == set()  # as often as it occurs
    swapped = [(0, 1 - a, a) for a in (0, 1) * 50]
    assert exposed(evidence(swapped), 0.2) == set()


def sure(n, right, confidence):
    """Records of which both graphs name the same; serving 70 % sure, and that often right."""
    return [
        LabelledPair(int(i >= right * n), 0, 0, confidence=(0.7, confidence))
        for i in np.random.permutation(n)
    ]


def test_confidence_that_means_less_is_refused_by_ece_on_the_labels():
    np.random.seed(0)
    for confidence, n, verdict in ((0.7, 300, "pass"), (0.99, 300, "fail"), (0.99, 60, "pass")):
        judged = tuple(sure(n, 0.7, confidence))
        case = Evidence(two_classes([0]), two_classes([0]), 0, 0, n, 0.01, judged=judged)
        found = LabelGuard().judge(case, "some")[1]
        assert (found.gate, found.verdict) == ("label_calibration", verdict)


def test_confidence_that_was_not_kept_says_nothing_and_no_label_at_all_nothing_either():
    pairs = rows(0, 1, 0, 200) + rows(1, 1, 1, 20)
    assert LabelGuard().judge(evidence(pairs), "some")[1].verdict == "pass"
    assert LabelGuard().judge(Evidence(two_classes([0]), two_classes([1]), 0, 0, 0, 0.01), "some") == ()


def on_request(window, pairs, classes):
    """Evidence of a window of records, labels of `pairs`, none of them of an agreement."""
    whole = evidence(window, classes)
    asked = evidence(pairs, classes)
    return replace(asked, serving=whole.serving, candidate=whole.candidate)


def collapsed(found, n=200):
    """Window of ten classes: a source that calls everything 0, a candidate that finds so large a share of each."""
    right = round(found * n)
    return [row for c in range(10) for row in rows(c, 0, c, right) + rows(c, 0, (c + 1) % 10 or 1, n - right)]


def some_apart(window, count):
    """So many of the records on which the graphs disagree, evenly spread."""
    apart = [row for row in window if row[1] != row[2]]
    return apart[:: len(apart) // count]


def test_a_source_that_calls_everything_one_thing_does_not_block_by_labels_on_request():
    window = collapsed(0.6)
    asked = some_apart(window, 120)
    assert sum(label == 0 for label, _, _ in asked) >= 4
    assert worst(asked, doubt="none", classes=10).verdict != "pass"  # as if they had come at random
    found = on_request(window, asked, 10)
    assert LabelGuard(0.2).judge(found, "none")[0].verdict == "pass"
    assert "labels and" in tally(found)[0].recalls


def test_a_class_that_the_candidate_never_names_is_not_kept_by_agreements():
    window = [(t, s, 1 if c == 0 else c) for t, s, c in collapsed(0.6)]
    found = LabelGuard(0.2).judge(on_request(window, some_apart(window, 300), 10), "none")[0]
    assert found.verdict == "fail" and found.reason.startswith("class 0: recall 100% to 0%")


def test_labels_at_random_get_no_agreements():
    window = collapsed(0.6)
    assert not unasked(evidence(window, 10)).any()
    drawn = (np.random.default_rng(seed).permutation(len(window))[:60] for seed in range(20))
    found = [unasked(on_request(window, [window[i] for i in some], 10)).any() for some in drawn]
    assert sum(found) <= 2  # by chance


def test_agreements_are_estimated_below_what_they_are():
    random, classes, told = np.random.default_rng(3), 5, []
    truth = random.integers(0, classes, 4000)
    serving = np.where(random.random(4000) < 0.6, truth, random.integers(0, classes, 4000))
    candidate = np.where(random.random(4000) < 0.7, truth, random.integers(0, classes, 4000))
    window = list(zip(truth.tolist(), serving.tolist(), candidate.tolist(), strict=True))
    apart = [row for row in window if row[1] != row[2]]
    asked = [apart[i] for i in random.permutation(len(apart))[:200]]
    share = 200 / len(apart)
    for name, estimate in enumerate(unasked(on_request(window, asked, classes))):
        told.append(estimate / (share * sum(row == (name,) * 3 for row in window)))
    assert min(told) > 0.4 and max(told) < 1.0


def test_by_labels_on_request_a_class_that_is_harmed_seldom_passes_at_any_look():
    passed, runs, classes = 0, 60, 5
    for seed in range(runs):
        random = np.random.default_rng(seed)
        truth = random.integers(0, classes, 2000)
        other = (truth + random.integers(1, classes, 2000)) % classes
        serving = np.where(random.random(2000) < np.where(truth == 0, 0.6, 0.5), truth, other)
        keeps = random.random(2000) < np.where(truth == 0, 0.5, 0.9)
        gains = (truth != 0) & (random.random(2000) < 0.6)
        candidate = np.where((serving == truth) & keeps | (serving != truth) & gains, truth, other)
        window = list(zip(truth.tolist(), serving.tolist(), candidate.tolist(), strict=True))
        apart = [row for row in window if row[1] != row[2]]
        asked = [apart[i] for i in random.permutation(len(apart))[:200]]
        looks = (on_request(window, asked[:n], classes) for n in range(20, 201, 20))
        passed += any(LabelGuard(0.2).judge(one, "classes")[0].verdict == "pass" for one in looks)
    assert passed <= stats.binom.ppf(0.999, runs, LEVEL)
