"""The command line itself: version, completion, and an import that stays light."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from tests import worlds

HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "kafka",
    "opentelemetry",
    "pyarrow",
    "scipy",
    "starlette",
    "matplotlib",
)


def tta(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; sys.argv[0] = 'tta-agent'; from tta_agent.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**worlds.clean_environ(), **environ}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_version() -> None:
    done = tta("--version", TTA_MODE="nonsense")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"tta-agent {version('tta-agent')}\n", "")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("tta-agent ver", {"versions"}),
        ("tta-agent versions ex", {"explain", "export"}),
        ("tta-agent run --sh", {"--show-config"}),
        ("tta-agent replay x --labels r", {"random", "requested"}),
    ],
)
def test_the_shell_completes(typed: str, expected: set[str]) -> None:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    done = tta(_TTA_AGENT_COMPLETE="complete_bash", **words)
    assert set(done.stdout.split()) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_shown_for_a_shell(shell: str) -> None:
    done = tta(_TTA_AGENT_COMPLETE=f"source_{shell}")
    assert "_TTA_AGENT_COMPLETE" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from tta_agent.cli.main import app; "
        "assert 'versions' in CliRunner().invoke(app, ['--help']).output; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, timeout=60, check=True
    )
    assert not {name for name in done.stdout.split() if name.split(".")[0] in HEAVY}
