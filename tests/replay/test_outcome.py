"""Windows, domains, oracle and regret, on answers that are made up."""

import numpy as np
import pytest

from tta_agent.replay import outcome, rules
from tta_agent.replay.chronicle import Chronicle
from tta_agent.replay.marks import Marks

ABOUT = {"recording": "r", "labels": {"which": "random", "rate": 0.5, "delay_s": 5.0, "seed": 0}}


def marks(source, served, online=None, domains=None):
    made = Marks.empty(len(source))
    made.right["source"][:], made.right["served"][:] = source, served
    if online is not None:
        made.right["online"][:] = online
    made.time_s[:] = 1e9 + np.arange(len(source)) / 10
    for i, name in enumerate(domains or []):
        made.name(i, name)
    return made


def played(made, **more):
    return {
        "records": len(made.time_s), "labelled": made.labelled, **made.accuracies(), "windows": made.windows(),
        "domains": made.domains(), "events": [], "swaps": [], "rollbacks": [], "verdicts": [], "adapted": 0,
        "labels_used": 0, "labels_arrived": 0, "labels_per_swap": None, "seconds": 1.0, "times_forward": 2.0, **more,
    }  # fmt: skip


def rows(*shares, n=200):
    """Answers of which these shares are right, in stretches of n."""
    return np.concatenate([np.arange(n) < round(share * n) for share in shares])


def test_windows_hold_equally_many_records_and_all_of_them():
    made = marks(rows(0.5, n=1003), rows(0.5, n=1003))
    windows = made.windows()
    sizes = [row["end"] - row["first"] for row in windows]
    assert len(windows) == 50 and sum(sizes) == 1003 and max(sizes) - min(sizes) <= 1
    assert windows[0]["t"] == 0 and windows[1]["t"] == pytest.approx(windows[0]["end"] / 10)


def test_few_labels_make_few_windows():
    source = np.full(2000, -1)
    source[::40] = 1
    assert len(marks(source, source).windows()) == 2
    assert len(marks(np.full(9, -1), np.full(9, -1)).windows()) == 1


def test_without_labels_nothing_is_claimed():
    made = marks(np.full(100, -1), np.full(100, -1))
    result = outcome.compare({"a": played(made)}, ABOUT, complete=True)
    [policy] = result["policies"]
    unknown = (result["source_accuracy"], result["oracle_accuracy"], policy["gain"], policy["regret"])
    assert unknown == (None, None, None, None)
    assert policy["worst_window_below_source"] is None and policy["time_below_source_s"] is None


def test_the_oracle_is_nowhere_below_anybody_and_regret_never_negative():
    rng = np.random.default_rng(3)
    shapes = {name: rng.integers(0, 2, 3000) for name in ("a", "b", "c")}
    source = rng.integers(0, 2, 3000)
    all_ = {n: played(marks(source, right, online=rng.integers(-1, 2, 3000))) for n, right in shapes.items()}
    result = outcome.compare(all_, ABOUT, complete=True)
    for i, row in enumerate(result["windows"]):
        shares = [one["windows"][who][i] for one in result["policies"] for who in ("served", "online")]
        assert row["oracle"] == max([row["source"], *(s for s in shares if s is not None)])
    for policy in result["policies"]:
        assert policy["regret"] == pytest.approx(result["oracle_accuracy"] - policy["served_accuracy"])
        assert policy["regret"] >= 0


def test_regret_worst_window_and_time_below_the_source():
    made = marks(rows(*[0.5] * 60, n=20), rows(*[0.5] * 30, *[0.9] * 20, *[0.3] * 10, n=20))
    result = outcome.compare({"a": played(made)}, ABOUT, complete=False)
    [policy] = result["policies"]
    assert result["complete"] is False and len(result["windows"]) == 60
    assert policy["worst_window_below_source"] == pytest.approx(0.2)
    assert policy["time_below_source_s"] == pytest.approx(20.0, abs=0.2)
    assert policy["regret"] == pytest.approx(0.2 * 10 / 60)
    figures = rules.figures(result, policy)
    assert figures["worst_window"] == pytest.approx(20)
    assert figures["gain"] == pytest.approx(100 * (0.4 * 20 - 0.2 * 10) / 60)
    assert figures.keys() == set(rules.NAMES)


def test_an_adapter_that_saw_few_of_a_window_is_not_drawn_there():
    online = np.full(400, -1)
    online[:150], online[200:250] = 1, 1
    made = marks(rows(0.5, 0.5), rows(0.5, 0.5), online=online)
    column = [row["online"] for row in made.windows()]
    assert column[0] == 1.0 and column[-1] is None


def test_a_window_belongs_to_the_domain_of_most_of_its_records():
    domains = ["fog"] * 200 + ["snow", "rain"] * 100
    made = marks(rows(0.5, 1.0), rows(1.0, 1.0), domains=domains)
    named = [row["domain"] for row in made.windows()]
    assert named[:10] == ["fog"] * 10 and named[10:] == ["mixed"] * 10
    assert [(d["domain"], d["records"], d["source"]) for d in made.domains()] == [
        ("fog", 200, 0.5),
        ("snow", 100, 1.0),
        ("rain", 100, 1.0),
    ]


def test_the_journal_is_read_along(tmp_path):
    chronicle = Chronicle(tmp_path)
    chronicle.look(0, 0.0, 0)
    path = tmp_path / "events.jsonl"
    path.write_text('{"time": 1, "event": "swap", "version": 1}\n')
    chronicle.look(32, 0.5, 7)
    chronicle.look(64, 1.0, 9)
    with path.open("a") as file:
        file.write(
            '{"time": 2, "event": "rollback", "version": 0}\n{"time": 2, "event": "swap", "version": 2}\n'
        )
    chronicle.look(96, 1.5, 11)
    assert [(e["event"], e["record"], e["t"], e["labels_used"]) for e in chronicle.events] == [
        ("swap", 32, 0.5, 7),
        ("rollback", 96, 1.5, 11),
        ("swap", 96, 1.5, 11),
    ]
    assert chronicle.labels_per_swap() == 5.5
