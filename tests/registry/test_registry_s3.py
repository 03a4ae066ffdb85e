"""The registry on a real S3 server: its whole life, a second reader, and a server that goes away."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.conftest import require_or_skip
from tests.parts import s3
from tests.registry.test_registry import FORGED, GOLDEN, WHY, graph, promoted, start
from tta_agent.core.errors import RegistryError
from tta_agent.registry import history, storage_fsspec
from tta_agent.registry.registry import ModelRegistry

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    require_or_skip("s3", s3.unavailable())
    server = s3.Server(tmp_path_factory.mktemp("s3"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        server.start()
        yield server
        server.kill()


@pytest.fixture
def url(server):
    return f"{server.bucket(f'b-{uuid.uuid4().hex}')}/models/a"


@pytest.fixture
def registry(url, tmp_path):
    return start(url, tmp_path / "cache")


@pytest.fixture
def impatient(monkeypatch, registry):
    """One attempt a request in place of five, so that the tests of a server that is away are quick."""
    monkeypatch.setattr(registry.storage._fs, "retries", 1)
    return registry


def elsewhere(url, cache, command, *words, **environment):
    """What a `tta-agent versions` in a process of its own prints."""
    code = "from tta_agent.cli.main import main; main()"
    own = {"TTA_STORE__VERSIONS": url, "TTA_STORE__PATH": str(cache), **environment}
    return subprocess.run(
        [sys.executable, "-c", code, "versions", command, *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, **own},
    )  # fmt: skip


def test_a_whole_life(registry, url, tmp_path, server):
    first, second = promoted(registry, 1), promoted(registry, 2)
    registry.add(graph(3), registry.get(second), {})
    registry.reject(3, "rejected", WHY)
    assert registry.aliases() == {"source": 0, "serving": 2, "previous": 1, "candidate": None}
    other = ModelRegistry(url, tmp_path / "other cache")  # nothing but what the bucket holds
    assert other.get(first).path.read_bytes() == graph(1)
    assert [row["outcome"] for row in other.rows()] == ["source", "certified", "certified", "rejected"]
    assert [other.check(n) for n in other.numbers()] == ["sound", "sound", "sound", "explanation only"]
    registry.take_back(second, "worse")
    registry.serve(registry.last_proven().number, reason="rolled back")
    assert (other.last_proven().number, other.withdrawal(second)["reason"]) == (first, "worse")
    numbers = [promoted(registry, shift) for shift in (4, 5, 6)]
    registry.pin(second)
    assert registry.gc(1).graphs == (1, 4)
    assert [n for n in other.numbers() if other.has_graph(n)] == [0, second, *numbers[1:]]
    registry.storage.remove_version(3)
    assert 3 not in other.numbers()
    assert not [path for path in server.data.rglob("*") if "000003" in path.parts and path.is_file()]


@pytest.mark.parametrize("name", FORGED)
def test_what_was_changed_in_the_bucket_is_found(registry, url, tmp_path, name):
    promoted(registry, 1)
    promoted(registry, 2)
    registry.storage.write(f"000001/{name}", FORGED[name](registry.storage.read(f"000001/{name}")))
    told = elsewhere(url, tmp_path / "c", "verify")
    assert told.returncode == 2
    assert "version 1 is damaged" in " ".join(told.stderr.split())


def test_an_object_that_rots_is_named(registry, url, server):
    promoted(registry, 1)
    (path,) = (server.data / url.removeprefix("s3://")).rglob("000001/manifest.json")
    path.write_bytes(FORGED["manifest.json"](path.read_bytes()))
    with pytest.raises(RegistryError, match=r"000001/manifest.json: Expected checksum"):
        ModelRegistry(url).check(1)


def test_a_graph_of_many_parts(url, tmp_path):
    """More than s3fs puts with one request."""
    large = bytes(range(256)) * 250_000
    registry = ModelRegistry(url, tmp_path / "cache")
    registry.ensure_source("model-a", lambda: (large, GOLDEN))
    assert ModelRegistry(url, tmp_path / "other").get(0).path.read_bytes() == large


def test_another_process_reads_and_rolls_back(registry, url, tmp_path, monkeypatch):
    promoted(registry, 1)
    promoted(registry, 2)
    assert not registry.is_withdrawn(2)
    out = tmp_path / "out.onnx"
    assert elsewhere(url, tmp_path / "c", "export", "serving", out).returncode == 0
    assert out.read_bytes() == graph(2)
    told = elsewhere(url, tmp_path / "c", "rollback", "--json", TTA_SWAP__DRIVER="none")
    assert (told.returncode, json.loads(told.stdout or "{}")) == (0, {"serving": 1}), told.stderr
    monkeypatch.setattr(
        storage_fsspec.time, "monotonic", lambda: 1e12
    )  # the aliases that are remembered are old
    assert registry.aliases()["serving"] == 1
    assert registry.is_withdrawn(2)


def test_a_reader_beside_a_writer_sees_whole_versions_only(registry, url, tmp_path):
    code = (
        "import sys; from pathlib import Path; from tests.registry.test_registry import *\n"
        "registry = ModelRegistry(sys.argv[1], Path(sys.argv[2]))\n"
        "print('reads', flush=True)\n"
        "while registry.aliases()['serving'] < 5:\n"
        "    seen = registry.numbers()[-1]\n"
        "    assert registry.get(seen).path.read_bytes() == graph(float(seen)), seen\n"
        "    registry.storage._recent = None\n"
        "print(seen)"
    )
    words = [sys.executable, "-c", code, url, str(tmp_path / "reader")]
    with subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "reads\n"
        for shift in range(1, 6):
            promoted(registry, float(shift))
        said, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    assert int(said) in (4, 5)


def test_a_question_costs_few_requests_however_many_versions_there_are(registry, server):
    def asked(question):
        before = len(server.requests())
        question()
        return len(server.requests()) - before

    promoted(registry, 1)
    registry.rows()
    few = asked(registry.rows), asked(registry.last_proven), asked(registry.numbers)
    for shift in range(2, 7):
        number = registry.add(graph(shift), registry.get(0), {}).number
        registry.reject(number, "rejected", WHY)
    registry.rows()
    assert (asked(registry.rows), asked(registry.last_proven), asked(registry.numbers)) == few
    assert few[2] == 1


def test_no_bucket_is_made_of_a_misspelt_name(server, tmp_path):
    with pytest.raises(
        RegistryError, match=r"there is no bucket nowhere .*make it first, or correct the name"
    ):
        start("s3://nowhere/models/a", tmp_path / "cache")
    assert not (server.data / "nowhere").exists()
    told = elsewhere("s3://nowhere/models/a", tmp_path / "c", "list")
    assert told.returncode == 2
    assert "there is no bucket nowhere" in " ".join(told.stderr.split())


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_a_wrong_key_is_told_with_what_to_look_at(url, tmp_path, name):
    told = elsewhere(url, tmp_path / "c", "list", **{name: "wrong"})
    assert told.returncode == 2
    assert "check the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY" in " ".join(told.stderr.split())
    assert "Traceback" not in told.stderr


def test_a_server_that_is_away_loses_nothing(impatient, server, url, tmp_path, monkeypatch, caplog):
    registry = impatient
    promoted(registry, 1)
    before = registry.aliases()
    server.kill()
    monkeypatch.setattr(storage_fsspec, "FRESH_S", 0.0)
    registry.storage._recent = None
    assert registry.aliases() == before  # who only asks what serves goes on
    assert "going on with the aliases read last" in caplog.text
    for change in (
        lambda: registry.add(graph(2), registry.get(0), {}),
        lambda: registry.serve(0),
        lambda: registry.pin(1),
    ):
        with pytest.raises(RegistryError, match=r"is the store up and its address right \(AWS_ENDPOINT_URL"):
            change()
    server.start()
    assert [ModelRegistry(url, tmp_path / "other").check(n) for n in (0, 1)] == ["sound", "sound"]
    assert (promoted(registry, 2), registry.aliases()["serving"]) == (2, 2)
    assert [entry["number"] for entry in history.entries(registry.storage)] == [1, 2]


@pytest.mark.parametrize("after", range(4))
def test_a_server_that_dies_in_the_middle_of_an_addition(impatient, server, url, tmp_path, after):
    """After so many objects of the next version and its alias; what there is then is whole, and goes on."""
    registry, put = impatient, impatient.storage.write
    promoted(registry, 1)
    written = []

    def write(name, data):
        if len(written) == after:
            server.kill()
        put(name, data)
        written.append(name)

    registry.storage.write = write
    try:
        if after < 3:
            with pytest.raises(RegistryError, match="is the store up"):
                registry.add(graph(2), registry.get(1), {})
        else:
            registry.add(graph(2), registry.get(1), {})
            with pytest.raises(RegistryError, match="is the store up"):
                registry.reject(2, "rejected", WHY)
    finally:
        registry.storage.write = put
        server.kill()
        server.start()
    again = start(url, tmp_path / "other")
    assert again.numbers() == [0, 1, *([2] if after >= 2 else [])]
    assert {again.check(n) for n in again.numbers()} == {"sound"}
    assert again.aliases()["serving"] == 1
    for number in again.undecided():  # as a restart does
        again.reject(number, "abandoned by a restart", [])
    assert again.check(promoted(again, 3)) == "sound"
