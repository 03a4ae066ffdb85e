import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tta_agent.demo import report
from tta_agent.demo.summary import headline
from tta_agent.demo.timeline import MOST_POINTS, points, ticks
from tta_agent.reports.svg import LEFT, RIGHT, PlotArea

EVIL = '</script><script>alert("x")</script>\x1b[2J $chart ${x} & \ud800'
VOID = {"meta", "link", "img", "br", "hr", "input"}


def finding(gate: str, verdict: str, reason: str) -> dict[str, Any]:
    return {
        "gate": gate,
        "value": 41.0,
        "threshold": 32.9,
        "verdict": verdict,
        "reason": reason,
        "bound": None,
    }


def full() -> dict[str, Any]:
    passed = [
        finding("integrity", "pass", "equals torch"),
        finding("certificate", "pass", "certified: 31 won, 4 lost"),
    ]
    failed = [finding("collapse", "fail", "class entropy falls")]
    return {
        "clean_accuracy": 0.905, "source_accuracy_after_shift": 0.472, "served_accuracy_before_swap": 0.491,
        "served_accuracy_after_swap": 0.811, "source_accuracy_after_swap": 0.468, "recovered": 0.784,
        "swaps": 2, "rollbacks": 1, "failed_requests": 0, "unknown_answers": 0, "labels_used": 248,
        "labels_sent": 1780, "requests": 3600, "seconds": 60.2, "seed": 7, "registry": "some store/versions",
        "shift": {"name": "contrast", "families": ["contrast"], "severity": 4, "started_s": 20.0},
        "latency_ms": {"clean": {"p50": 2.9, "p99": 6.1}, "adapting": {"p50": 3.2, "p99": 9.8},
                       "swapping": {"p50": 3.4, "p99": 14.2}},
        "timeline": [moment(t) for t in range(61)],
        "events": [
            {"t": 15.0, "event": "verdict", "version": 1, "outcome": "rejected", "findings": failed},
            {"t": 34.2, "event": "verdict", "version": 2, "outcome": "certified", "findings": passed},
            {"t": 34.3, "event": "swap", "version": 2, "before": 0, "seconds": 0.062},
            {"t": 36.0, "event": "swap", "version": 5, "before": 2, "seconds": 0.071},
            {"t": 50.0, "event": "rollback", "version": 2},
        ],
    }  # fmt: skip


def moment(t: int) -> dict[str, Any]:
    served = None if t < 2 else 0.9 if t < 20 else 0.5 if t < 34 else 0.8
    source = None if t < 2 else 0.9 if t < 20 else 0.47
    return {"t": t, "served": served, "source": source, "version": 2, "entropy": 0.4, "kept": 0.7, "n": 60}


def nulls() -> dict[str, Any]:
    gone = dict.fromkeys(full())
    empty = dict.fromkeys(moment(0)) | {"t": 3, "entropy": math.nan}
    return {
        **gone,
        "timeline": [empty, empty],
        "latency_ms": {"clean": None},
        "shift": dict.fromkeys(full()["shift"]),
    }


def hostile() -> dict[str, Any]:
    result = full()
    for event in result["events"]:
        event |= {"version": EVIL, "outcome": EVIL, "error": EVIL}
        event["findings"] = [finding(EVIL, EVIL, EVIL)]
    result["events"] += [{"t": 1.0, "event": EVIL}, {"t": 2.0, "event": "swap_failed", "error": EVIL}]
    return {
        **result,
        "registry": EVIL,
        "seed": EVIL,
        "shift": {**result["shift"], "name": EVIL, "severity": EVIL},
    }


def huge() -> dict[str, Any]:
    result = full()
    result["timeline"] = [moment(20) | {"t": t} for t in range(20_000)]
    return {**result, "events": result["events"] * 400, "seconds": 20_000.0}


ALL = pytest.mark.parametrize(
    "result", [full(), {}, nulls(), hostile()], ids=["full", "empty", "nulls", "hostile"]
)


