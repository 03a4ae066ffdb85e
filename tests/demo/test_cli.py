"""The commands as a person meets them: a process of its own, its exit status, and what it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COLOURS = {"FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS"}  # with these, typer colours what is no terminal
TEACHES = {
    "": ("Test-time adaptation", "TTA_<GROUP>__<NAME>", "schema", "--show-config", "demo"),
    "demo": ("shift", "--corruption", "--severity", "--data", "npz:PATH", "--kill-agent", "--json"),
    "traffic": ("TTA_SWAP__URL", "late labels", "--clean-s", "--label-delay"),
    "run": ("stream", "TTA_MODE=auto", "--show-config"),
    "serve": ("Open Inference Protocol", "tap"),
    "replay": ("policy", "recording", "--label-rate", "--seed"),
    "record": ("topic", "labels", "replay", "--count"),
    "import-npz": ("inputs [N,C,H,W]", "--scale", "--mean", "--std"),
    "versions": ("registry", "--json"),
    "rollback": ("earlier version", "--to"),
    "schema": ("JSON schema", "settings"),
}


@pytest.fixture
def tta(tmp_path):
    """Run `python -m tta_agent` in an empty folder, with no TTA_* variables but the given ones."""

    def call(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        kept = {n: v for n, v in os.environ.items() if not n.upper().startswith("TTA_") and n not in COLOURS}
        shelves = os.pathsep.join(str(ROOT / name) for name in ("", "adapters", "policies"))
        environment = {**kept, "COLUMNS": "160", "PYTHONPATH": shelves, **settings}
        return subprocess.run(
            [sys.executable, "-m", "tta_agent", *arguments],
            cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=60,
        )  # fmt: skip

    return call


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a command that did not start; nobody is shown a traceback."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert 1 <= len(done.stderr.splitlines()) <= 3
    return done.stderr


@pytest.mark.parametrize("command", TEACHES)
def test_help_teaches(tta, command):
    done = tta(*command.split(), "--help")
    assert done.returncode == 0, done.stderr
    for words in TEACHES[command]:
        assert words in done.stdout


def test_help_lists_every_command(tta):
    text = tta("--help").stdout
    assert all(f" {command} " in text for command in TEACHES if command)


@pytest.mark.parametrize("command", ["demo", "traffic"])
def test_a_misspelt_corruption_is_put_right(tta, tmp_path, command):
    message = refused(tta(command, "--corruption", "gausian_noise"))
    assert "did you mean gaussian_noise" in message
    assert list(tmp_path.iterdir()) == []


def test_data_that_is_not_there(tta, tmp_path):
    assert "no data file /nowhere.npz: expected" in refused(tta("demo", "--data", "npz:/nowhere.npz"))
    assert list(tmp_path.iterdir()) == []


def test_a_value_out_of_range(tta):
    done = tta("demo", "--severity", "6")
    assert done.returncode == 2
    assert "--severity" in done.stderr and "Traceback" not in done.stderr


def test_the_schema_is_json(tta):
    done = tta("schema")
    assert done.returncode == 0, done.stderr
    assert {"mode", "policy", "model", "stream", "gate"} <= json.loads(done.stdout)["properties"].keys()


def test_the_agent_wants_a_model(tta):
    message = refused(tta("run"))
    assert "TTA_MODEL__NAME" in message and "TTA_MODEL__FACTORY" in message


def test_a_misspelt_setting_is_put_right(tta):
    assert "did you mean TTA_MODE?" in refused(tta("run", "--show-config", TTA_MOED="auto"))


def test_the_settings_that_result_are_shown(tta):
    done = tta("run", "--show-config", TTA_MODE="auto", TTA_GATE__ALPHA="0.02")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["mode"] == "auto"
    assert shown["gate"]["alpha"] == 0.02
