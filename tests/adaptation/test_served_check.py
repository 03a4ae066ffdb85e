"""The deployed model is compared with the first served answers before anything is learnt."""

import logging

import numpy as np
import pytest

from tta_agent.adaptation.served_check import ServedCheck, distance
from tta_agent.core.errors import ConfigError
from tta_agent.core.types import Record, softmax
from tta_agent.models.outputs import LOGITS, ModelOutput

WEIGHTS = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
PROBABILITIES = ModelOutput(None, "probabilities")


def own(x):
    return x.reshape(len(x), -1) @ WEIGHTS


def log_p(x):
    return np.log(np.maximum(softmax(own(x)), 1e-30)).astype(np.float32)


def records(n, answer, version=0, seed=1):
    x = np.random.default_rng(seed).normal(size=(n, 1, 4, 4)).astype(np.float32)
    served = answer(x) if answer else [None] * n
    return [Record(f"r{i}", 1.0, x[i], served[i], version, f"r{i}", None, "t", 0, i) for i in range(n)]


def check(output=LOGITS, ask=own, unversioned=True):
    return ServedCheck(ask, output, unversioned=unversioned)


@pytest.mark.parametrize(
    "noise",
    [
        lambda z: z,
        lambda z: z + 7.5,
        lambda z: z.astype(np.float16).astype(np.float32),
        lambda z: z * (1 + np.random.default_rng(2).normal(0, 0.02, z.shape)),
    ],
    ids=["equal", "up to a constant", "half precision", "rounding of a quantised server"],
)
def test_the_same_model_passes_whatever_the_precision(noise, caplog):
    with caplog.at_level(logging.INFO):
        assert check().passed(records(40, lambda x: noise(own(x))))
    [told] = caplog.messages
    assert told.startswith("served answers are the model's: over 32 records")


def test_probabilities_in_half_precision_pass():
    def halved(x):
        p = softmax(3 * own(x)).astype(np.float16).astype(np.float32)
        assert (p == 0).any()
        return PROBABILITIES.logits(p)

    def exact(x):
        return PROBABILITIES.logits(softmax(3 * own(x)).astype(np.float32))

    assert check(PROBABILITIES, exact).passed(records(32, halved))
    one = ModelOutput(None, "probability")

    def sigmoid(x):
        return 1 / (1 + np.exp(-2 * own(x)[:, :1]))

    assert check(one, lambda x: one.logits(sigmoid(x))).passed(
        records(32, lambda x: one.logits(sigmoid(x).astype(np.float16)))
    )


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda x: own(x)[:, ::-1], "check the weights"),
        (lambda x: own(0.3 - x), "preprocessing"),
        (lambda x: np.roll(own(x), 1, 0), "TTA_MODEL__OUTPUT"),
        (lambda x: own(x) * (1 + np.random.default_rng(3).normal(0, 0.4, (len(x), 5))), "check the weights"),
        (lambda x: softmax(own(x)).astype(np.float32), "the served answers are probabilities"),
    ],
)
def test_another_model_is_refused_with_the_distance_and_what_to_check(answer, hint):
    with pytest.raises(ConfigError) as refused:
        check().passed(records(32, answer))
    text = str(refused.value)
    assert hint in text and "median difference" in text and "% name the same class" in text
    assert "TTA_MODEL__CHECK_SERVED=false" in text
    assert len(text.splitlines()) <= 3


def test_logits_served_where_the_model_answers_probabilities_are_told_apart():
    served = records(32, lambda x: PROBABILITIES.logits(own(x)))
    with pytest.raises(ConfigError, match="the served answers are none"):
        check(PROBABILITIES, log_p).passed(served)


def test_a_few_odd_answers_do_not_matter_and_many_do():
    def odd(n):
        def answer(x):
            z = own(x)
            z[:n] = -z[:n]
            return z

        return answer

    assert check().passed(records(32, odd(5)))
    with pytest.raises(ConfigError, match="is not what the model answers"):
        check().passed(records(32, odd(12)))


def test_it_waits_for_enough_answers_and_then_asks_no_more():
    asked = []
    one = check(ask=lambda x: asked.append(len(x)) or own(x))
    rows = records(40, own)
    assert [one.passed(rows[i : i + 2]) for i in range(0, 8, 2)] == [False, False, False, True]
    assert asked == [8]
    assert one.passed(records(32, lambda x: -own(x))) and asked == [8]


def test_only_answers_of_version_0_count():
    def wrong(x):
        return -own(x)

    for version in (3, None):
        one = check(unversioned=False)
        assert not one.passed(records(31, wrong, version))
        assert one.passed(records(1, wrong, version))
    with pytest.raises(ConfigError, match="is not what"):
        check(unversioned=True).passed(records(32, wrong, None))
    with pytest.raises(ConfigError, match="is not what"):
        check(unversioned=False).passed(records(32, wrong, 3) + records(8, wrong))


def test_a_stream_without_answers_is_said_to_be_unchecked(caplog):
    one = check()
    assert not one.passed(records(31, None))
    assert one.passed(records(1, None))
    assert "could not be compared" in caplog.text and "0 of the first 32 records" in caplog.text


def test_with_few_answers_it_waits_longer(caplog):
    one = check()
    assert not one.passed(records(3, own) + records(250, None))
    assert one.passed(records(3, None))
    assert "3 of the first 256 records" in caplog.text


def test_answers_that_are_all_alike_are_equal_but_for_rounding():
    flat = np.zeros((8, 4), np.float32)
    assert distance(flat + 1e-7 * np.eye(8, 4), flat)[0] < 1e-4
