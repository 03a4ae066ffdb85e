"""Every command where the world outside refuses: status 2, one to three lines with the setting, no traceback."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from tests import worlds
from tests.registry.test_registry import GOLDEN, graph
from tta_agent.registry.factory import open_registry
from tta_agent.settings import env
from tta_agent.stream.factory import open_producer
from tta_agent.stream.recordings.reader import import_npz
from tta_agent.telemetry.event_log import EventLog

TINY = {"TTA_MODEL__FACTORY": "tests.worlds:tiny_batch_net", "TTA_MODEL__INPUT_SHAPE": "[1,8,8]"}
KAFKA = {"TTA_STREAM__BOOTSTRAP_SERVERS": "127.0.0.1:9", "TTA_STREAM__CONNECT_TIMEOUT_S": "1"}
NOWHERE = "/nowhere/file"
AT_A_TIME = 2  # processes
VERSIONS = [
    "versions", "versions list --json", "versions show 0", "versions explain serving", "versions diff 0 serving",
    "versions promote 0 -y", "versions rollback 0", "versions pin 0", "versions unpin 0", "versions gc",
    "versions export 0 {out}/a.onnx", "versions verify",
]  # fmt: skip
TO_AN_AGENT = ["approve", "reject 1", "freeze", "unfreeze", "reset"]
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2


def as_anybody() -> None:
    """Take from root the right to write where the rights forbid it; others do not have it."""
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def on_a_full_disk() -> None:
    """Let no file grow beyond 10 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))


@dataclass
class Place:
    """Folder of one test: a seeded store, recordings, a folder for outputs."""

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)
    before: Callable[[], None] | None = None

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def variables(self) -> Mapping[str, str]:
        standard = {"TTA_STORE__PATH": str(self.store), "TTA_SWAP__DRIVER": "none", "TTA_SERVE__PORT": "0"}
        return {**worlds.clean_environ(), **TINY, **standard, **self.environ}

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run `tta-agent COMMAND`; {out}, {rec}, {deep} and {npz} are of this place."""
        names = {name: str(self.folder / name) for name in ("out", "rec", "deep", "npz.npz")}
        words = [
            word.format(**names, npz=names["npz.npz"]) if "{" in word else word for word in command.split()
        ]
        return subprocess.run(
            [sys.executable, "-m", "tta_agent", *words],
            env=self.variables(), preexec_fn=self.before, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as an agent leaves it, without the work of one."""
    folder = tmp_path_factory.mktemp("seeded")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("TTA_")]:
            patch.delenv(name)
        settings = env.load(store={"path": folder / "store"})
    open_registry(settings).ensure_source("a", lambda: (graph(), GOLDEN))
    EventLog(settings.store.path).status(ready=True, awaiting=1)
    open_producer(settings, []).close()
    noise = np.random.default_rng(0).random((300, 1, 8, 8), np.float32)
    np.savez(folder / "npz.npz", inputs=noise, labels=np.zeros(300, np.int64))
    import_npz(folder / "npz.npz", folder / "rec", model="m")
    shutil.copytree(folder / "rec", folder / "deep")
    (folder / "deep" / "recording.json").write_text('{"a": ' * 100_000)
    (folder / "out").mkdir()
    return folder


@pytest.fixture
def place(seeded: Path, tmp_path: Path) -> Iterator[Place]:
    shutil.copytree(seeded, tmp_path / "place")
    yield Place(tmp_path / "place")
    lock(tmp_path / "place", 0o755)


