"""What goes wrong at the start is said in one to three lines, with what to do; status 2, no traceback."""

import json
import subprocess
import sys

import pytest

from tests import worlds
from tta_agent.settings import env
from tta_agent.stream.factory import open_producer

TINY = {"TTA_MODEL__FACTORY": "tests.worlds:tiny_batch_net", "TTA_MODEL__INPUT_SHAPE": "[1,8,8]"}
NO_BROKER = {"TTA_STREAM__BOOTSTRAP_SERVERS": "127.0.0.1:9", "TTA_STREAM__CONNECT_TIMEOUT_S": "2"}
AUTO = {"TTA_MODE": "auto", "TTA_SWAP__TIMEOUT_S": "1", "TTA_SWAP__URL": "http://127.0.0.1:9"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "environ", "message"),
    [
        ("run", {"TTA_ADAPT__METHD": "tent"}, "did you mean TTA_ADAPT__METHOD?"),
        ("run", {"TTA_ADAPT__METHOD": "tnet", **TINY}, "did you mean tent?"),
        ("run", {"TTA_ADAPT__OPTIONS": '{"tent": {"rate": 1}}', **TINY}, "adapter 'tent' with options"),
        (
            "run",
            {**TINY, "TTA_MODEL__WEIGHTS": "/nowhere/weights.pt"},
            "TTA_MODEL__WEIGHTS=/nowhere/weights.pt",
        ),
        ("serve", {**TINY, "TTA_MODEL__WEIGHTS": "/nowhere/weights.pt"}, "no such file"),
        ("run", {**TINY, "TTA_MODEL__FACTORY": "tests.worlds:no_norm_net"}, "TTA_ADAPT__METHOD=frozen"),
        ("run", {**TINY, **NO_BROKER}, "Kafka at 127.0.0.1:9 did not answer within 2 s"),
        ("run", {**TINY, **AUTO}, "http://127.0.0.1:9"),
        ("run", {**TINY, "TTA_SWAP__DRIVER": "opi"}, "did you mean oip?"),
        ("run", {**TINY, "TTA_STREAM__CODEC": "cloudevent"}, "did you mean cloudevents?"),
        ("serve", {**TINY, "TTA_STREAM__CODEC": "oip_json"}, "can only be read"),
        ("run", {"TTA_GATE__GATES": "a,b", **TINY}, "TTA_GATE__GATES: no gate is called 'a'"),
        ("run", {"TTA_GATE__GATES": '["a"', **TINY}, "TTA_GATE__GATES='[\"a\"': expected a,b,c or"),
        ("serve", {"TTA_MODEL__SERVED_AS": "a/b", **TINY}, "TTA_MODEL__SERVED_AS='a/b': expected a name"),
        ("rollback", {}, "nothing to roll back to: no version is in"),
        ("versions", {"TTA_STORE__PATH": "/proc/nowhere"}, "TTA_STORE__PATH"),
    ],
)
def test_a_clear_end(tmp_path, command, environ, message):
    done = subprocess.run(
        [sys.executable, "-m", "tta_agent", command],
        env={**worlds.clean_environ(), "TTA_STORE__PATH": str(tmp_path), **environ},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    told = [line for line in done.stderr.splitlines() if " INFO " not in line and " WARNING " not in line]
    assert message in "\n".join(told)
    assert 1 <= len(told) <= 3, done.stderr
    assert "Traceback" not in done.stderr


def test_replay_of_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tta_agent", "replay", str(tmp_path)],
        env={**worlds.clean_environ(), **TINY}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "not a recording" in done.stderr


def test_record_of_a_topic_that_cannot_be_read(tmp_path):
    settings = env.load(store={"path": tmp_path / "store"})
    producer = open_producer(settings, [])
    for _ in range(3):
        producer.send(settings.stream.topic, b"k", b"junk")
    producer.close()
    done = subprocess.run(
        [sys.executable, "-m", "tta_agent", "record", str(tmp_path / "r"), "--follow-s", "0.5"],
        env={**worlds.clean_environ(), "TTA_STORE__PATH": str(tmp_path / "store")},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "unreadable records of inference: 3 (3 unknown_format)" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"TTA_ADAPT__METHOD": "tnet"}, "TTA_ADAPT__METHOD: no adapter is called 'tnet'; did you mean tent?"),
        ({"TTA_ADAPT__OPTIONS": '{"tent": {"rate": 1}}'}, "TTA_ADAPT__OPTIONS: adapter 'tent' with options"),
        ({"TTA_GATE__GATES": "certificate,colapse"}, "did you mean collapse?"),
        ({"TTA_MODEL__CLASSES": "10", "TTA_AGENT_PORT": "tcp://10.96.0.12:8080"}, None),
    ],
)
def test_show_config_needs_no_model_and_fails_on_names_that_do_not_exist(tmp_path, environ, message):
    done = subprocess.run(
        [sys.executable, "-m", "tta_agent", "run", "--show-config"],
        env={**worlds.clean_environ(), "TTA_STORE__PATH": str(tmp_path), **environ},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if message is None:
        assert done.returncode == 0 and json.loads(done.stdout)["model"]["classes"] == 10
        assert not done.stderr
        return
    assert done.returncode == 2 and not done.stdout
    assert message in done.stderr and len(done.stderr.splitlines()) <= 3
