"""`--fail-if`: what it says, what it understands, and that it runs nothing else."""

import pytest

from tta_agent.core.errors import ConfigError
from tta_agent.replay import rules

FIGURES = {
    **dict.fromkeys(rules.NAMES, 0.0), "served": 71.0, "served_accuracy": 71.0, "source": 72.0, "swaps": 2.0,
    "labels_used": 300.0, "labels_per_swap": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("served_accuracy < source - 0.5", True),
        ("served < source - 1", False),
        ("served <= source - 1", True),
        ("served < source - 0.5 and swaps > 3", False),
        ("served > source or swaps >= 2", True),
        ("70 < served < 72", True),
        ("70 < served < 71", False),
        ("labels_used / swaps > 2 * 70 + 5", True),
        ("-served < -(source + 1)", False),
        ("served != 71", False),
        ("source == 72", True),
        ("swaps == 0 and labels_per_swap > 9", False),  # what is not known is not asked for
        ("swaps == 2 or labels_per_swap > 9", True),
        ("gain < 0.5", True),
    ],
)
def test_a_rule_holds_or_does_not(text, fails):
    assert bool(rules.parse(text).broken("a", FIGURES)) is fails


def test_the_line_says_who_failed_and_by_how_much():
    line = rules.parse("served_accuracy < source - 0.5").broken("balanced", FIGURES)
    assert line == (
        "balanced fails 'served_accuracy < source - 0.5': served_accuracy is 71 against source - 0.5 is 71.5, by 0.5"
    )


def test_a_rule_may_speak_of_one_policy():
    rule = rules.parse("safe: served < source", ["safe", "bold"])
    assert rule.broken("bold", FIGURES) is None
    assert rule.broken("safe", FIGURES)
    with pytest.raises(ConfigError, match="no policy 'save' is played; did you mean safe"):
        rules.parse("save: served < source", ["safe", "bold"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("served_acuracy < 80", "did you mean served_accuracy"),
        ("served", "not a comparison"),
        ("served + 1", "not a comparison"),
        ("", "not a comparison"),
        ("served <", "not a comparison"),
        ("True", "not a comparison"),
        ("served < True", "not understood"),
        ("served < 'a'", "not understood"),
        ("served ** 9 > 1", "not understood"),
        ("served // 9 > 1", "not understood"),
        ("served is source", "expected one of"),
        ("served in source", "expected one of"),
        ("__import__('os').system('true') < 1", "not understood"),
        ("served.real < 1", "not understood"),
        ("[served][0] < 1", "not understood"),
        ("(served := 1) < 2", "no policy"),
        ("(lambda: served)() < 2", "no policy"),
        ("not served < 1", "not a comparison"),
        ("(served < 1) + 1 < 2", "not understood"),
        ("served < 1e9999 + " + "9" * 600, "letters"),
        ("served < " + "9" * 400, "not a comparison"),
        ("(" * 240 + "served" + ")" * 240 + " < 1", "not a comparison"),
        ("served < 0.8", "did you mean 80?"),
        ("0.755 > source_accuracy", "did you mean 75.5?"),
        ("a\0b < 1", "not a comparison"),
    ],
)
def test_everything_else_is_refused_before_anything_is_played(text, said):
    with pytest.raises(ConfigError) as refused:
        rules.parse(text)
    assert said in str(refused.value) and "--fail-if" in str(refused.value)


@pytest.mark.parametrize(("text", "said"), [("labels_per_swap > 1", "not known"), ("1 / gain > 2", "zero")])
def test_what_cannot_be_judged_is_an_error_and_no_pass(text, said):
    with pytest.raises(ConfigError, match=said):
        rules.parse(text).broken("a", FIGURES)
