"""Releases whose pods really run: Helm, the API server and its controllers, a kubelet for tests, and a real Kafka."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from benchmarks import lifecycle
from tests.charts.test_cluster import until, values
from tests.charts.test_pod_runs import committed
from tests.charts.test_rollouts import VOLUMES
from tests.conftest import require_or_skip
from tests.parts.kafka.broker import free_ports
from tests.parts.kube import helm, pod
from tests.parts.kube.cluster import Cluster, cluster, unavailable
from tests.parts.kube.kubelet import Kubelet

pytestmark = [pytest.mark.k8s, pytest.mark.kafka, pytest.mark.slow]
LIMIT_S = 240.0
TOPIC = "release"


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[tuple[Cluster, Kubelet]]:
    require_or_skip("kube", unavailable())
    require_or_skip("pod", pod.unavailable())
    (tmp_path / "kube").mkdir()
    (tmp_path / "pods").mkdir()
    with cluster(tmp_path / "kube") as found, Kubelet(found, tmp_path / "pods") as runs:
        require_or_skip("kube", None if found.controllers else "needs kube-controller-manager")
        yield found, runs


def test_an_upgrade_hands_the_store_over_and_an_uninstall_ends_in_order(
    kubelet: tuple[Cluster, Kubelet], tmp_path: Path, kafka: str
) -> None:
    kube, runs = kubelet
    namespace = kube.namespace("release")
    kube.kubectl("create", "-n", namespace, "-f", "-", given=VOLUMES)
    model = lifecycle.environ(tmp_path)
    shutil.copy(model["TTA_MODEL__WEIGHTS"], runs.claim("models") / "net.pt")
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(given(model, kafka)))
    release = (
        "agent",
        str(helm.CHART),
        "-n",
        namespace,
        *values("central"),
        "-f",
        str(tmp_path / "values.yaml"),
    )
    waits = ("--wait", "--timeout", "240s")
    kube.helm("install", *release, *waits)
    ((first, before),) = runs.pods.items()
    store = runs.claim("agent-tta-agent")
    log = before.containers["tta-agent"].log
    until(lambda: "starting from the source" in log.read_text(), LIMIT_S)
    stream = {**model, "TTA_STREAM__TOPIC": TOPIC, "TTA_STREAM__BOOTSTRAP_SERVERS": kafka}
    lifecycle.feed(stream, 256)
    until(lambda: committed(kafka, TOPIC) >= 128, LIMIT_S)

    kube.helm("upgrade", *release, "--set", "settings.store.keep=7", *waits)
    assert runs.ended == {first: {"tta-agent": 0}}
    assert (store / "checkpoint.pt").exists()
    (second,) = {*runs.pods} - {first}
    log = runs.pods[second].containers["tta-agent"].log
    until(lambda: re.search("resumed after [1-9]", log.read_text()), LIMIT_S)
    done = committed(kafka, TOPIC)
    lifecycle.feed(stream, 256)
    until(lambda: committed(kafka, TOPIC) >= done + 128, LIMIT_S)

    kube.helm("uninstall", "agent", "-n", namespace, *waits)
    until(lambda: not kube.get("-n", namespace, "pods"), LIMIT_S)
    assert runs.ended == {first: {"tta-agent": 0}, second: {"tta-agent": 0}}
    events = [json.loads(line)["event"] for line in (store / "events.jsonl").read_text().splitlines()]
    assert events == ["resumed"]  # of the second pod, and nothing went wrong


def given(model: dict[str, str], kafka: str) -> dict[str, object]:
    """Values of a small model that is adapted beside a server that nobody asks."""
    health, metrics = free_ports(2)
    settings = {
        "mode": "shadow",
        "model": {
            "factory": model["TTA_MODEL__FACTORY"], "weights": "/models/net.pt", "onnx": None,
            "input_shape": [1, 8, 8], "check_served": False,
        },
        "stream": {"bootstrap_servers": kafka, "topic": TOPIC, "labels_topic": f"{TOPIC}.labels", "group": TOPIC},
        "http": {"health_port": health},
        "store": {"checkpoint_every": 1},
    }  # fmt: skip
    path = [{"name": "PYTHONPATH", "value": model["PYTHONPATH"]}]
    return {"settings": settings, "metrics": {"port": metrics}, "extraEnv": path}
