"""The pages of demo, replay and rehearse in a real browser: quiet, alone, no wider than a phone, and readable."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require_or_skip
from tests.demo.test_report import full
from tests.parts.browser import Browser, Page, browser, unavailable
from tests.replay.test_page import result
from tta_agent.demo import page as demo_page
from tta_agent.evaluation.rehearsed.table import RehearsedRow
from tta_agent.rehearsal import page as rehearsal_page
from tta_agent.rehearsal import words
from tta_agent.replay import page as replay_page

PHONE, DESK = 390, 1280
# relative luminance, WCAG 2: text and what is behind it, over all ancestors
FAINT = """(() => {
  const parse = c => (c.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = c => c.map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const over = (top, below) => { const a = top[3] ?? 1; return below.map((v, i) => a * top[i] + (1 - a) * v); };
  const ground = e => e ? over(parse(getComputedStyle(e).backgroundColor), ground(e.parentElement)) : [255, 255, 255];
  return [...document.querySelectorAll("h1, h2, h3, p, li, th, td, dt, dd, summary, svg text")]
    .filter(e => e.textContent.trim() && e.getClientRects().length).filter(e => {
      const style = getComputedStyle(e), below = ground(e);
      const [a, b] = [light(over(parse(e instanceof SVGElement ? style.fill : style.color), below)), light(below)];
      return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5;
    }).map(e => e.tagName + " " + e.textContent.slice(0, 40));
})()"""
CLIPPED = """[...document.querySelectorAll("svg text")].filter(e => {
  const a = e.getBoundingClientRect(), b = e.ownerSVGElement.getBoundingClientRect();
  return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1;
}).map(e => e.textContent)"""
OVERLAPPING = """(() => {
  const all = [...document.querySelectorAll("svg text")].map(e => [e.textContent, e.getBoundingClientRect()]);
  return all.flatMap(([name, a], i) => all.slice(i + 1).filter(([_, b]) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4).map(([other]) => name + " on " + other));
})()"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One for all tests. PARTS_REQUIRED=browser makes its absence a failure."""
    require_or_skip("browser", unavailable())
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


def rehearsed() -> str:
    """A page of 60 made-up scenarios, some of them harmful."""
    shifts = [("clean", 1), ("fog", 3), ("gaussian_noise", 5), ("jpeg_compression", 1), ("saturate", 5)]
    rows = [
        RehearsedRow("s", (family,), family, severity, ("iid", "label_shift")[i % 2],
            ("adapted", "second", "bias")[i % 3], (i % 7 - 2) / 20 if kind else -0.01, 0.9, {})
        for i in range(12) for kind, (family, severity) in enumerate(shifts)
    ]  # fmt: skip
    fit = {
        "guesses": [row.gain / 2 for row in rows], "lower": [row.gain / 2 - 0.02 for row in rows],
        "coverage": {"0.02": 0.98, "0.05": 0.95, "0.1": 0.9}, "error": 0.03,
    }  # fmt: skip
    summary = {"fit": fit, "method": "tent"}
    return rehearsal_page.html(rows, summary, words.findings(rows, summary))


PAGES = {
    "demo": lambda: demo_page.html(full()),
    "replay": lambda: replay_page.html(result(policies=3)),
    "rehearse": rehearsed,
}


@pytest.fixture(scope="module", params=PAGES)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each page in turn."""
    path = tmp_path_factory.mktemp("pages") / f"{request.param}.html"
    path.write_text(PAGES[request.param]())
    return path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_a_page_is_quiet_alone_and_fits(chromium: Browser, file: Path, width: int, dark: bool) -> None:
    page = chromium.open(file, width=width, dark=dark)
    page.value("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.too_wide() == []
    assert page.requests() == [file.as_uri()]
    assert page.complaints() == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_every_text_can_be_read(chromium: Browser, file: Path, width: int, dark: bool) -> None:
    page = chromium.open(file, width=width, dark=dark)
    page.value("document.querySelectorAll('details').forEach(one => one.open = true)")
    background = page.value("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(20, 23, 27)") == dark
    assert page.value(FAINT) == []
    assert page.value(CLIPPED) == [] and page.value(OVERLAPPING) == []


def test_a_column_of_names_leaves_room_for_the_others_on_a_phone(chromium: Browser, file: Path) -> None:
    page = chromium.open(file, width=PHONE)
    widths = page.value("[...document.querySelectorAll('.wide tbody th')].map(e => e.offsetWidth)")
    assert widths and max(widths) < PHONE / 2


def seen(page: Page) -> str:
    """Text that is rendered."""
    return str(page.value("document.body.innerText"))


def test_the_main_facts_of_a_replay_are_seen(chromium: Browser, tmp_path: Path) -> None:
    (file := tmp_path / "r.html").write_text(replay_page.html(result(policies=3)))
    page = chromium.open(file, width=DESK)
    text = seen(page)
    for fact in (
        "policy <0> serves 57.5% right answers, the frozen source 50.0%: +7.5 points", "frozen source",
        "oracle, in hindsight", "swap", "roll-back", "Accuracy in 60 windows of 20 records", "minutes:seconds",
        "1 swap, 1 roll-back, 2 verdicts", "12 losses, 1 win", "fog & snow",
    ):  # fmt: skip
        assert fact in text
    assert "What the columns mean" in text and "12 losses, 1 win: 12 losses" not in text


def test_pointing_at_the_chart_and_arrow_keys_read_it_out(chromium: Browser, tmp_path: Path) -> None:
    (file := tmp_path / "r.html").write_text(replay_page.html(result(policies=2)))
    page = chromium.open(file, width=DESK)
    box = page.value(
        "(b => [b.left, b.top, b.width, b.height])(document.getElementById('chart').getBoundingClientRect())"
    )
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0] + box[2] / 2, y=box[1] + box[3] / 2)
    said = page.value("document.getElementById('readout').textContent")
    assert "610 records" in said and "fog & snow" in said and "policy <1>" in said
    page.value("document.getElementById('chart').focus()")
    page.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
    assert page.value("document.getElementById('readout').textContent") != said


def test_the_arrow_keys_read_out_a_demo(chromium: Browser, tmp_path: Path) -> None:
    (file := tmp_path / "d.html").write_text(demo_page.html(full()))
    page = chromium.open(file, width=DESK)
    page.value("document.getElementById('chart').focus()")
    for _ in range(3):
        page.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
    said = page.value("document.getElementById('readout').textContent")
    assert said == "0:02 · served 90.0% · frozen source 90.0% · version 2 · entropy 0.40 · kept 70.0%"
    assert page.value("document.getElementById('cursor').getAttribute('visibility')") == "visible"


def test_lines_that_lie_on_each_other_are_all_seen(chromium: Browser, tmp_path: Path) -> None:
    (file := tmp_path / "r.html").write_text(replay_page.html(result(policies=3)))
    page = chromium.open(file, width=DESK)
    lines = "[...document.querySelectorAll('.line.served, .line.source')]"
    widths = page.value(lines + ".map(line => parseFloat(getComputedStyle(line).strokeWidth))")
    assert widths == sorted(widths, reverse=True) and len(set(widths)) == 4


def test_the_main_facts_of_a_rehearsal_are_seen(chromium: Browser, tmp_path: Path) -> None:
    (file := tmp_path / "r.html").write_text(rehearsed())
    page = chromium.open(file, width=DESK)
    text = seen(page)
    for fact in (
        "On clean data adapting costs 1.0 points", "60 rehearsed scenarios with tent", "percentage points",
        "predicted gain, points", "true gain, points", "the adapter as configured", "failures injected on purpose",
        "severity 5", "clean, in any order", "accuracy before", "wanted",
    ):  # fmt: skip
        assert fact in text
    assert page.value("document.querySelectorAll('circle title').length") == 60
    assert "nan" not in text and "-0.0" not in text and "clean 1" not in text
