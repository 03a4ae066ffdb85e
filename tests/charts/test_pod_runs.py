"""The rendered pod runs: its commands with its variables, user, mounts and read-only root, beside a real Kafka."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from kafka import KafkaAdminClient

from benchmarks import lifecycle
from tests.conftest import require_or_skip
from tests.parts.kafka.broker import free_ports
from tests.parts.kube import helm, tools
from tests.parts.kube.pod import Pod, pod, unavailable

LIMIT_S = 240.0


@pytest.fixture
def ports() -> dict[str, int]:
    return dict(zip(("health", "metrics", "serve"), free_ports(3), strict=True))


@pytest.fixture
def rendered(tmp_path: Path, kafka: str, ports: dict[str, int]) -> Iterator[Callable[..., Pod]]:
    """Makes the pod of a case, on the broker and on ports that nobody else has; not started."""
    require_or_skip("helm", tools.unavailable("helm"))
    require_or_skip("pod", unavailable())
    with ExitStack() as stack:

        def make(case: str, **more: Any) -> Pod:
            settings = {
                "stream": {
                    "bootstrap_servers": kafka,
                    "topic": case,
                    "labels_topic": f"{case}.labels",
                    "group": case,
                },
                "http": {"health_port": ports["health"]},
                "serve": {"port": ports["serve"]},
                "swap": {"url": f"http://127.0.0.1:{ports['serve']}"},
                "store": {"checkpoint_every": 4},
                **more.pop("settings", {}),
            }
            values = {"settings": settings, "metrics": {"port": ports["metrics"]}, **more}
            found = helm.manifests(helm.render(case=case, values=values, folder=tmp_path))
            return stack.enter_context(pod(helm.one(found, "Deployment"), tmp_path / "pod"))

        (tmp_path / "pod").mkdir()
        yield make


def until(holds: Callable[[], object], found: Pod, seconds: float = LIMIT_S) -> None:
    """Poll; a container that has ended, or takes too long, is shown with the end of its log."""
    deadline_s = time.monotonic() + seconds
    while not holds():
        for name, each in found.containers.items():
            ended = (
                name != "tta-agent-preflight" and each.process is not None and each.process.poll() is not None
            )
            assert not ended and time.monotonic() < deadline_s, f"{name}: {each.log.read_text()[-3000:]}"
        time.sleep(0.2)


def events(found: Pod) -> list[dict[str, Any]]:
    """All that the agent has told."""
    file = found.volumes["tta-agent-store"] / "events.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def says(found: Pod, text: str) -> bool:
    """Whether the agent has printed it."""
    return text in found.containers["tta-agent"].log.read_text()


def live(port: int) -> int:
    """The version that the server answers with."""
    entries = httpx.post(f"http://127.0.0.1:{port}/v2/repository/index", json={}).json()
    (found,) = [int(each["version"]) for each in entries if each["reason"] == "live"]
    return found


def committed(kafka: str, group: str) -> int:
    """Records of a topic named like its group that the group is done with."""
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    try:
        offsets = admin.list_group_offsets(group).get(group, {})
    finally:
        admin.close()
    return sum(max(int(each.offset), 0) for place, each in offsets.items() if place.topic == group)


@pytest.mark.slow
@pytest.mark.kafka
def test_the_demo_learns_swaps_ends_in_order_and_goes_on(
    rendered: Callable[..., Pod], ports: dict[str, int], kafka: str
) -> None:
    demo = rendered("sidecar-demo")
    server, store = demo.containers["server"], demo.volumes["tta-agent-store"]
    demo.start()
    until(server.ready, demo)
    until(lambda: says(demo, "starting from the source"), demo)
    assert httpx.get(f"http://127.0.0.1:{ports['health']}/healthz").status_code == 200
    log = demo.folder / "traffic.log"
    with log.open("w") as told:
        labels = ("--label-rate", "0.9", "--label-delay", "1")
        command = ("tta-agent", "traffic", "--clean-s", "5", "--seconds", "200", *labels)
        traffic = server.run(*command, stdout=told, stderr=told)
        until(lambda: re.search(r"version [1-9]", log.read_text()), demo)
    lines = log.read_text().splitlines()
    assert all(line.endswith("failed 0") for line in lines), lines
    assert any(each["event"] == "swap" for each in events(demo))
    assert "tta_swaps_total{" in httpx.get(f"http://127.0.0.1:{ports['metrics']}/metrics").text
    for each in demo.containers.values():
        assert each.peak_mib() < each.limit_mib(), each.manifest["name"]
    assert demo.stop() == {"tta-agent": 0, "server": 0}
    traffic.wait(30)
    assert (store / "checkpoint.pt").exists()
    done = committed(kafka, "sidecar-demo")
    assert done > 500
    demo.start()  # as the next pod, on the same volume
    until(lambda: says(demo, "resumed after"), demo)
    until(server.ready, demo)
    assert re.search(r"version [1-9]\d* on cpu at", server.log.read_text())
    agent = demo.containers["tta-agent"]
    agent.pre_stop()  # the agent is taken out; which version serves on is the user's choice
    assert agent.process is not None and agent.process.wait(30) == 0
    assert server.ready() and live(ports["serve"]) > 0
    assert server.run("tta-agent", "rollback", "--to", "0").wait() == 0
    assert server.ready() and live(ports["serve"]) == 0
    assert demo.stop() == {"tta-agent": 0, "server": 0}
    assert committed(kafka, "sidecar-demo") >= done


@pytest.mark.slow
@pytest.mark.kafka
def test_a_central_agent_checks_consumes_and_stops_by_its_hook_alone(
    rendered: Callable[..., Pod], tmp_path: Path, kafka: str
) -> None:
    model = lifecycle.environ(tmp_path / "volumes")
    settings = {
        "mode": "shadow",
        "model": {
            "factory": model["TTA_MODEL__FACTORY"],
            "weights": "/models/net.pt",
            "onnx": None,
            "input_shape": [1, 8, 8],
            "check_served": False,
        },
        "store": {"checkpoint_every": 1},
    }
    python_path = [{"name": "PYTHONPATH", "value": model["PYTHONPATH"]}]
    found = rendered("central", settings=settings, extraEnv=python_path, preflight=True)
    shutil.copy(model["TTA_MODEL__WEIGHTS"], found.volumes["tta-agent-model"] / "net.pt")
    found.start()
    agent, store = found.containers["tta-agent"], found.volumes["tta-agent-store"]
    preflight = found.containers["tta-agent-preflight"]
    for told in ("mode shadow, method tent", "/var/lib/tta-agent can be written by user 1000, group 1000"):
        assert told in preflight.log.read_text()
    assert preflight.message.read_text() == "nothing stands in the way"
    until(lambda: says(found, "starting from the source"), found)
    lifecycle.feed({**model, "TTA_STREAM__TOPIC": "central", "TTA_STREAM__BOOTSTRAP_SERVERS": kafka}, 256)
    until(lambda: committed(kafka, "central") >= 128, found)
    status = Path(f"/proc/{agent.first()}/status").read_text()
    assert re.search(r"^Uid:\t1000\t1000", status, re.MULTILINE) and re.search(
        r"^CapEff:\t0+$", status, re.MULTILINE
    )
    assert "NoNewPrivs:\t1" in status
    assert agent.run("/bin/sh", "-c", "touch /not-here", stderr=subprocess.DEVNULL).wait() != 0
    assert agent.run("/bin/sh", "-c", "touch /models/not-here", stderr=subprocess.DEVNULL).wait() != 0
    agent.pre_stop()
    assert agent.process is not None and agent.process.wait(30) == 0
    assert (store / "checkpoint.pt").exists()


def test_a_pod_with_a_wrong_setting_says_so_and_ends(tmp_path: Path) -> None:
    require_or_skip("helm", tools.unavailable("helm"))
    require_or_skip("pod", unavailable())
    values = {"settings": {"adapt": {"method": "tnet"}}, "preflight": True}
    found = helm.one(
        helm.manifests(helm.render(case="sidecar-demo", values=values, folder=tmp_path)), "Deployment"
    )
    (tmp_path / "pod").mkdir()
    told = "no adapter is called 'tnet'; did you mean tent"
    with pod(found, tmp_path / "pod") as wrong:
        with pytest.raises(AssertionError, match=told):
            wrong.start()
        assert told in wrong.containers["tta-agent-preflight"].message.read_text()
