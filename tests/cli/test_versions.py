"""`tta-agent versions`: for people, for scripts, and what it refuses."""

import json

import pytest
from typer.testing import CliRunner

from tests.registry.test_registry import GOLDEN, graph
from tta_agent.cli import version_tables
from tta_agent.cli.main import app
from tta_agent.core.errors import RegistryError
from tta_agent.core.types import GateResult
from tta_agent.models.ort_sessions import open_session
from tta_agent.registry.factory import open_registry
from tta_agent.settings import env

GATES = [
    GateResult("integrity", 1.0, 0.99, "pass", "torch and ONNX Runtime agree on all fixed inputs"),
    GateResult("certificate", 180.4, 164.0, "pass", "certified: 31 won, 9 lost among 400 labels"),
]
LEARNT = {
    "policy": "tent",
    "rounds": 24,
    "records": {"kept": 1200, "entropy": 300},
    "positions": {"inference/0": 4096},
}


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """0 source; 1 certified, served and taken back; 2 rejected; 3 certified, serves; 4 under test."""
    monkeypatch.setenv("TTA_STORE__PATH", str(tmp_path / "store"))
    monkeypatch.setenv("TTA_SWAP__DRIVER", "none")
    monkeypatch.setattr(version_tables.console, "width", 200)
    registry = open_registry(env.load())
    registry.ensure_source("model-a", lambda: (graph(), GOLDEN))
    for number in (1, 2, 3):
        registry.add(graph(number), registry.get(registry.aliases()["serving"]), LEARNT)
        if number == 2:
            registry.reject(
                2, "rejected", [GateResult("collapse", 0.5, 0.9, "fail", "half of the classes are gone")]
            )
            continue
        registry.conclude(number, "certified", "certified", GATES, counts={"wins": 31, "losses": 9})
        registry.serve(number, reason="certified")
        if number == 1:
            registry.take_back(1, "it lost 12 of 13 labelled disagreements")
            registry.serve(0, reason="it lost 12 of 13 labelled disagreements")
    registry.add(graph(4), registry.get(3), LEARNT)
    return registry


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    """Tables are cut to the terminal's width, which depends on who runs the tests."""
    monkeypatch.setattr(version_tables.console, "width", 200)


def tta(*words):
    """What the command prints; what it raises is raised."""
    done = CliRunner().invoke(app, ["versions", *map(str, words)])
    if isinstance(done.exception, Exception):
        raise done.exception
    return done.output


def test_alone_it_lists(registry):
    rows = json.loads(tta("--json"))
    assert rows == json.loads(tta("list", "--json")) == registry.rows()
    assert [row["outcome"] for row in rows] == ["source", "taken back", "rejected", "certified", "under test"]
    assert "it lost 12 of 13" in tta("list")


def test_explain_says_why_in_few_lines(registry):
    told = tta("explain", "serving")
    assert len(told.splitlines()) < 30
    for words in (
        "version 3: certified, serving",
        "1,200 of 1,500 records in 24 rounds; left out: entropy 300",
        "inference before 4,096",
        "by tent, policy balanced, mode shadow, while version 0 served",
        "of 40 labelled disagreements it won 31 and lost 9; odds 1 : 180 against chance",
        "by agent: certified",
        "until now",
    ):
        assert words in told
    assert "taken back" in (gone := tta("explain", 1))
    assert "it lost 12 of 13" in gone
    assert "half of the classes are gone" in tta("explain", 2)
    assert "given up" in tta("explain", 2)
    assert "its evaluation runs" in tta("explain", "candidate")
    assert json.loads(tta("explain", 1, "--json"))["lines"] == gone.splitlines()


def test_the_source_is_explained_before_anything_has_served_beside_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TTA_STORE__PATH", str(tmp_path))
    open_registry(env.load()).ensure_source("model-a", lambda: (graph(), GOLDEN))
    assert "the model as it was deployed" in tta("explain", "serving")


def test_many_gates_still_make_a_short_story(registry):
    many = [GateResult(f"gate {i}", i, 1.0, "pass", "yes " * 80) for i in range(40)]
    registry.conclude(4, "rejected", "none", [*many, GateResult("last", 0.0, 1.0, "fail", "no")])
    for i in range(20):
        registry.serve(4 if i % 2 else 3)
    told = tta("explain", 4).splitlines()
    assert len(told) < 30
    assert any("last" in line and "NO" in line for line in told)
    assert max(map(len, told)) < 170


