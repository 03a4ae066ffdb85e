"""From a decision to the verified answer, by server and size of the model.

python benchmarks/swap_sizes.py [--nets resnet18,resnet50,vit_base_patch16_224] [--json OUT]

Real servers of tests/parts and the embedded one, each with the net of timm as its version 1; median of three
swaps. The golden batch goes by the size of the graph, as in the agent. No load beside it: what clients notice is in
`swap.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import swap
import timm

from tta_agent.core.types import ServerInfo
from tta_agent.models.ort_sessions import open_session
from tta_agent.registry.registry import ModelRegistry
from tta_agent.serving.drivers.oip import OipDriver
from tta_agent.serving.swap import bring_up, golden

SHAPE, CLASSES, SWAPS = (3, 224, 224), 1000, 3
NETS = "resnet18,resnet50,vit_base_patch16_224"


@contextlib.contextmanager
def embedded(registry: ModelRegistry, work: Path) -> Iterator[Any]:
    """Driver of the embedded server."""
    with swap.served(registry, work / "versions") as (url, _):
        yield OipDriver(ServerInfo(url, "m", 60))


@contextlib.contextmanager
def on_triton(registry: ModelRegistry, work: Path) -> Iterator[Any]:
    """Driver of a real Triton."""
    graph = registry.get(0).path.read_bytes()
    with swap.triton_server(work, graph, sample=SHAPE, answer=(CLASSES,)) as (driver, _):
        yield driver


@contextlib.contextmanager
def on_python_server(part: str, registry: ModelRegistry, work: Path) -> Iterator[Any]:
    """Driver of a real MLServer or KServe Python server."""
    with swap.python_server(part, work, registry.get(0).path.read_bytes()) as (driver, _):
        yield driver


SERVERS = {
    "embedded": embedded,
    "triton": on_triton,
    "mlserver": functools.partial(on_python_server, "mlserver"),
    "kserve": functools.partial(on_python_server, "kserve"),
}


def swapped(driver: Any, registry: ModelRegistry) -> float:
    """Median seconds of a swap."""
    took = []
    driver.probe()
    for number in range(1, SWAPS + 1):
        version = registry.get(number)
        expected = golden(open_session(version.path), registry.golden_inputs(), version.path.stat().st_size)
        began_s = time.perf_counter()
        bring_up(driver, version, expected)
        took.append(time.perf_counter() - began_s)
        assert driver.live() == number
    driver.close()
    return statistics.median(took)


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", default=NETS)
    parser.add_argument("--json", type=Path)
    given, found = parser.parse_args(), dict[str, dict[str, float]]()
    for name in given.nets.split(","):
        net = timm.create_model(name, num_classes=CLASSES).eval()
        for server, running in SERVERS.items():
            with tempfile.TemporaryDirectory() as folder:
                work = Path(folder)
                registry, _ = swap.registry_of(net, SHAPE, work / "versions", SWAPS)
                with running(registry, work) as driver:
                    found.setdefault(name, {})[server] = swapped(driver, registry)
            print(name, server, f"{found[name][server]:.2f} s", flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
