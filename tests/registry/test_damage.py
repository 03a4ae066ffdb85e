"""A registry that others have touched, wiped or locked away: one error that names the file or the setting."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.registry.test_registry import GOLDEN, graph, promoted, start
from tta_agent.control import manual
from tta_agent.core.errors import RegistryError, StoreError
from tta_agent.core.types import GateResult
from tta_agent.registry.registry import ModelRegistry
from tta_agent.registry.rows import telling
from tta_agent.settings import env

CONTENTS = {
    "empty": b"", "bytes": b"\xff\xfe", "deep": b"[" * 100_000, "digits": b"9" * 6000, "list": b"[]", "text": b'"x"',
    "object": b"{}", "null": b"null", "numbers": b"[1.5]",
}  # fmt: skip
FILES = ["aliases.json", "pins.json", "history.jsonl"]
FILES += [f"000001/{name}.json" for name in ("manifest", "verdict", "withdrawn")]
SOUND = {("aliases.json", "object"), ("pins.json", "list"), ("history.jsonl", "empty")}
SOUND |= {("000001/withdrawn.json", "object")}


def read_all(registry: ModelRegistry) -> None:
    """Ask for everything that commands and agent ask for."""
    registry.rows()
    registry.last_proven()
    registry.served_by()
    registry.check(1)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("content", CONTENTS)
def test_whatever_stands_in_a_file_it_is_named(tmp_path: Path, file: str, content: str) -> None:
    registry = start(tmp_path / "versions")
    promoted(registry, 1.0)
    (tmp_path / "versions" / file).write_bytes(CONTENTS[content])
    fresh = ModelRegistry(tmp_path / "versions")
    if (file, content) in SOUND:
        fresh.rows()
        return
    with pytest.raises(RegistryError, match=Path(file).name) as caught:
        read_all(fresh)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("value", ['"1"', "-1", "1.5", "true", "[0]"])
def test_aliases_and_pins_are_versions(tmp_path: Path, value: str) -> None:
    registry = start(tmp_path / "versions")
    for name, text in (("aliases.json", f'{{"serving": {value}}}'), ("pins.json", f"[{value}]")):
        (tmp_path / "versions" / name).write_text(text)
    for ask, name in ((registry.aliases, "aliases"), (registry.pinned, "pins")):
        with pytest.raises(RegistryError, match=rf"{name}\.json is damaged"):
            ask()


def test_a_path_that_is_only_read_is_not_made(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "misspelt" / "versions")
    assert registry.rows() == []
    with pytest.raises(RegistryError, match=r"no version is in .*misspelt.* yet: .*TTA_STORE__PATH"):
        registry.number_of("3")
    assert not (tmp_path / "misspelt").exists()


def test_a_registry_that_was_wiped_says_so_and_is_not_made_anew(tmp_path: Path) -> None:
    registry = start(tmp_path / "versions")
    source = registry.get(0)
    shutil.rmtree(tmp_path / "versions")
    for change in (
        lambda: registry.add(graph(1), source, {}),
        lambda: registry.serve(0),
        lambda: registry.pin(0),
        registry.rows,
        registry.aliases,
        lambda: registry.ensure_source("model-a", lambda: (graph(), GOLDEN)),
    ):
        with pytest.raises(StoreError, match=r"TTA_STORE__PATH: the folder .* was removed"):
            change()
    assert not (tmp_path / "versions").exists()


def test_a_file_in_its_place_is_said_with_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for where, setting in ((tmp_path / "file", "PATH"), (str(tmp_path / "file"), "VERSIONS")):
        with pytest.raises(StoreError, match=f"TTA_STORE__{setting}: .*file.*; .*name a folder"):
            start(where)


def test_rollback_on_an_empty_store_says_that_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"nothing to roll back to: no version is in .* yet"):
        manual.rollback(env.load(store={"path": tmp_path / "new"}), None)
    assert not (tmp_path / "new").exists()


def result(gate: str, verdict: Any) -> dict[str, Any]:
    return {"gate": gate, "verdict": verdict, "reason": f"{gate} said {verdict}"}


@pytest.mark.parametrize(
    ("proof", "gates", "reason"),
    [
        ("certified", {"certificate": "pass", "rehearsed": "inconclusive"}, "certificate said pass"),
        ("certified", {"average": "pass", "rank": "pass", "rehearsed": "inconclusive"}, "average said pass"),
        ("rehearsed", {"certificate": "inconclusive", "rehearsed": "pass"}, "rehearsed said pass"),
        ("guarded", {"rehearsed": "inconclusive", "guarded": "pass", "rank": "pass"}, "guarded said pass"),
        ("certified", {"rank": "pass", "theirs": "pass", "last": "inconclusive"}, "theirs said pass"),
        ("none", {"rank": "pass", "collapse": "fail", "certificate": "inconclusive"}, "collapse said fail"),
        (
            "none",
            {"certificate": "inconclusive", "rehearsed": "inconclusive"},
            "certificate said inconclusive",
        ),
        ("source", {}, None),
    ],
)
def test_the_reason_is_that_of_the_gate_which_decided(
    proof: str, gates: dict[str, str], reason: str | None
) -> None:
    assert telling([result(gate, verdict) for gate, verdict in gates.items()], proof) == reason


def test_a_certified_version_is_listed_with_its_certificate(tmp_path: Path) -> None:
    registry = start(tmp_path / "versions")
    registry.add(graph(1.0), registry.get(0), {})
    why = [
        GateResult("certificate", 120.0, 100.0, "pass", "certified: 12 won, 0 lost among 40 labels"),
        GateResult("rehearsed", 0.0, 0.0, "inconclusive", "no rehearsal to go by"),
    ]
    registry.conclude(1, "certified", "certified", why)
    assert registry.rows()[1]["reason"] == "certified: 12 won, 0 lost among 40 labels"
