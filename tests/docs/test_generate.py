"""Reference pages: all that the code declares stands in them, and a page that differs is found."""

import pytest

from docs import generate
from docs.rooms import rooms
from docs.tables import table
from tta_agent.core.events import Event
from tta_agent.settings.env import env_names
from tta_agent.settings.presets import presets
from tta_agent.telemetry import names


@pytest.mark.parametrize("name", env_names())
def test_each_setting_is_in_the_reference(name):
    assert f"| `{name}` |" in generate.settings()


def test_type_bounds_and_default_of_a_setting():
    row = next(line for line in generate.settings().splitlines() if line.startswith("| `TTA_GATE__ALPHA`"))
    assert row.startswith("| `TTA_GATE__ALPHA` | number, > 0, < 0.5 | `0.01` | Bound on the probability")


def test_events_metrics_spans_attributes_presets_are_in_the_reference():
    assert all(f"| `{event.value}` | {event.sentence} |" in generate.events() for event in Event)
    declared = [metric.name for metric in names.METRICS] + [*names.SPANS, *names.ATTRIBUTES]
    assert all(f"| `{name}` |" in generate.metrics() for name in declared)
    assert all(f"\n## {name}\n" in generate.preset_files() for name in presets())


def test_each_attribute_has_a_sentence():
    declared = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    assert declared - {*names.SPANS, *names.SERVER_SPANS, names.FINDING} == set(names.ATTRIBUTES)


def test_commands_have_their_options_and_inner_commands():
    text = generate.commands()
    assert "\n## tta-agent versions explain\n" in text
    assert "| `--label-rate <float range>` | Share of records, or of requests, that get a label." in text


def test_signs_of_markdown_are_escaped_but_not_in_code():
    assert table(("a",), [("`<x>` <y> | *z",)]).splitlines()[2] == "| `<x>` \\<y> \\| \\*z |"


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "architecture.md").write_text(
        "above\n<!-- rooms -->\nold\n<!-- end of rooms -->\nbelow\n"
    )
    for room, text in {"core": '"""What all import."""\n', "cli": '"""The commands."""\n'}.items():
        (tmp_path / "tta_agent" / room).mkdir(parents=True)
        (tmp_path / "tta_agent" / room / "__init__.py").write_text(text)
    lazy = "def f():\n    from tta_agent.core import x\n" + "\n" * 138
    (tmp_path / "tta_agent" / "cli" / "main.py").write_text(lazy)
    (tmp_path / "pyproject.toml").write_text(
        '[tool.importlinter]\n[[tool.importlinter.contracts]]\ntype = "layers"\nlayers = ["cli", "core"]\n'
    )
    return tmp_path


def test_rooms_have_purpose_size_and_imports(repository):
    assert rooms(repository).splitlines()[2:] == [
        "| 1 | `cli/` | The commands. | 2 | 100 | core |",
        "| 2 | `core/` | What all import. | 1 | under 100 |  |",
    ]


def test_a_page_that_differs_is_found_then_written(repository, capsys, monkeypatch):
    monkeypatch.setattr(generate, "ROOT", repository)
    assert generate.main(["--check"]) == 1
    assert "docs/architecture.md differs from the code: run `make docs`" in capsys.readouterr().err
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    assert (
        (repository / "docs" / "architecture.md").read_text().startswith("above\n<!-- rooms -->\n| layer |")
    )
    (repository / "docs" / "reference" / "events.md").write_text("changed by hand")
    assert generate.main(["--check"]) == 1
