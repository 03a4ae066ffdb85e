"""Does dynamic batching of the embedded server pay?

python benchmarks/batching.py [--quick] [--json OUT]

For each model one server without batching and one for each setting of it, each a process of its own, with two workers
of one thread. A second process asks from so many connections, one sample a request, without a pause; the servers
take turns, several rounds each, so that whatever else the machine does meets all of them. *cpu* is the server's
processor time of a request, from its head to its answer: it hardly depends on what else runs. Ratios are those to
the server without batching; above 1 is better for *requests*, below 1 for the others.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import httpx
import numpy as np

from tests.parts.kafka.broker import free_ports
from tta_agent.models.ort_sessions import HotSwapSession, open_session
from tta_agent.serving.server.app import make_app, serve
from tta_agent.serving.server.batching import Batching
from tta_agent.stream.codecs import oip

SETTINGS = {"off": Batching(), "16, 0 ms": Batching(16), "16, 2 ms": Batching(16, 0.002)}
CONNECTIONS = (1, 8, 32)
MODELS = {"mlp 4096": (4096,), "resnet18, 64 px": (3, 64, 64), "vit_tiny, 96 px": (3, 96, 96)}


def export(name: str, path: Path) -> None:
    """Write a model with random weights."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    if name.startswith("mlp"):
        wide = [nn.Linear(4096, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 10)]
        net: nn.Module = nn.Sequential(*wide)
    else:
        import timm

        timm_name, side = {"resnet18": ("resnet18", None), "vit_tiny": ("vit_tiny_patch16_224", 96)}[
            name.partition(",")[0]
        ]
        net = timm.create_model(timm_name, num_classes=10, **({} if side is None else {"img_size": side}))
    x = torch.zeros(2, *MODELS[name])
    axes = {"x": {0: "n"}, "y": {0: "n"}}
    torch.onnx.export(
        net.eval(), (x,), str(path), input_names=["x"], output_names=["y"], dynamic_axes=axes, dynamo=False
    )


def serve_one(path: str, port: str, setting: str) -> None:
    """A server in this process."""
    app = make_app(
        "m", HotSwapSession(0, open_session(Path(path))), lambda number: None, batching=SETTINGS[setting]
    )  # type: ignore[arg-type,return-value]
    serve(app, port=int(port))


def ask(url: str, shape: str, connections: str, seconds: str) -> None:
    """Ask from so many connections; prints the seconds of each request."""
    x = np.random.default_rng(0).normal(size=(1, *json.loads(shape))).astype(np.float32)
    body, length = oip.encode(oip.Body({"input": x}, parameters={"binary_data_output": True}))
    took: list[float] = []
    end_s = time.monotonic() + float(seconds)

    def one() -> None:
        headers = {oip.HEAD_LENGTH: str(length), "accept-encoding": "identity"}
        with httpx.Client(base_url=url, timeout=60, trust_env=False, headers=headers) as http:
            while time.monotonic() < end_s:
                began_s = time.perf_counter()
                assert http.post("/v2/models/m/infer", content=body).status_code == 200
                took.append(time.perf_counter() - began_s)

    threads = [threading.Thread(target=one) for _ in range(int(connections))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(took))


@dataclass
class Seen:
    """Of one setting and number of connections, all rounds together."""

    took_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    samples: int = 0
    runs: int = 0

    def row(self, seconds: float) -> dict[str, float]:
        """Figures of the table."""
        p50, p99 = np.quantile(self.took_s, (0.5, 0.99)) * 1e3
        count = len(self.took_s)
        return {
            "requests_per_s": count / seconds, "cpu_ms": 1e3 * self.cpu_s / count, "p50_ms": float(p50),
            "p99_ms": float(p99), "batch": self.samples / self.runs,
        }  # fmt: skip


@contextmanager
def server(path: Path, setting: str) -> Iterator[tuple[str, int]]:
    """URL and process of a server."""
    [port] = free_ports(1)
    command = [sys.executable, __file__, "--child", "serve_one", str(path), str(port), setting]
    with subprocess.Popen(command) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            while True:
                try:
                    httpx.get(f"{url}/v2/health/ready", trust_env=False)
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            yield url, process.pid
        finally:
            process.terminate()


def cpu_s(pid: int) -> float:
    """Processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def executed(url: str) -> tuple[int, int]:
    """Samples and runs so far."""
    [entry] = httpx.get(f"{url}/v2/models/m/stats", trust_env=False).json()["model_stats"]
    return entry["inference_count"], entry["execution_count"]


def measured(name: str, rounds: int, seconds: float, connections: Sequence[int]) -> dict[str, Any]:
    """Figures of one model, by connections and setting."""
    seen = {(count, setting): Seen() for count in connections for setting in SETTINGS}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        path = Path(folder, "m.onnx")
        export(name, path)
        servers = {setting: stack.enter_context(server(path, setting)) for setting in SETTINGS}
        for _ in range(rounds):
            for (count, setting), one in seen.items():
                url, pid = servers[setting]
                before, (samples, runs) = cpu_s(pid), executed(url)
                command = [sys.executable, __file__, "--child", "ask", url]
                command += [json.dumps(MODELS[name]), str(count), str(seconds)]
                one.took_s += json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
                now = executed(url)
                one.samples, one.runs = one.samples + now[0] - samples, one.runs + now[1] - runs
                one.cpu_s += cpu_s(pid) - before
    found: dict[str, Any] = {}
    for (count, setting), one in seen.items():
        row = one.row(rounds * seconds)
        off = found.setdefault(str(count), {}).setdefault("off", row)
        ratios = {
            f"{key}_ratio": row[key] / off[key] for key in ("requests_per_s", "cpu_ms", "p50_ms", "p99_ms")
        }
        found[str(count)][setting] = row if setting == "off" else {**row, **ratios}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json")
    parser.add_argument("--child", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if given.child:
        {"serve_one": serve_one, "ask": ask}[given.child[0]](*given.child[1:])
        return
    rounds, seconds = (2, 3.0) if given.quick else (4, 6.0)
    found = {name: measured(name, rounds, seconds, CONNECTIONS) for name in MODELS}
    for name, by_count in found.items():
        for count, by_setting in by_count.items():
            for setting, row in by_setting.items():
                figures = "  ".join(f"{key} {value:.3g}" for key, value in row.items())
                print(f"{name:16} {count:>2} connections, {setting:9} {figures}")
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
