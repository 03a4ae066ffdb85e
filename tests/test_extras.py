"""The package without its optional extras, in an environment that really lacks them."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import onnx
import pytest

from tests import worlds
from tests.parts import interpreter
from tta_agent import testing
from tta_agent.core.extras import EXTRAS
from tta_agent.models import onnx_export
from tta_agent.settings import env
from tta_agent.stream import factory

ROOT = Path(__file__).parent.parent
LACKING = ("sklearn", "scikit_learn", "matplotlib", "mpl_toolkits", "pylab", "timm")
PATIENCE_S = 120.0
ROUNDS = 2


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has all packages of this one but those of the extras."""
    return interpreter.without(tmp_path_factory.mktemp("bare"), *LACKING)


@pytest.fixture
def call(python: Path, tmp_path: Path):
    """Run that interpreter in an empty folder, with no TTA_* variables but the given ones."""

    def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environ = {**worlds.clean_environ(), "COLUMNS": "160", **settings}
        return subprocess.run(
            [python, *arguments], cwd=tmp_path, env=environ, capture_output=True, encoding="utf-8", timeout=120,
        )  # fmt: skip

    return run


def test_the_environment_lacks_the_extras_and_nothing_else(call):
    names = [package for package, _ in EXTRAS.values()]
    found = call("-c", f"import importlib.util as u; print([n for n in {names} if u.find_spec(n)], end='')")
    assert (found.stdout, found.stderr) == ("[]", "")


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_is_declared_and_everything_of_it_comes_with_all(extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras, distribution = project["optional-dependencies"], EXTRAS[extra][1]
    assert any(line.startswith(distribution) for line in extras[extra])
    assert not any(line.startswith(distribution) for line in project["dependencies"])
    assert (
        extra in extras["all"][0].partition("[")[2].rstrip("]").split(",")
        and "tta-agent[all]" in extras["dev"]
    )


def test_every_module_can_be_imported(call):
    paths = [path for path in (ROOT / "tta_agent").rglob("*.py") if path.stem != "__main__"]
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths
    ]
    done = call("-c", "".join(f"import {name}\n" for name in sorted(names)))
    assert done.returncode == 0, done.stderr


def test_help_is_shown(call):
    done = call("-m", "tta_agent", "--help")
    assert done.returncode == 0 and "rehearse" in done.stdout and done.stderr == ""


@pytest.mark.slow
def test_the_agent_adapts_an_onnx_file_to_the_embedded_log(python, tmp_path, monkeypatch):
    onnx.save(onnx_export.export(testing.tiny_net("batch"), testing.batch(2)), tmp_path / "model.onnx")
    given = {
        "TTA_MODEL__ONNX": str(tmp_path / "model.onnx"),
        "TTA_MODEL__DEVICE": "cpu",
        "TTA_STORE__PATH": str(tmp_path / "store"),
        "TTA_STREAM__START": "earliest",
        "TTA_SWAP__DRIVER": "none",
        "TTA_ADAPT__BATCH_SIZE": "16",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    _log_inferences(count=200)
    log = (tmp_path / "log").open("w+")
    agent = subprocess.Popen([python, "-m", "tta_agent", "run"], cwd=tmp_path, stdout=log, stderr=log)
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while _status(tmp_path / "store").get("rounds", 0) < ROUNDS:
            assert agent.poll() is None and time.monotonic() < deadline_s, Path(log.name).read_text()
            time.sleep(0.2)
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(PATIENCE_S) == 0, Path(log.name).read_text()
    finally:
        agent.kill()
        log.close()


def _log_inferences(count: int) -> None:
    settings = env.load()
    producer, codec = factory.open_producer(settings, []), factory.open_writer(settings)
    x = testing.batch(count).numpy()
    answers = testing.tiny_net("batch")(testing.batch(count)).detach().numpy()
    for i in range(count):
        message = codec.encode_inference(
            f"r{i}", x[i : i + 1], answers[i : i + 1], 0, source="t", model="m", time_s=time.time()
        )
        producer.send(settings.stream.topic, *message)
    producer.flush()
    producer.close()


def _status(store: Path) -> dict:
    try:
        return json.loads((store / "status.json").read_text())
    except (OSError, ValueError):
        return {}


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a command that lacks an extra."""
    assert done.returncode == 2 and "Traceback" not in done.stderr
    return done.stderr


def test_rehearsing_names_its_extra_before_anything_is_played(call):
    said = refused(call("-m", "tta_agent", "rehearse", "--anchor", "nowhere.npz"))
    assert said == (
        "tta-agent: tta-agent rehearse needs scikit-learn, which is not installed: "
        "pip install 'tta-agent[rehearse]'\n"
    )


def test_a_rehearsal_cannot_be_read_without_its_extra(call):
    done = call("-c", "from tta_agent.evaluation.rehearsed.regress import Forest; Forest(None)")
    assert "ConfigError: a rehearsal needs scikit-learn" in done.stderr and "[rehearse]" in done.stderr


@pytest.mark.slow
def test_a_timm_name_names_its_extra(call):
    said = refused(call("-m", "tta_agent", "run", TTA_MODEL__NAME="resnet18"))
    assert said.endswith(
        "TTA_MODEL__NAME=resnet18 needs timm, which is not installed: pip install 'tta-agent[timm]'\n"
    )


DEMO = """
import json, pathlib
from tta_agent.cli.demo import _close
from tta_agent.demo import picture, report
numbers = json.loads(pathlib.Path("numbers.json").read_text())
files = report.write(numbers, pathlib.Path("out"))
_close(numbers, files, report.table(numbers), None)
picture.draw(numbers, pathlib.Path("out/demo.png"))
"""


def test_the_demo_makes_all_but_its_picture_and_says_so(call, tmp_path):
    numbers = {
        "swaps": 1,
        "failures": [],
        "failed_requests": 0,
        "unknown_answers": 0,
        "registry": "s/versions",
    }
    (tmp_path / "numbers.json").write_text(json.dumps(numbers))
    done = call("-c", DEMO)
    assert (
        "png: not drawn; it needs matplotlib, which is not installed: pip install 'tta-agent[demo]'"
        in done.stdout
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["demo.html"]
    assert "ConfigError: demo.png needs matplotlib" in done.stderr
