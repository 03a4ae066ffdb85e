"""How long does a swap take, and who notices?

python benchmarks/swap.py [--quick] [--only embedded,triton,mlserver,kserve,verdict] [--json OUT]

*embedded*: `tta-agent serve` in a process of its own; a second process asks without a pause from two connections and
keeps each answer, which is compared afterwards with an offline run of the version that it names. *p99 ratio*: of
requests that a swap overlaps, over those of the time without swaps before and after, same process, same load.
*RSS slope*: of the server, least squares over the last three quarters of the swaps. *triton*, *mlserver*, *kserve*:
the real servers of tests/parts, 20 swaps each under the load of the tests. *verdict*: from a decision to the answer
of the served version, compared with the golden batch, and written down in the registry.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import httpx
import numpy as np

from tests.parts import python_servers, serving, triton
from tests.parts.kafka.broker import free_ports
from tests.parts.load import Load
from tta_agent.core.types import Array, ServerInfo, Version
from tta_agent.models.ort_sessions import HotSwapSession, open_session, raw_answer
from tta_agent.registry.patches import Patches
from tta_agent.registry.registry import ModelRegistry
from tta_agent.serving.drivers.oip import OipDriver
from tta_agent.serving.drivers.triton import TritonDriver
from tta_agent.serving.server.app import make_app, serve
from tta_agent.serving.swap import bring_up, golden
from tta_agent.stream.codecs import oip

VERSIONS, SAMPLES = 3, 32
CLIENT_PAUSE_S = 0.02


def serve_registry(folder: str, port: str) -> None:
    """The embedded server in this process, from version 0."""
    registry = ModelRegistry(Path(folder))
    pair = HotSwapSession(0, open_session(registry.get(0).path))
    (patches := Patches(registry, packed=True)).skeleton()
    serve(make_app("m", pair, registry.get, find_patch=patches.find), port=int(port))


def ask(url: str, folder: str) -> None:
    """Two clients that ask until the folder has a file `stop`; what they saw goes to `seen.npz`."""
    import threading

    x = np.load(f"{folder}/x.npy")
    rows: list[tuple[float, float, int, int, int]] = []
    answers: list[Array] = []
    lock = threading.Lock()

    def one(first: int) -> None:
        bodies = [
            oip.encode(oip.Body({"input": x[i : i + 1]}, parameters={"binary_data_output": True}))
            for i in range(len(x))
        ]
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            at = first
            while not Path(folder, "stop").exists():
                body, length = bodies[at % len(x)]
                began_s = time.monotonic()
                response = http.post(
                    "/v2/models/m/infer", content=body, headers={oip.HEAD_LENGTH: str(length)}
                )
                ended_s = time.monotonic()
                found, version = np.zeros(1, np.float32), -1
                if response.is_success:
                    told = oip.decode(response.content, int(response.headers[oip.HEAD_LENGTH]))
                    found, version = told.outputs["logits"][0], int(told.version or -1)
                with lock:
                    rows.append((began_s, ended_s, response.status_code, version, at % len(x)))
                    answers.append(found)
                at += 1
                time.sleep(CLIENT_PAUSE_S)

    threads = [threading.Thread(target=one, args=(i * 7,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows_, answers_ = (
        np.array(rows),
        [answer if row[2] == 200 else None for row, answer in zip(rows, answers, strict=True)],
    )
    np.savez(f"{folder}/seen.npz", rows=rows_, answers=np.array([a for a in answers_ if a is not None]))


@contextlib.contextmanager
def child(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """This file in another process, for one of its functions."""
    process = subprocess.Popen([sys.executable, __file__, *arguments])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def served(registry: ModelRegistry, folder: Path) -> Iterator[tuple[str, int]]:
    """The embedded server over a registry: its address and process id."""
    url = f"http://127.0.0.1:{(port := free_ports(1)[0])}"
    with child("serve_registry", str(folder), str(port)) as process:
        serving.eventually(lambda: _lives(url), 60)
        yield url, process.pid


def _lives(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v2/health/ready", trust_env=False).is_success
    except httpx.TransportError:
        return False


def registry_of(
    net: Any, shape: Sequence[int], folder: Path, versions: int
) -> tuple[ModelRegistry, dict[str, float]]:
    """A registry with a net and versions of it; seconds for an export and for a patch."""
    import torch

    from tta_agent.models import onnx_export

    torch.set_num_threads(2)
    started_s = time.perf_counter()
    onnx_export.export(copy.deepcopy(net), torch.zeros(2, *shape)).SerializeToString()
    took = {"export_s": time.perf_counter() - started_s}
    template = onnx_export.GraphTemplate(net, tuple(shape))
    registry = ModelRegistry(folder)
    registry.ensure_source("f", lambda: (template.compose(net), template.fixed))
    patches = []
    for number in range(1, versions + 1):
        moved = copy.deepcopy(net)
        with torch.no_grad():
            for parameter in moved.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.01 * number)
        started_s = time.perf_counter()
        graph = template.compose(moved)
        patches.append(time.perf_counter() - started_s)
        registry.add(graph, registry.get(0), {})
    took["patch_s"] = min(patches)
    return registry, took


def embedded(swaps: int) -> dict[str, float]:
    """Swaps of a ResNet-18 of 64 x 64 pixels in the embedded server."""
    import timm
    import torch

    torch.manual_seed(0)
    net = timm.create_model("resnet18", num_classes=10).eval()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        registry, _ = registry_of(net, (3, 64, 64), work / "versions", VERSIONS)
        x = np.random.default_rng(0).normal(size=(SAMPLES, 3, 64, 64)).astype(np.float32)
        np.save(work / "x.npy", x)
        with served(registry, work / "versions") as (url, pid), child("ask", url, name) as client:
            spans, memory = _swapped(registry, url, pid, swaps)
            (work / "stop").touch()
            client.wait(60)
        seen = np.load(work / "seen.npz")
        wrong = _wrong(registry, x, seen["rows"], seen["answers"])
    rows = seen["rows"]
    inside = np.zeros(len(rows), bool)
    for began_s, ended_s in spans:
        inside |= (rows[:, 0] < ended_s) & (rows[:, 1] > began_s)
    outside = (rows[:, 1] < spans[0][0]) | (rows[:, 0] > spans[-1][1])
    took_ms = (rows[:, 1] - rows[:, 0]) * 1e3
    with_ms, without_ms = (float(np.quantile(took_ms[which], 0.99)) for which in (inside, outside))
    tail = memory[len(memory) // 4 :]
    return {
        "swaps": swaps, "requests": len(rows), "failed": int((rows[:, 2] != 200).sum()), "wrong_answers": wrong,
        "p99_ratio": with_ms / without_ms, "rss_slope_mb": float(np.polyfit(range(len(tail)), tail, 1)[0]),
        "p99_ms": with_ms, "p99_without_ms": without_ms, "worst_ms": float(took_ms.max()),
        "swap_s": float(np.median([ended_s - began_s for began_s, ended_s in spans])),
    }  # fmt: skip


def _swapped(
    registry: ModelRegistry, url: str, pid: int, swaps: int
) -> tuple[list[tuple[float, float]], list[float]]:
    """Times of the swaps, after and before a quiet time; resident memory of the server after each, in MB."""
    driver = OipDriver(ServerInfo(url, "m", 60))
    expected = [
        golden(open_session(path), registry.golden_inputs(), path.stat().st_size)
        for path in (registry.get(number).path for number in range(VERSIONS + 1))
    ]
    spans, memory = [], []
    time.sleep(max(5.0, swaps / 20))
    for swap in range(swaps):
        number = 1 + swap % VERSIONS
        version, began_s = registry.get(number), time.monotonic()
        bring_up(driver, version, expected[number])
        spans.append((began_s, time.monotonic()))
        assert driver.live() == number
        memory.append(_resident_mb(pid))
    time.sleep(max(5.0, swaps / 20))
    driver.close()
    return spans, memory


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _wrong(registry: ModelRegistry, x: Array, rows: Array, answers: Array) -> int:
    """Answers that are not those of the version that they name."""
    good = rows[rows[:, 2] == 200]
    wrong = 0
    for number in np.unique(good[:, 3]).astype(int):
        session = open_session(registry.get(int(number)).path)
        expected = np.concatenate([raw_answer(session, x[i : i + 1]) for i in range(len(x))])
        mine = good[:, 3] == number
        apart = np.abs(answers[mine] - expected[good[mine, 4].astype(int)]).max(1)
        wrong += int((apart > 1e-4).sum())
    return wrong


@contextlib.contextmanager
def triton_server(work: Path, graph: bytes, **model: Any) -> Iterator[tuple[TritonDriver, str]]:
    """Driver and address of a real Triton, explicit mode, a shared folder; `model`: of `triton.add_model`."""
    (models := work / "models").mkdir()
    triton.add_model(models, "m", graph, **model)
    with triton.running(work, models, ["m"]) as server:
        info = ServerInfo(server.url, "m", 60, source=1)
        yield TritonDriver(info, repository=str(models), grpc=server.grpc), server.url


@contextlib.contextmanager
def python_server(part: str, work: Path, graph: bytes) -> Iterator[tuple[OipDriver, str]]:
    """Driver and address of a real MLServer or KServe Python server, over a shared folder."""
    models = work / "models"
    python_servers.add_model(part, models, "m", graph)
    with python_servers.running(part, work, models, "m") as server:
        yield OipDriver(ServerInfo(server.url, "m", 60, source=1), repository=str(models)), server.url


def on_triton(swaps: int) -> dict[str, float]:
    """Swaps in a real Triton."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        with triton_server(work, serving.graph_bytes(0)) as (driver, url):
            return _loaded(driver, work, Load(url, "m", lambda told: int(told) - 1), swaps)


