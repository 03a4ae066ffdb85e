"""The page: well-formed, alone in the world, small, and everything on it."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.replay.test_outcome import ABOUT, marks, played, rows
from tta_agent.core.errors import TtaError
from tta_agent.replay import outcome, page, table

VOID = {"meta", "link", "br", "hr", "img", "input"}
FINDING = {
    "gate": "certificate", "verdict": "pass", "value": 9.0, "threshold": 4.6, "reason": "31 won, 4 lost <b>",
}  # fmt: skip
EVENTS = [
    {"event": "verdict", "version": 1, "outcome": "rejected", "record": 300, "t": 30.0, "labels_used": 20,
     "findings": [{**FINDING, "gate": "histogram", "verdict": "fail", "reason": "one class swallows all"}]},
    {"event": "verdict", "version": 2, "outcome": "certified", "record": 600, "t": 60.0, "labels_used": 50,
     "findings": [FINDING]},
    {"event": "swap", "version": 2, "before": 0, "seconds": 0.01, "record": 600, "t": 60.0, "labels_used": 50},
    {"event": "rollback", "version": 0, "reason": "12 losses, 1 win", "record": 900, "t": 90.0, "labels_used": 70},
]  # fmt: skip


class Page(HTMLParser):
    """Tags in order, and that each is closed where it must be."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def result(policies=2, events=EVENTS, name="policy <{}>"):
    source = rows(0.8, 0.4, 0.4, 0.4, n=300)
    domains = ["clean"] * 300 + ["fog & snow"] * 900
    given = {"swaps": [events[2]], "rollbacks": [events[3]], "verdicts": events[:2], "labels_per_swap": 50.0}
    one = {
        name.format(i): played(
            marks(source, rows(0.8, 0.4, 0.7, 0.4, n=300), domains=domains), **given, events=events
        )
        for i in range(policies)
    }
    return outcome.compare(one, ABOUT, complete=True)


@pytest.fixture(scope="module")
def text():
    return page.html(result())


def test_it_is_well_formed_and_its_chart_is_xml(text):
    tags = Page(text).tags
    assert [tag for tag, _ in tags].count("svg") == 1
    chart = ElementTree.fromstring(re.search(r"<svg.*?</svg>", text, re.S)[0])
    assert chart.attrib["role"] == "img"
    assert "$" not in re.sub(r"<script.*?</script>", "", text, flags=re.S)


def test_it_needs_no_network(text):
    assert not re.search(r"https?:|//[a-z]|@import|url\(|src=|href=", text)


def test_swaps_and_roll_backs_are_marked_with_their_reason(text):
    chart = ElementTree.fromstring(re.search(r"<svg.*?</svg>", text, re.S)[0])
    marks = [g for g in chart.iter("g") if g.attrib["class"].startswith(("swap", "rollback"))]
    said = [mark.find("title").text for mark in marks if mark.attrib["class"].endswith("p0")]
    assert said == [
        "policy <0>, record 600: swap to 2: 31 won, 4 lost <b>",
        "policy <0>, record 900: back to 0: 12 losses, 1 win",
    ]


def test_domains_are_bands(text):
    chart = ElementTree.fromstring(re.search(r"<svg.*?</svg>", text, re.S)[0])
    bands = [rect for rect in chart.iter("rect") if "domain" in rect.attrib["class"]]
    assert [band.find("title").text for band in bands] == ["clean", "fog & snow"]
    widths = [float(band.attrib["width"]) for band in bands]
    assert widths[1] == pytest.approx(3 * widths[0], rel=0.05)


def test_lines_of_source_oracle_and_every_policy(text):
    chart = ElementTree.fromstring(re.search(r"<svg.*?</svg>", text, re.S)[0])
    classes = [path.attrib.get("class") for path in chart.iter("path")]
    assert [classes.count(f"line {name}") for name in ("source", "oracle", "served")] == [1, 1, 2]


def test_everything_is_told(text):
    words = " ".join(Page(text).words)
    for said in (
        "policy <0> serves 57.5%", "50.0%", "1,200 records of r", "a label for 50%", "one class swallows all",
        "1 gate, failed: histogram", "12 losses, 1 win", "× forward", "50 for each swap",
        "fog & snow", "oracle, in hindsight", "31 won, 4 lost <b>",
    ):  # fmt: skip
        assert said in words
    assert "prefers-color-scheme: dark" in text


def test_it_stays_under_two_megabytes_whatever_was_decided(monkeypatch):
    many = [{**EVENTS[0], "findings": [{**FINDING, "reason": "x" * 250}] * 13}] * 200
    made = result(policies=4, events=[*EVENTS, *many])
    text = page.html(made)
    assert 100_000 < len(text.encode()) < 2_000_000
    Page(text)
    assert "earlier ones are in the JSON file" in text
    monkeypatch.setattr(page, "MOST_BYTES", 20_000)
    with pytest.raises(TtaError, match="4 policies make a page of over 2 MB: replay fewer"):
        page.html(made)


def test_a_recording_without_labels_and_domains_makes_a_page_too():
    made = marks(np.full(50, -1), np.full(50, -1))
    found = outcome.compare({"a": played(made)}, ABOUT, complete=False)
    words = " ".join(Page(page.html(found)).words)
    assert "Nothing was labelled" in words and "interrupted" in words and "names no domains" in words


def test_the_terminal_gets_the_headline_and_a_row_for_each(capsys):
    table.show(result(name="[bold]{}"))
    out = capsys.readouterr().out
    assert "[bold]0 serves 57.5%" in out and "│ [bold]1 " in out and "frozen source" in out
