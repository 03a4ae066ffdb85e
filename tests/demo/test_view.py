import io
import math
import re
from typing import Any

import pytest
from rich.console import Console

from tta_agent.demo import view
from tta_agent.demo.sparkline import sparkline
from tta_agent.demo.view import DemoState

START_S = 1_700_000_000.0
WIDTHS = pytest.mark.parametrize("width", [40, 80, 100, 160])


def finding(gate: str, verdict: str, reason: str) -> dict[str, Any]:
    return {"gate": gate, "value": 1.0, "threshold": 0.9, "verdict": verdict, "reason": reason, "bound": None}


PASSED = [
    finding("integrity", "pass", "equals torch"),
    finding("certificate", "pass", "certified: 31 won, 4 lost"),
]
FAILED = [
    finding("collapse", "fail", "class entropy falls"),
    finding("certificate", "inconclusive", "2 wins"),
]


def event(at_s: float, name: str, **data: Any) -> dict[str, Any]:
    return {"time": START_S + at_s, "event": name, **data}


def full() -> DemoState:
    history = [(float(t), 0.9 if t < 20 else 0.5, 0.9 if t < 20 else 0.45) for t in range(40)]
    events = [
        event(9, "candidate", version=1, parent=0, rounds=16),
        event(15, "verdict", version=1, outcome="rejected", findings=FAILED),
        event(34, "verdict", version=3, outcome="certified", findings=PASSED),
        event(34.1, "swap", version=3, before=0, seconds=0.062),
    ]
    status = {"rounds": 34, "entropy": 0.42, "kept": 0.71, "loss": 0.1, "labels_used": 88, "trial": 4}
    return DemoState(
        elapsed_s=39, duration_s=60, phase="shifted", shift_name="contrast", sent=3120, failed=2,
        rate_per_s=60.0, p50_ms=3.1, p99_ms=9.4, served_accuracy=0.811, source_accuracy=0.472,
        history=history, serving_version=3, labels_sent=1500, status={**status, "findings": FAILED},
        events=events, started_s=START_S, shifted_s=20.0,
    )  # fmt: skip


def empty_of_numbers() -> DemoState:
    nothing: dict[str, Any] = dict.fromkeys(
        ("rounds", "entropy", "kept", "loss", "trial", "findings", "verdict")
    )
    return DemoState(history=[(0.0, None, None), (1.0, None, 0.5), (2.0, math.nan, None)], status=nothing)


def drawn(state: DemoState, width: int, color: bool = False) -> str:
    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=color, color_system="truecolor" if color else None
    )
    console.print(view.render(state))
    return out.getvalue()


@WIDTHS
@pytest.mark.parametrize(
    "state", [full(), empty_of_numbers(), DemoState(), DemoState(elapsed_s=90, duration_s=60)]
)
def test_it_always_fits_and_never_jumps(state: DemoState, width: int) -> None:
    lines = drawn(state, width).splitlines()
    assert len(lines) == 18
    assert max(len(line) for line in lines) <= min(width, 100)


@pytest.mark.parametrize("width", [80, 100])
def test_it_says_what_matters_without_colour(width: int) -> None:
    text = drawn(full(), width)
    for words in (
        "shifted: contrast", "0:39 of 1:00", "3,120 sent", "2 failed", "81.1%", "47.2%", "+33.9 points",
        "version 3", "entropy 0.42 nats", "71% kept", "34 rounds", "version 4 under test",
        "✗ fail", "class entropy falls", "· not yet", "0:15  version 1 rejected by collapse",
        "0:34  version 3 certified: 31 won, 4 lost", "swapped 0 -> 3 in 62 ms", "▲shift", "▲swap 3",
    ):  # fmt: skip
        assert words in text


def test_colour_changes_no_word() -> None:
    colored = drawn(full(), 100, color=True)
    assert "\x1b[" in colored
    assert re.sub(r"\x1b\[[\d;]*m", "", colored) == drawn(full(), 100)


def test_unknown_numbers_are_dashes() -> None:
    text = drawn(empty_of_numbers(), 100)
    assert "None" not in text and "nan" not in text
    assert "waits for its first batch" in text and "none yet" in text


