"""Sentences for the lines of the event log, by the names of today and of before 0.2."""

import pytest

from tta_agent.core.events import Event
from tta_agent.reports.decisions import ListedEvent
from tta_agent.reports.words import SENTENCES, kind, tone, words

DATA = {
    "version": 7, "before": 3, "by": "ada", "reason": "12 losses", "error": "no room", "outcome": "certified",
    "rounds": 48, "records": 900, "proof": "certified", "seconds": 0.05, "distance": 1.5, "labels": 3,
    "finding": {}, "findings": [], "parent": 0, "features": {"entropy": 0.2, "mean": 1.5}, "force": False,
    "attempt": 1,
}  # fmt: skip


def test_every_event_has_a_sentence():
    assert set(SENTENCES) == set(Event)


@pytest.mark.parametrize("event", Event)
def test_a_sentence_is_more_than_the_name_and_tells_whose_version_and_why(event):
    line = {"event": event} | {name: DATA[name] for name in event.fields}
    said = words(line)
    assert said != event.replace("_", " ") and "?" not in said and "None" not in said
    if "reason" in event.fields and event is not Event.SWAP:  # the verdict before it says why
        assert "12 losses" in said
    if "version" in event.fields and event not in (
        Event.SWAP_FAILED,
        Event.FALLBACK,
        Event.FREEZE,
        Event.UNFREEZE,
    ):
        assert "7" in said


def test_drift_names_the_feature_that_moved_most():
    line = {"event": "drift", "distance": 1.5, "features": DATA["features"], "records": 900}
    assert words(line) == "records of another kind arrive: distance 1.5, most in mean"


@pytest.mark.parametrize("event", Event)
def test_a_line_without_its_data_has_a_sentence_too(event):
    assert words({"event": str(event)}) and ListedEvent.of({"event": str(event)}, "0:01").text


@pytest.mark.parametrize(
    ("name", "event"),
    [("adjourned", Event.SUSPENDED), ("suspended", Event.SUSPENDED), ("reopened", Event.CONTINUED),
     ("continued", Event.CONTINUED), ("shift_on", None), (None, None)],
)  # fmt: skip
def test_files_of_before_are_read(name, event):
    line = {"event": name, "version": 2}
    assert kind(line) is event
    if event:
        assert words(line) == words({"event": event, "version": 2})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"event": "swap"}, "good"), ({"event": "rollback"}, "bad"), ({"event": "adjourned"}, ""),
        ({"event": "verdict", "outcome": "certified"}, "good"),
        ({"event": "verdict", "outcome": "rejected, the alpha is spent"}, "bad"),
        ({"event": "verdict", "outcome": "expired"}, ""), ({"event": "anything else"}, ""),
    ],
)  # fmt: skip
def test_the_tone_of_a_line(line, said):
    assert tone(line) == said


def test_a_decision_counts_its_gates_and_names_those_that_failed():
    gates = [
        {"gate": name, "verdict": verdict} for name, verdict in (("a", "pass"), ("b", "fail"), ("c", "fail"))
    ]
    made = ListedEvent.of(
        {"event": "verdict", "version": 1, "outcome": "rejected", "findings": gates}, "0:01"
    )
    assert (made.tally, made.tone, made.when) == ("3 gates, failed: b, c", "bad", "0:01")
    assert [cells[0] for _, cells in made.findings] == ["a", "b", "c"]
