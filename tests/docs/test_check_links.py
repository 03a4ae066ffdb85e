"""Links of the Markdown files: relative files, anchors, and paths that a text names."""

import subprocess

import pytest

from docs.check_links import anchors, broken


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "docs" / "other.md").write_text("# A title\n\n## What `is` it, then?\n\n## A title\n")
    (tmp_path / "tests" / "test_here.py").write_text("")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    return tmp_path


def check(repository, text, name="page.md"):
    (repository / name).write_text(text)
    return broken(repository)


@pytest.mark.parametrize(
    "text",
    [
        "[file](docs/other.md)",
        "[heading](docs/other.md#what-is-it-then)",
        "[second of its name](docs/other.md#a-title-1)",
        "# Here\n\n[own heading](#here)",
        "[outside](https://example.org/nothing#x)",
        "    [code](gone.md)",
        "```\n[code](gone.md)\n```",
        "`[code](gone.md)`",
        "tests/test_here.py",
    ],
)
def test_what_leads_somewhere_is_no_finding(repository, text):
    assert check(repository, text) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[file](docs/gone.md)", "page.md:1: no file docs/gone.md"),
        ("[heading](docs/other.md#gone)", "page.md:1: no heading #gone in other.md"),
        ("first\n\n[own heading](#gone)", "page.md:3: no heading #gone in page.md"),
        ("![image](gone.png)", "page.md:1: no file gone.png"),
        ('<img src="gone.svg">', "page.md:1: no file gone.svg"),
        ("[by name][x]\n\n[x]: gone.md", "page.md:1: no file gone.md"),
        ("| a |\n|---|\n| [cell](gone.md) |", "page.md:3: no file gone.md"),
        ("see `tests/test_gone.py`", "page.md:1: no file tests/test_gone.py"),
    ],
)
def test_what_leads_nowhere_is_told_with_its_line(repository, text, why):
    assert why in check(repository, text)


def test_a_path_in_a_docstring_is_checked(repository):
    assert check(repository, '"""See docs/gone.md."""\n', "module.py") == [
        "module.py:1: no file docs/gone.md"
    ]


def test_the_changelog_may_name_files_of_the_past(repository):
    assert check(repository, "- docs/gone.md was written", "CHANGELOG.md") == []


def test_anchors_are_those_of_github(repository):
    assert anchors(repository / "docs" / "other.md") == {"a-title", "what-is-it-then", "a-title-1"}