def lock(folder: Path, mode: int) -> None:
    """Give a folder and all below it these rights."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(mode if path.is_dir() else mode & 0o666)


def read_only(place: Place) -> None:
    lock(place.store, 0o555)
    place.before = as_anybody


def wiped(place: Place) -> None:
    shutil.rmtree(place.store)


def a_file(place: Place) -> None:
    shutil.rmtree(place.store)
    place.store.write_text("")


def full(place: Place) -> None:
    place.before = on_a_full_disk


def no_certificates(place: Place) -> None:
    place.environ = {**KAFKA, "TTA_STREAM__SSL_CAFILE": NOWHERE}


def no_password(place: Place) -> None:
    place.environ = {**KAFKA, "TTA_STREAM__SASL_PASSWORD_FILE": NOWHERE}


def no_model(place: Place) -> None:
    shutil.rmtree(place.store)
    place.environ = {"TTA_MODEL__WEIGHTS": NOWHERE}


def no_anchor(place: Place) -> None:
    place.environ = {"TTA_GATE__ANCHOR": NOWHERE}


def versions_elsewhere(place: Place) -> None:
    place.environ = {"TTA_STORE__VERSIONS": str(place.folder / "npz.npz")}


def hostile_registry(place: Place) -> None:
    (place.store / "versions" / "aliases.json").write_text("[" * 100_000)


def nothing_wrong(place: Place) -> None:
    """What is wrong stands on the command line."""


PATH, RECORD = "TTA_STORE__PATH", "record {out}/r --follow-s 0.1"
CASES: list[tuple[Callable[[Place], None], str, Sequence[str]]] = [
    (
        read_only, PATH,
        ["run", "serve", RECORD, "versions promote 0 -y", "versions pin 0", "versions unpin 0", "versions gc",
         *TO_AN_AGENT[1:]],
    ),
    (wiped, PATH, [*VERSIONS, "rollback", *TO_AN_AGENT, RECORD]),
    (a_file, PATH, ["run", "serve", RECORD, "versions", "rollback", "freeze", "calibrate"]),
    (full, PATH, ["serve", RECORD]),
    (full, "{out}/r", ["import-npz {npz} {out}/r"]),
    (no_certificates, "TTA_STREAM__SSL_CAFILE", ["run", "serve", RECORD]),
    (no_password, "TTA_STREAM__SASL_PASSWORD_FILE", ["serve", RECORD]),
    (no_model, "TTA_MODEL__WEIGHTS", ["serve"]),
    (no_anchor, "TTA_GATE__ANCHOR", ["rehearse"]),
    (versions_elsewhere, "TTA_STORE__VERSIONS", ["serve", "versions", "versions gc", "rollback"]),
    (hostile_registry, "aliases.json", ["serve", "versions", "versions verify", "rollback"]),
    (nothing_wrong, "{deep}", ["replay {deep}", "calibrate {deep}"]),
    (
        nothing_wrong, NOWHERE,
        [f"replay {{rec}} --json {NOWHERE}", f"replay {{rec}} --html {NOWHERE}", f"rehearse --anchor {NOWHERE}",
         f"bench methods --json {NOWHERE}", f"demo --json {NOWHERE}", f"traffic --data npz:{NOWHERE}",
         f"import-npz {NOWHERE} {{out}}/r", f"versions export 0 {NOWHERE}"],
    ),
    (nothing_wrong, "{npz}/x", [f"{one} {{npz}}/x" for one in ("record", "import-npz {npz}", "demo --out")]),
    (nothing_wrong, "/dev/full", ["versions export 0 /dev/full"]),
]  # fmt: skip


def named(case: tuple[Callable[[Place], None], str, Sequence[str]]) -> str:
    return f"{case[0].__name__}-{case[1]}"


@pytest.mark.slow
@pytest.mark.parametrize(("condition", "name", "commands"), CASES, ids=[named(case) for case in CASES])
def test_a_command_that_cannot_work_says_so(
    place: Place, condition: Callable[[Place], None], name: str, commands: Sequence[str]
) -> None:
    condition(place)
    expected = name.format(out=place.folder / "out", deep=place.folder / "deep", npz=place.folder / "npz.npz")
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for command, done in zip(commands, pool.map(place.run, commands), strict=True):
            told = f"{command}\n{done.stdout}\n{done.stderr}"
            lines = [line for line in done.stderr.splitlines() if " INFO " not in line]
            assert done.returncode == 2, told
            assert "Traceback" not in told, told
            assert 1 <= len(lines) <= 3, told
            assert max(map(len, lines)) < 500, told
            assert expected in done.stderr, told


@pytest.mark.slow
def test_commands_that_need_no_store_work_where_it_is_none(place: Place) -> None:
    a_file(place)
    for command in ("schema", "run --show-config", "--version"):
        done = place.run(command)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_what_is_only_read_is_read_from_a_read_only_store(place: Place) -> None:
    read_only(place)
    for command in (
        "versions --json",
        "versions explain 0",
        "versions verify",
        "versions export 0 {out}/a.onnx",
    ):
        done = place.run(command)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert (place.folder / "out" / "a.onnx").read_bytes() == graph()