def test_diff_tells_what_moved(registry):
    told = json.loads(tta("diff", "source", "serving", "--json"))
    assert told["versions"] == [0, 3]
    assert told["tensors"]["differ"] == 1
    layer = told["tensors"]["layers"][0]
    assert (layer["layer"], layer["tensors"]) == ("fc", 1)
    assert layer["distance"] == pytest.approx(3 * 400**0.5)
    assert told["gates"]["certificate"] == [None, 180.4]
    assert told["records"]["rounds"] == [None, 24]
    assert json.loads(tta("diff", 1, 3, "--json"))["settings"] == {}
    assert "fc" in tta("diff", 1, 3)
    assert "given up" in tta("diff", 1, 2)


def test_names_and_numbers_that_are_not_there(registry):
    with pytest.raises(RegistryError, match="did you mean serving"):
        tta("show", "servng")
    with pytest.raises(RegistryError, match=r"there is no version 9; there are \[0, 1"):
        tta("explain", 9)


def test_show_is_what_is_written_down(registry):
    told = json.loads(tta("show", 3, "--json"))
    assert told["manifest"] == registry.manifest(3)
    assert told["verdict"] == registry.verdict(3)


def test_export_writes_a_graph_that_runs(registry, tmp_path):
    assert json.loads(tta("export", "serving", tmp_path / "a.onnx", "--json"))["version"] == 3
    assert (tmp_path / "a.onnx").read_bytes() == graph(3)
    assert open_session(tmp_path / "a.onnx") is not None
    with pytest.raises(RegistryError, match="cannot write"):
        tta("export", "serving", tmp_path / "nowhere" / "a.onnx")


def test_promotion_is_asked_for_and_needs_a_proof(registry):
    assert CliRunner().invoke(app, ["versions", "promote", "0"], input="n\n").exit_code == 1
    assert registry.aliases()["serving"] == 3
    with pytest.raises(RegistryError, match="version 4 is still under test; --force"):
        tta("promote", 4, "--yes")
    with pytest.raises(RegistryError, match=r"version 1 was taken back \(it lost"):
        tta("promote", 1, "--yes")
    assert json.loads(tta("promote", 4, "--yes", "--force", "--json")) == {"serving": 4}
    assert registry.verdict(4)["by"] == "command"
    assert (registry.aliases()["serving"], registry.aliases()["previous"]) == (4, 3)


def test_roll_back_goes_past_what_was_taken_back(registry):
    assert "version 0 serves now" in tta("rollback")  # what served before 3
    assert registry.is_withdrawn(3)
    with pytest.raises(RegistryError, match="nothing served before version 0"):
        tta("rollback")  # 3 was taken back a moment ago
    with pytest.raises(RegistryError, match="never proved"):
        tta("rollback", 4)


def test_pins_hold_against_retention(registry):
    assert json.loads(tta("pin", 1, "--json")) == {"pinned": [1]}
    assert json.loads(tta("gc", "--keep", 1, "--dry-run", "--json"))["graphs"] == []
    assert tta("unpin", 1) == "pinned: none\n"
    assert "versions 1 would lose" in tta("gc", "--keep", 1, "--dry-run")
    assert json.loads(tta("gc", "--keep", 1, "--json"))["graphs"] == [1]
    assert not registry.has_graph(1)


def test_verify_names_the_damage(registry):
    assert json.loads(tta("verify", "--json")) == {"checked": 5, "damaged": {}}
    path = registry.folder / "000003" / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(RegistryError, match="version 3 is damaged"):
        tta("verify")


def test_verify_finds_an_alias_that_was_edited(registry):
    path = registry.folder / "aliases.json"
    before = path.read_bytes()
    path.write_text(json.dumps({**json.loads(before), "serving": 4}))
    with pytest.raises(
        RegistryError, match=r"aliases\.json: serving is version 4, which is still under test"
    ):
        tta("verify")
    path.write_bytes(before)
    assert json.loads(tta("verify", "--json"))["damaged"] == {}


def test_doubts_that_labels_outranked_stand_as_warnings(registry):
    doubt = GateResult("calibration", 0.55, 0.7, "fail", "labels outrank it: logits are 0.55 x serving's")
    registry.conclude(4, "certified", "certified", [doubt, *GATES], counts={"wins": 31, "losses": 9})
    line = next(line for line in tta("explain", 4).splitlines() if "labels outrank it" in line)
    assert line.split()[:2] == ["calibration", "warn"]
