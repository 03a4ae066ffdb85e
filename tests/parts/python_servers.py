"""Starts a real MLServer, and a real server of KServe's Python SDK, each with packages of its own.

`python -m tests.parts.python_servers mlserver kserve producers` installs what is missing into `.parts/mlserver`,
`.parts/kserve` and `.parts/producers` (400, 530 and 410 MB); PARTS_CACHE names another folder than `.parts`. The
model classes are in `servers/`. `producers` are FastAPI, LitServe and BentoML, for the examples in `docs/examples`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from tests.parts.kafka.broker import REPOSITORY, free_ports

HERE = Path(__file__).parent / "servers"
PACKAGES = {
    "mlserver": ["mlserver==1.7.1", "onnxruntime==1.23.2"],
    "kserve": ["kserve==0.21.0", "onnxruntime==1.23.2"],
    "producers": [
        "fastapi==0.165.0",
        "uvicorn",
        "litserve==0.2.19",
        "bentoml==1.4.40",
        "onnxruntime==1.23.2",
    ],
}
# All that `tta_agent.tap` imports with a stream over HTTP, beside what they have: no torch, and no broker's client.
TAP = ["cloudevents>=1.12,<2", "numpy", "pillow", "protobuf", "pydantic-settings", "pyyaml"]
WITH_TAP = ("mlserver", "kserve", "producers")
INSTALL_LIMIT_S, START_LIMIT_S = 600.0, 90.0


def folder(part: str) -> Path:
    """Where the part is, or will be."""
    return Path(os.environ.get("PARTS_CACHE") or REPOSITORY / ".parts") / part


def unavailable(part: str) -> str | None:
    """One line that says why the server cannot be used here, or None."""
    needed = ["complete", "tap"] if part in WITH_TAP else ["complete"]
    if all((folder(part) / name).exists() for name in needed):
        return None
    return f"needs its packages: python -m tests.parts.python_servers {part}"


def fetch(part: str) -> None:
    """Install the packages unless they are there."""
    if not (folder(part) / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder(part))], check=True)
        _install(part, "complete", PACKAGES[part])
    if part in WITH_TAP and not (folder(part) / "tap").exists():
        _install(part, "tap", TAP)


def _install(part: str, mark: str, packages: Sequence[str]) -> None:
    command = [str(folder(part) / "bin" / "python"), "-m", "pip", "install", "-q", *packages]
    subprocess.run(command, check=True, timeout=INSTALL_LIMIT_S)
    (folder(part) / mark).touch()


class PythonServer:
    """One server, which can be killed and started again at the same address.

    Args:
        part: `mlserver` or `kserve`.
        work: for its log.
        repository: folder with the model's.
    """

    def __init__(self, part: str, work: Path, repository: Path, name: str) -> None:
        self.part, self.repository, self.name, self._work = part, repository, name, work
        self._ports = free_ports(3)
        self.url, self.log = f"http://127.0.0.1:{self._ports[0]}", work / f"{part}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when the model answers."""
        environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command(),
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                cwd=self._work,
            )
        deadline_s = time.monotonic() + START_LIMIT_S
        while not _answers(f"{self.url}/v2/models/{self.name}/ready"):
            if time.monotonic() > deadline_s or self.process.poll() is not None:
                raise RuntimeError(
                    f"{self.part} is not ready on {self.url}; its log ends:\n{self.log.read_text()[-3000:]}"
                )
            time.sleep(0.05)

    def kill(self) -> None:
        """Gone, without a word, its workers as well."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, 9)
            self.process.wait(30)

    def _command(self) -> Sequence[str]:
        programs = folder(self.part) / "bin"
        if self.part == "kserve":
            script = [str(programs / "python"), str(HERE / "kserve_onnx.py"), str(self.repository), self.name]
            return [*script, f"--http_port={self._ports[0]}"]
        http, grpc, metrics = self._ports
        settings = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics}
        (self.repository / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0}))
        return [str(programs / "mlserver"), "start", str(self.repository)]


def add_model(part: str, repository: Path, name: str, graph: bytes) -> Path:
    """A model of the repository, as its owner would put it there, version 1; its folder."""
    home = repository / name
    (home / "1").mkdir(parents=True)
    (home / "1" / "model.onnx").write_bytes(graph)
    if part == "mlserver":
        parameters = {"uri": "./1/model.onnx", "version": "v3"}
        settings = {"name": name, "implementation": "mlserver_onnx.OnnxModel", "parameters": parameters}
        (home / "model-settings.json").write_text(json.dumps(settings))
    return home


@contextlib.contextmanager
def running(part: str, work: Path, repository: Path, name: str) -> Iterator[PythonServer]:
    """A server that runs; it is killed at the end."""
    server = PythonServer(part, work, repository, name)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=2).is_success
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    for part in sys.argv[1:]:
        fetch(part)
        print(folder(part))
