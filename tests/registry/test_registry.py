"""The registry: immutable, shared, atomic; on a folder and on object stores; proven, remembered, tidied."""

import functools
import json
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest

from tta_agent.core.errors import RegistryError
from tta_agent.core.types import GateResult
from tta_agent.registry import artefacts
from tta_agent.registry.cache import NEWEST
from tta_agent.registry.factory import open_registry
from tta_agent.registry.registry import KEEP_REJECTED, ModelRegistry
from tta_agent.registry.storage_fsspec import Store
from tta_agent.settings.schema import Settings

GOLDEN = np.zeros((2, 3), np.float32)
WHY = [GateResult("certificate", 120.0, 100.0, "pass", "certified: 12 won, 0 lost among 40 labels")]


@functools.cache
def graph(shift: float = 0.0, extra: bool = False) -> bytes:
    """x -> x W + b, with another bias for each `shift`, and another structure with `extra`."""
    weight = np.random.default_rng(0).standard_normal((3, 400), dtype=np.float32)
    tensors = {"fc.weight": weight, "fc.bias": np.full(400, shift, np.float32)}
    nodes = [onnx.helper.make_node("Gemm", ["input", *tensors], ["logits"])]
    if extra:
        nodes.append(onnx.helper.make_node("Relu", ["logits"], ["more"]))
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", size])
        for name, size in (("input", 3), ("logits", 400))
    ]
    held = [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], held),
        opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10,
    )  # fmt: skip
    return proto.SerializeToString()


def start(where, cache=None) -> ModelRegistry:
    registry = ModelRegistry(where, cache)
    registry.ensure_source("model-a", lambda: (graph(), GOLDEN))
    return registry


@pytest.fixture
def registry(tmp_path):
    return start(tmp_path / "versions")


@pytest.fixture(params=["folder", "memory", "store of files"])
def anywhere(request, tmp_path):
    """The same promises on a local folder, on an object store, and on real files written like objects."""
    places = {
        "folder": lambda: tmp_path / "versions",
        "memory": lambda: f"memory://{uuid.uuid4().hex}/a",
        "store of files": lambda: Store(f"file://{tmp_path}/objects"),
    }
    return start(places[request.param](), tmp_path / "cache")


def promoted(registry: ModelRegistry, shift: float, proof="certified") -> int:
    version = registry.add(graph(shift), registry.get(registry.aliases()["serving"]), {"rounds": 8})
    registry.conclude(version.number, proof, proof, WHY)
    registry.serve(version.number)
    return version.number


def test_the_source_is_version_0_and_made_once(anywhere):
    assert anywhere.aliases() == {"source": 0, "serving": 0}
    again = ModelRegistry(anywhere.storage).ensure_source("model-a", lambda: pytest.fail("made twice"))
    assert (again.number, again.proof) == (0, "source")
    assert np.array_equal(anywhere.golden_inputs(), GOLDEN)


def test_a_registry_of_another_model_is_refused(anywhere):
    with pytest.raises(RegistryError, match="another model; choose another TTA_STORE__PATH"):
        anywhere.ensure_source("model-b", lambda: (b"", GOLDEN))


def test_promotion_moves_aliases_and_keeps_the_proof(anywhere):
    version = anywhere.add(graph(1), anywhere.get(0), {"rounds": 8})
    assert anywhere.aliases()["candidate"] == version.number == 1
    anywhere.conclude(1, "certified", "certified", WHY, counts={"wins": 12, "losses": 0}, by="anna")
    anywhere.serve(1)
    assert anywhere.aliases() == {"source": 0, "serving": 1, "previous": 0, "candidate": None}
    assert anywhere.get(1).proof == "certified"
    assert anywhere.get(1).path.read_bytes() == graph(1)
    assert anywhere.manifest(1)["parent_sha256"] == anywhere.get(0).sha256
    assert anywhere.verdict(1)["counts"] == {"wins": 12, "losses": 0}
    assert anywhere.rows()[1]["reason"] == WHY[0].reason


def test_a_verdict_is_final(anywhere):
    anywhere.add(graph(1), anywhere.get(0), {})
    anywhere.reject(1, "rejected", WHY)
    with pytest.raises(RegistryError, match="already has a verdict"):
        anywhere.conclude(1, "certified", "certified", [])