class Page(HTMLParser):
    """Fails on the first element that is not closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@ALL
def test_the_page_is_well_formed_and_stands_alone(result: dict[str, Any]) -> None:
    text = report.html(result)
    page = Page(text)
    assert not re.search(r"https?:|//\w|@import|url\(|<link|<img|<iframe", text)
    assert all("src" not in attributes and "href" not in attributes for _, attributes in page.tags)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert "None" not in text and "NaN" not in text and ">nan" not in text


def test_the_page_tells_everything() -> None:
    text = report.html(full())
    for words in (
        "78% of the lost accuracy recovered by 2 swaps", "3,600 requests in 60 s", "shift: contrast",
        "version 1 rejected by collapse: class entropy falls", "version 2 certified: 31 won, 4 lost",
        "swapped 0 -&gt; 2 in 62 ms", "swapped 2 -&gt; 5 in 71 ms", "rolled back to version 2", "81.1%",
        "tta-agent versions", "tta-agent rollback", "tta-agent replay", "some store", "1,780",
        "3.4 / 14.2 ms", "prefers-color-scheme: dark",
    ):  # fmt: skip
        assert words in text


def test_the_chart_is_drawn_and_described() -> None:
    tags = Page(report.html(full())).tags
    [chart] = [attributes for tag, attributes in tags if tag == "svg"]
    assert chart["role"] == "img" and "table" in str(chart["aria-label"])
    marks = [a["data-version"] for tag, a in tags if tag == "g" and a["class"] == "swap"]
    assert marks == ["2", "5"]
    assert [a["data-version"] for tag, a in tags if tag == "g" and a["class"] == "rollback"] == ["2"]
    [served] = [a["d"] for _, a in tags if a.get("class") == "line served"]
    assert str(served).count("L") == 58 and str(served).count("M") == 1


def test_lines_break_where_nothing_is_known() -> None:
    panel = PlotArea(0, 100, 0.0, 1.0, 10.0)
    rows: list[dict[str, Any]] = [{"t": 0, "v": 0.0}, {"t": 5, "v": None}, {"t": 10, "v": 1.0}]
    assert f'd="M{LEFT} 100.0M{RIGHT} 0.0"' in panel.line(rows, "v")


def test_hostile_words_stay_words() -> None:
    text = report.html(hostile())
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    text.replace(
        "\ud800", ""
    ).encode()  # a lone surrogate may come out of JSON, and only out of the registry's path


def test_long_demos_stay_small(tmp_path: Path) -> None:
    result = huge()
    files = report.write(result, tmp_path)
    assert files["html"].stat().st_size < 300_000
    assert "earlier ones" in files["html"].read_text(encoding="utf-8")
    assert len(points(result)) <= MOST_POINTS


@ALL
def test_both_files_are_written(result: dict[str, Any], tmp_path: Path) -> None:
    from PIL import Image

    files = report.write(result, tmp_path / "new" / "folder")
    assert files == {"png": tmp_path / "new/folder/demo.png", "html": tmp_path / "new/folder/demo.html"}
    assert files["html"].stat().st_size < 300_000
    with Image.open(files["png"]) as image:
        pixels = np.asarray(image.convert("L"))
    assert min(pixels.shape) > 800 and pixels.std() > 5


@ALL
@pytest.mark.parametrize("width", [80, 100])
def test_the_table_fits(result: dict[str, Any], width: int) -> None:
    text = printed(result, width)
    assert max(len(line) for line in text.splitlines()) <= width
    for words in (
        "clean",
        "before the swap",
        "after the swap",
        "recovered",
        "rollbacks",
        "unknown answers",
        "p99",
    ):
        assert words in text
    assert "None" not in text


def test_the_table_holds_the_numbers() -> None:
    text = printed(full(), 80)
    for words in ("90.5%", "49.1%", "47.2%", "81.1%", "46.8%", "78%", "248", "1,780", "2.9 / 6.1 ms", "60.2"):
        assert words in text


def test_before_any_swap_the_server_is_the_source() -> None:
    [row] = [line for line in printed(full(), 80).splitlines() if "clean, before the shift" in line]
    assert row.count("90.5%") == 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "78% of the lost accuracy recovered by 2 swaps, with 0 failed requests"),
        (
            {"swaps": 1, "failed_requests": 1},
            "78% of the lost accuracy recovered by 1 swap, with 1 failed request",
        ),
        ({"swaps": 0, "recovered": None}, "Nothing was swapped, with 0 failed requests"),
        ({"recovered": None, "failed_requests": None}, "2 swaps"),
    ],
)
def test_headline(changed: dict[str, Any], said: str) -> None:
    assert headline(full() | changed) == said


def test_ticks_are_few_and_round() -> None:
    assert ticks(60.2) == [0, 10, 20, 30, 40, 50, 60]
    assert all(len(ticks(span)) <= 10 for span in (1.0, 7.0, 95.0, 1e4, 1e6))


def printed(result: dict[str, Any], width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(report.table(result))
    return out.getvalue()