def test_the_curves_have_a_row_each_and_one_scale() -> None:
    served, source, axis = drawn(full(), 100).splitlines()[3:6]
    curves = [re.sub(f"[^{view.LEVELS} ]", "", row.split("%", 1)[1]) for row in (served, source)]
    assert all(re.fullmatch(r" *▇+[▂▁]+ +", curve) for curve in curves)
    assert axis.split()[:4] == ["▁", "40%", "█", "100%"]
    # shift and swap stand below the columns of their time
    width = 100 - view.LABEL - view.BESIDE
    begin = len(axis) - len(axis.lstrip()) + 18
    assert axis.index("▲shift") - begin == int(20 / 60 * (width - 1))
    assert curves[0].lstrip().index("▂") == pytest.approx(20 / 60 * (width - 1), abs=2)


def test_a_curve_is_blank_where_nothing_is_known() -> None:
    points = [(0.0, None), (2.0, 0.0), (4.0, 1.0), (5.0, math.nan), (6.0, 0.5)]
    assert sparkline(points, 11, 10.0, 0.0, 1.0) == "  ▁▅█▆▅    "
    assert (
        sparkline([(0.0, None)], 5, 10.0, 0.0, 1.0) == "     "
        and sparkline([(0.0, 1.0)], 0, 1.0, 0.0, 1.0) == ""
    )
    assert sparkline([(0.0, 7.0), (1.0, -7.0)], 2, 1.0, 0.0, 1.0) == "█▁"  # cut off at the borders


def test_the_last_candidate_is_told_between_trials() -> None:
    state = full()
    state.status = {**state.status, "trial": None, "verdict": {"version": 3, "outcome": "certified"}}
    assert "none now; the last was version 3: certified" in drawn(state, 100)


def test_what_blocks_comes_first() -> None:
    state = full()
    gates = [finding(f"gate{i}", "pass", "fine") for i in range(6)] + [finding("last", "fail", "broken")]
    state.status = {**state.status, "findings": gates}
    assert "broken" in drawn(state, 100)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("candidate", {"version": 4, "rounds": 48}, "version 4 proposed after 48 rounds"),
        ("verdict", {"version": 3, "outcome": "certified", "findings": PASSED},
         "version 3 certified: 31 won, 4 lost"),
        ("verdict", {"version": 1, "outcome": "rejected", "findings": FAILED},
         "version 1 rejected by collapse: class entropy falls"),
        ("verdict", {"version": 2, "outcome": "expired", "findings": FAILED}, "version 2 expired: 2 wins"),
        ("verdict", {"version": 2, "outcome": "overruled", "findings": []}, "version 2 overruled"),
        ("swap", {"version": 3, "before": 0, "seconds": 0.062}, "swapped 0 -> 3 in 62 ms"),
        ("swap_failed", {"error": "golden\nbatch"},
         "swap failed, the version before serves on: golden batch"),
        ("rollback", {"version": 0}, "rolled back to version 0"),
        ("reset", {}, "adaptation starts over from the source"),
        ("resumed", {"rounds": 3}, "resumed after 3 rounds"),
        ("shift_on", {}, "shift on"),
    ],
)  # fmt: skip
def test_decisions_in_words(name: str, data: dict[str, Any], said: str) -> None:
    assert view.words(event(65, name, **data)) == said
    assert view.event_line(event(65, name, **data), START_S) == f"  1:05  * {said}"


@pytest.mark.parametrize("name", ["candidate", "verdict", "swap", "swap_failed", "rollback", "resumed", None])
def test_events_without_details_do_not_crash(name: str | None) -> None:
    assert view.event_line({"event": name}, START_S).startswith("  0:00  * ")


def test_reasons_cannot_steer_the_terminal() -> None:
    state = full()
    state.events = [event(1, "swap_failed", error="\x1b[2Jgone [bold red]x[/] \u202e")]
    text = drawn(state, 100)
    assert "\x1b" not in text and "\u202e" not in text
    assert "[bold red]x[/]" in text  # shown, not obeyed


def test_one_line_for_logs() -> None:
    text = view.line(full())
    assert "\n" not in text
    for words in (
        "0:39",
        "shifted: contrast",
        "served 81.1%",
        "frozen source 47.2%",
        "3,120 sent",
        "2 failed",
    ):
        assert words in text
    assert "version 4 under test" in text
    assert "served –" in view.line(DemoState())


def test_bounds_hold_every_share() -> None:
    assert view.bounds([0.47, 0.905, None, math.nan]) == (0.4, 1.0)
    assert view.bounds([]) == (0.0, 1.0)
    for share in (0.0, 0.05, 0.5, 0.97, 1.0):
        low, high = view.bounds([share])
        assert 0.0 <= low <= share <= high <= 1.0 and high - low >= 0.19
