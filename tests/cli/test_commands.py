"""The commands that are not the loop: serve, versions, rollback, record, import-npz, replay."""

import json
import subprocess
import sys

import httpx
import numpy as np
import pytest

from tests import worlds
from tests.pipeline.test_agent import World
from tta_agent.core.types import GateResult
from tta_agent.demo.processes import Child, answers, free_port
from tta_agent.stream.codecs import oip
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.stream.recordings.reader import Recording


def command(*words, environ=None, check=True):
    done = subprocess.run(
        [sys.executable, "-m", "tta_agent", *map(str, words)],
        env={**worlds.clean_environ(), **worlds.FASHION, **(environ or {})},
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0 or not check, done.stderr
    return done


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A store with a certified version 1 beside the source; no agent."""
    world = World(tmp_path, monkeypatch)
    session = world.registry.get(0).path.read_bytes()
    why = [GateResult("certificate", 200.0, 164.0, "pass", "certified: 12 won, 0 lost among 40 labels")]
    world.registry.add(session, world.registry.get(0), {"rounds": 8})
    world.registry.conclude(1, "certified", "certified", why)
    world.registry.serve(1)
    return world


@pytest.fixture
def environ(world):
    port = free_port()
    return {
        "TTA_STORE__PATH": str(world.settings.store.path),
        "TTA_STREAM__TOPIC": world.settings.stream.topic,
        "TTA_STREAM__LABELS_TOPIC": world.settings.stream.labels_topic,
        "TTA_SERVE__PORT": str(port),
        "TTA_SWAP__URL": f"http://127.0.0.1:{port}",
    }


def test_serve_answers_with_the_serving_version_and_rollback_goes_back(world, environ, tmp_path):
    url = environ["TTA_SWAP__URL"]
    server = Child("serve", {**worlds.FASHION, **environ}, tmp_path / "server.log")
    server.start()
    try:
        server.wait_until(lambda: answers(url), "the server")
        assert ask(url) == "1"
        assert "version 0 serves now" in command("rollback", environ=environ).stdout
        assert ask(url) == "0"
        assert world.registry.aliases()["serving"] == 0
        assert command("rollback", "--to", 9, environ=environ, check=False).returncode == 2
        assert ask(url) == "0"
        world.registry.add(b"damaged", world.registry.get(0), {})
        refused = command("rollback", "--to", 2, environ=environ, check=False)
        assert "never proved" in refused.stderr
        assert ask(url) == "0"
    finally:
        server.stop()
    server.start()
    try:
        server.wait_until(lambda: answers(url), "the server")
        assert ask(url) == "0"  # a restart serves what the registry says
    finally:
        server.stop()


def ask(url):
    body, head = oip.encode(oip.Body({"input": np.zeros((1, 1, 28, 28), np.float32)}, {}, "q", None, None))
    headers = {"Inference-Header-Content-Length": str(head)}
    answer = httpx.post(f"{url}/v2/models/model/infer", content=body, headers=headers, timeout=30)
    length = answer.raise_for_status().headers.get("Inference-Header-Content-Length")
    return oip.decode(answer.content, int(length) if length else None).version


def test_versions_for_people_and_for_scripts(world, environ):
    rows = json.loads(command("versions", "--json", environ=environ).stdout)
    assert [(row["version"], row["alias"], row["proof"]) for row in rows] == [
        (0, "source, previous", "source"),
        (1, "serving", "certified"),
    ]
    assert "12 won" in command("versions", environ={**environ, "COLUMNS": "160"}).stdout


def test_record_joins_the_topic_with_its_labels(world, environ, tmp_path):
    world.send(40, label_rate=0.5)
    world.producer.send(world.settings.stream.topic, b"k", b"junk")
    world.producer.flush()
    out = command("record", tmp_path / "recording", "--follow-s", 1, environ=environ).stdout
    assert "40 records" in out
    assert ": 1 (1 unknown_format)" in out
    rows = {row.id: row for row in Recording.open(tmp_path / "recording")}
    assert len(rows) == 40
    _, shifted, labels = worlds.images(6000)
    for name, row in rows.items():
        i = int(name.rsplit("-", 1)[1])
        assert np.array_equal(row.x, shifted[i])
        assert row.version == 0
        assert row.served.shape == (10,)
        assert row.label in (None, labels[i])
    assert 10 < sum(row.label is not None for row in rows.values()) < 30


@pytest.mark.slow
def test_a_recording_of_a_topic_can_be_replayed(world, environ, tmp_path):
    world.send(600)
    command("record", tmp_path / "recording", "--follow-s", 1, environ=environ)
    command("replay", tmp_path / "recording", "--policy", "conservative", "--json", tmp_path / "r.json")
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["records"] == 600
    assert result["policies"][0]["adapted"] > 300
    assert result["source_accuracy"] == pytest.approx(np.mean([right for _, right in world.right]))


def test_arrays_become_a_recording(tmp_path):
    np.savez(tmp_path / "a.npz", inputs=np.full((9, 1, 28, 28), 255, np.uint8), labels=np.arange(9))
    out = command(
        "import-npz", tmp_path / "a.npz", tmp_path / "rec", "--scale", 1 / 255, "--mean", "0.5"
    ).stdout
    assert "9 records" in out
    recording = Recording.open(tmp_path / "rec")
    assert recording.model_input(next(iter(recording))).max() == pytest.approx(0.5)
    bad = command("import-npz", tmp_path / "a.npz", tmp_path / "r2", "--mean", "half", check=False)
    assert (bad.returncode, "'half' is not a number" in bad.stderr) == (2, True)


def test_labels_can_be_sent_by_anyone_with_the_documented_form():
    key, value, headers = CloudEvents().encode_label("abc", 3, 12.5)
    assert (key, json.loads(value)) == (b"abc", {"id": "abc", "label": 3, "ts": 12.5})
    assert dict(headers)["ce_type"] == b"io.tta.label.v1"