def test_a_rejected_version_keeps_its_explanation_only(anywhere):
    anywhere.add(graph(1), anywhere.get(0), {})
    anywhere.reject(1, "rejected", WHY)
    assert anywhere.verdict(1)["findings"][0]["reason"] == WHY[0].reason
    assert anywhere.check(1) == "explanation only"
    with pytest.raises(RegistryError, match=r"version 1 is not in .* there are \[0\]"):
        anywhere.get(1)
    with pytest.raises(RegistryError, match=r"version 1 is not in"):
        anywhere.serve(1)


def test_numbers_are_never_reused_and_old_rejections_go(registry):
    for _ in range(KEEP_REJECTED + 3):
        number = registry.add(b"x", registry.get(0), {}).number
        registry.reject(number, "expired", [])
    assert number == KEEP_REJECTED + 3
    assert len(registry.numbers()) == KEEP_REJECTED + 1
    assert registry.get(0).path.read_bytes() == graph()


def test_concurrent_writers_get_different_numbers(registry):
    made = []
    threads = [
        threading.Thread(
            target=lambda: made.append(
                ModelRegistry(registry.folder).add(graph(1), registry.get(0), {}).number
            )
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == list(range(1, 9))


def test_processes_share_a_folder_by_path_and_by_url(registry):
    code = (
        "import sys; from tta_agent.registry.registry import ModelRegistry; registry = ModelRegistry(sys.argv[1]); "
        "source = registry.get(0); graph = source.path.read_bytes(); "
        "[registry.add(graph, source, {}) for _ in range(6)]; registry.serve(1, reason='elsewhere')"
    )
    words = [sys.executable, "-c", code, f"file://{registry.folder}"]
    children = [subprocess.Popen(words, cwd=Path(__file__).parents[2]) for _ in range(2)]
    assert [child.wait(60) for child in children] == [0, 0]
    assert registry.numbers() == list(range(13))
    assert (registry.aliases()["serving"], registry.aliases()["previous"]) == (1, 0)
    assert {registry.check(n) for n in registry.numbers()} == {"sound"}


def test_another_process_reads_a_store_of_objects(tmp_path):
    registry = start(Store(f"file://{tmp_path}/objects"), tmp_path / "cache")
    promoted(registry, 1)
    code = (
        "import sys; from pathlib import Path; from tta_agent.registry.storage_fsspec import Store; "
        "from tta_agent.registry.registry import ModelRegistry; "
        "print(ModelRegistry(Store(sys.argv[1]), Path(sys.argv[2])).get(1).path.read_bytes().hex())"
    )
    words = [sys.executable, "-c", code, f"file://{tmp_path}/objects", str(tmp_path / "other cache")]
    told = subprocess.run(
        words, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    ).stdout
    assert bytes.fromhex(told) == graph(1)


def test_a_damaged_manifest_is_named(registry):
    (registry.folder / "000000" / "manifest.json").write_text("{")
    with pytest.raises(RegistryError, match=r"manifest.json cannot be read"):
        registry.get(0)


def test_half_written_versions_are_not_seen(registry):
    (registry.folder / ".staging-x").mkdir()
    (registry.folder / ".staging-x" / "model.onnx").write_bytes(b"half")
    assert registry.numbers() == [0]
    assert json.loads((registry.folder / "aliases.json").read_text())["serving"] == 0


def test_objects_without_a_manifest_are_no_version():
    url = f"memory://{uuid.uuid4().hex}/a"
    registry = start(url)
    written = []
    put = registry.storage.write
    registry.storage.write = lambda name, data: (written.append(name), put(name, data))
    registry.add(graph(1), registry.get(0), {})
    assert written[:2] == ["000001/tensors.safetensors", "000001/manifest.json"]
    registry.storage.remove("000001/manifest.json")
    assert ModelRegistry(url).numbers() == [0]


def test_a_store_that_nobody_knows_is_told_with_its_setting():
    with pytest.raises(
        RegistryError, match=r"TTA_STORE__VERSIONS=memroy://a: no store .* did you mean memory"
    ):
        ModelRegistry("memroy://a")


# what is kept of a graph


def test_a_version_is_kept_as_the_tensors_that_it_changed(anywhere):
    anywhere.add(graph(1), anywhere.get(0), {})
    manifest = anywhere.manifest(1)
    assert (manifest["artefact"], manifest["tensors"]) == ("delta", {"fc.bias": 1600})
    assert manifest["skeleton_sha256"] == anywhere.get(0).sha256
    assert not anywhere.storage.exists("000001/model.onnx")
    assert len(anywhere.storage.read("000001/tensors.safetensors")) < len(graph()) / 2
    assert ModelRegistry(anywhere.storage).get(1).path.read_bytes() == graph(
        1
    )  # by a cache that never saw it


def test_another_structure_is_kept_whole_and_says_so(anywhere):
    anywhere.add(graph(1, extra=True), anywhere.get(0), {})
    assert anywhere.manifest(1)["why_full"] == "other changes than of tensors"
    assert ModelRegistry(anywhere.storage).get(1).path.read_bytes() == graph(1, extra=True)


def test_a_registry_of_before_opens(tmp_path):
    """As written by releases that kept whole graphs, and knew neither history nor the chain."""
    folder = tmp_path / "versions"
    old = {"fingerprint": "model-a", "parent": None}, {"parent": 0, "parent_sha256": "x", "rounds": 8}
    for number, (data, manifest, proof) in enumerate(
        [(graph(), old[0], "source"), (graph(1), old[1], "certified"), (graph(2), old[1], "certified")]
    ):
        home = folder / f"{number:06d}"
        home.mkdir(parents=True)
        (home / "model.onnx").write_bytes(data)
        head = {"number": number, "sha256": artefacts.digest(data), "bytes": len(data), "time": 1.0}
        (home / "manifest.json").write_text(json.dumps({**head, **manifest}))
        verdict = {"outcome": proof, "proof": proof, "by": "agent", "time": 2.0, "findings": []}
        (home / "verdict.json").write_text(json.dumps(verdict))
    np.save(folder / "golden.npy", GOLDEN)
    (folder / "aliases.json").write_text('{"source": 0, "serving": 2, "previous": 1, "candidate": null}')
    registry = start(folder)
    assert registry.get(2).path == folder / "000002" / "model.onnx"
    assert {registry.check(n) for n in registry.numbers()} == {"sound"}
    assert registry.last_proven().number == 2
    registry.take_back(2, "worse")
    assert registry.last_proven().number == 1
    assert promoted(registry, 3) == 3
    registry.take_back(3, "worse too")
    assert registry.last_proven().number == 1


# damage


FORGED = {
    "tensors.safetensors": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "manifest.json": lambda data: data.replace(b'"rounds": 8', b'"rounds": 9'),
    "verdict.json": lambda data: data.replace(b"120.0", b"999.0"),
}


@pytest.mark.parametrize("name", FORGED)
def test_what_was_changed_afterwards_is_found_and_named(anywhere, name):
    first = f"{promoted(anywhere, 1):06d}/{name}"
    promoted(anywhere, 2)
    before = anywhere.storage.read(first)
    anywhere.storage.write(first, FORGED[name](before))
    assert anywhere.storage.read(first) != before
    told = []
    for number in anywhere.numbers():
        try:
            ModelRegistry(anywhere.storage).check(number)
        except RegistryError as error:
            told.append(str(error))
    assert told
    assert all("version 1 is damaged" in line for line in told)


def test_a_damaged_graph_is_never_handed_out(anywhere):
    anywhere.add(graph(1), anywhere.get(0), {})
    anywhere.get(1).path.unlink()
    data = bytearray(anywhere.storage.read("000001/tensors.safetensors"))
    data[-1] ^= 1
    anywhere.storage.write("000001/tensors.safetensors", bytes(data))
    with pytest.raises(RegistryError, match="version 1 is damaged: its graph has sha256"):
        anywhere.get(1)


def test_a_damaged_copy_is_made_again(registry):
    path = registry.add(graph(1), registry.get(0), {}).path
    path.write_bytes(b"damaged")
    assert registry.get(1).path == path
    assert path.read_bytes() == graph(1)


def test_copies_are_few_but_those_of_aliases_stay(registry):
    first = promoted(registry, 1)
    for shift in range(2, 10):
        promoted(registry, shift) if shift == 2 else registry.add(graph(shift), registry.get(0), {})
    held = {path.stem for path in registry.cache.folder.glob("*.onnx")}
    assert {registry.manifest(n)["sha256"] for n in (first, 2)} <= held
    assert len(held) <= NEWEST + 2


# what served when


def test_a_roll_back_goes_to_what_served_last_and_was_proven(anywhere):
    assert anywhere.last_proven().number == 0
    first, second = promoted(anywhere, 1), promoted(anywhere, 2)
    guarded = promoted(anywhere, 3, proof="guarded")
    assert anywhere.aliases()["serving"] == guarded
    assert anywhere.last_proven().number == second
    anywhere.take_back(second, "it lost 9 of 10")
    anywhere.take_back(second, "and again")
    assert anywhere.is_withdrawn(second)
    assert anywhere.withdrawal(second)["reason"] == "it lost 9 of 10"
    assert anywhere.last_proven().number == first
    anywhere.serve(0, by="command", reason="rolled back")
    assert anywhere.last_proven().number == 0
    anywhere.take_back(0, "no")
    assert not anywhere.is_withdrawn(0)
    with pytest.raises(RegistryError, match="version 9 cannot be taken back"):
        anywhere.take_back(9, "no")


def test_a_crash_between_alias_and_history_forgets_nothing(registry):
    promoted(registry, 1)
    (registry.folder / "history.jsonl").unlink()
    assert registry.last_proven().number == 1


def test_a_guarded_version_says_when_it_expires(registry):
    registry.add(graph(1), registry.get(0), {})
    registry.conclude(1, "guarded", "guarded", WHY, expires_s=time.time() + 60)
    assert registry.verdict(1)["expires_s"] > time.time()


def test_what_was_promoted_by_force_is_not_rejected_by_the_agent(registry):
    registry.add(graph(1), registry.get(0), {})
    registry.conclude(1, "forced", "none", [], by="command")
    registry.serve(1, by="command")
    registry.reject(1, "overruled", [])
    assert registry.get(1).path.read_bytes() == graph(1)
    assert registry.verdict(1)["by"] == "command"


# what may go


def test_retention_takes_old_graphs_and_never_what_is_needed(anywhere):
    numbers = [promoted(anywhere, shift) for shift in range(1, 7)]
    anywhere.pin(numbers[1])
    anywhere.add(graph(9), anywhere.get(0), {})  # under test
    planned = anywhere.gc(1, dry_run=True)
    assert planned.graphs == (numbers[0], numbers[2], numbers[3])
    assert all(anywhere.has_graph(n) for n in numbers)
    assert anywhere.gc(1) == planned
    assert [n for n in anywhere.numbers() if anywhere.has_graph(n)] == [0, 2, 5, 6, 7]
    assert anywhere.gc(1).graphs == ()
    assert anywhere.check(1) == "explanation only"
    assert anywhere.check(2) == "sound"  # its parent's explanation is still there
    anywhere.unpin(numbers[1])
    assert anywhere.gc(1).graphs == (numbers[1],)


def test_retention_keeps_what_a_roll_back_needs(anywhere):
    first = promoted(anywhere, 1)
    bad = [promoted(anywhere, shift) for shift in (2, 3, 4)]
    for number in bad:
        anywhere.take_back(number, "worse")
    anywhere.gc(1)
    assert anywhere.last_proven().number == first


# settings


def test_the_settings_say_where_and_go_into_the_manifest(tmp_path):
    url = f"memory://{uuid.uuid4().hex}/a"
    settings = Settings(
        store={"path": tmp_path / "store", "versions": url},
        adapt={"method": "deyo"},
        http={"token": "hush"},
        stream={"sasl_password": "hush"},
    )
    registry = open_registry(settings)
    registry.ensure_source("model-a", lambda: (graph(), GOLDEN))
    version = registry.add(graph(1), registry.get(0), {})
    assert version.path.parent == tmp_path / "store" / "cache"
    assert registry.manifest(1)["settings"]["adapt"]["method"] == "deyo"
    assert "hush" not in json.dumps(registry.manifest(1))
    assert open_registry(Settings(store={"path": tmp_path})).folder == tmp_path / "versions"