def on_python_server(part: str, swaps: int) -> dict[str, float]:
    """Swaps in a real MLServer or KServe Python server."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        with python_server(part, work, serving.graph_bytes(0)) as (driver, url):
            load = Load(url, "m", lambda told: int(told) - 1, input="pixels")
            return _loaded(driver, work, load, swaps)


def _loaded(driver: Any, work: Path, load: Load, swaps: int) -> dict[str, float]:
    graphs, took = serving.GraphFolder(work), []
    driver.probe()
    with load:
        for number in range(1, swaps + 1):
            version, began_s = graphs.add(number), time.monotonic()
            bring_up(driver, version, serving.golden(number))
            took.append(time.monotonic() - began_s)
            assert driver.live() == number
            load.await_version(number)
    driver.close()
    return {
        "swaps": swaps, "requests": load.requests, "failed": len(load.failed), "wrong_answers": len(load.wrong),
        "worst_request_s": load.worst_s, "swap_s": float(np.median(took)),
    }  # fmt: skip


def verdict(name: str) -> tuple[float, dict[str, float]]:
    """Seconds from a decision to the verified answer of the embedded server, for a net of timm; least of three.

    Beside them seconds of an export and of a patch, and of the processors for the swap, in agent and server: other
    processes on the machine do not lengthen those.
    """
    import timm

    from tta_agent.serving.deployment import ServedModel
    from tta_agent.serving.promotion import PromotionRecord
    from tta_agent.telemetry.event_log import EventLog
    from tta_agent.telemetry.facade import Telemetry

    with tempfile.TemporaryDirectory() as folder:
        registry, took = registry_of(
            timm.create_model(name).eval(), (3, 224, 224), Path(folder, "versions"), 3
        )
        with served(registry, Path(folder, "versions")) as (url, pid):
            driver = OipDriver(ServerInfo(url, "m", 60))
            model = ServedModel(
                registry,
                driver,
                Telemetry.off(),
                EventLog(Path(folder)),
                registry.golden_inputs(),
                open_session,
            )
            model.align()
            seconds = [
                _promoted(model, registry.get(number), PromotionRecord("certified", [], {}), pid)
                for number in (1, 2, 3)
            ]
    took["processors_s"] = min(processors_s for _, processors_s in seconds)
    return min(wall_s for wall_s, _ in seconds), took


def _promoted(model: Any, version: Version, record: Any, server: int) -> tuple[float, float]:
    session = model.open(version.path)  # the evaluation has one, and the answers to the golden batch
    model.expected(version, session)
    started_s, used_s = time.perf_counter(), time.process_time() + _processors_s(server)
    assert model.promote(version, session, record, None)
    used_s = time.process_time() + _processors_s(server) - used_s
    return time.perf_counter() - started_s, used_s


def _processors_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the same measurements, each net once")
    parser.add_argument("--only", default="embedded,triton,mlserver,kserve,verdict")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    only, found = given.only.split(","), dict[str, Any]()
    parts: dict[str, Callable[[], dict[str, float]]] = {
        "embedded": lambda: embedded(200),
        "triton": lambda: on_triton(20),
        "mlserver": lambda: on_python_server("mlserver", 20 if given.quick else 100),
        "kserve": lambda: on_python_server("kserve", 20 if given.quick else 100),
    }
    for part, measure in parts.items():
        if part in only:
            found[part] = measure()
            print(part, json.dumps(found[part]), flush=True)
    if "verdict" in only:
        found["verdict_to_served_s"] = {}
        for short, name in (("resnet50", "resnet50"), ("vit_base", "vit_base_patch16_224")):
            found["verdict_to_served_s"][short], took = verdict(name)
            found.setdefault("patch_over_export", took["patch_s"] / took["export_s"])
            print(short, found["verdict_to_served_s"][short], json.dumps(took), flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in ("serve_registry", "ask"):
        {"serve_registry": serve_registry, "ask": ask}[sys.argv[1]](*sys.argv[2:])
    else:
        main()
