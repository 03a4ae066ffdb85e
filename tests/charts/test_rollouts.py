"""Rollouts of the chart on a real API server whose nodes say of each pod that it runs (scheduler, kwok)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from tests.charts.test_cluster import agent, until, values
from tests.conftest import require_or_skip
from tests.parts.kube import helm, tools
from tests.parts.kube.cluster import Cluster, cluster, unavailable

pytestmark = [pytest.mark.k8s, pytest.mark.slow]
CHART = str(helm.CHART)
WITHIN = ("--wait", "--timeout", "60s")
NOWHERE = ("--set", "nodeSelector.there=nowhere")
REPLICAS = {
    "central": 1,
    "central-standby": 2,
    "sidecar-demo": 1,
    "sidecar-demo-plain": 1,
    "gpu-device-plugin": 1,
}
CLAIM = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: models}
spec: {accessModes: [ReadWriteMany], resources: {requests: {storage: 1Gi}}}
"""
VOLUME = """---
apiVersion: v1
kind: PersistentVolume
metadata: {generateName: volume-}
spec:
  capacity: {storage: 100Gi}
  accessModes: [ReadWriteOnce, ReadWriteMany]
  hostPath: {path: /nonexistent}
"""
VOLUMES = CLAIM + 2 * VOLUME  # of the models, and of the store


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An API server with two nodes."""
    require_or_skip("nodes", unavailable(nodes=True))
    with cluster(tmp_path_factory.mktemp("kube"), nodes=2) as found:
        until(lambda: [is_ready(each) for each in found.get("nodes")] == [True, True])
        yield found


@pytest.fixture
def namespace(kube: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace with the models' claim, and a volume for the store; its GPUs are free again after it."""
    name = "".join(sign if sign.isalnum() else "-" for sign in request.node.name.lower())[-50:].strip("-")
    kube.kubectl("create", "-n", kube.namespace(name), "-f", "-", given=VOLUMES)
    yield name
    kube.kubectl("delete", "namespace", name, "--wait=false")


def pods(kube: Cluster, namespace: str) -> list[dict[str, Any]]:
    """Pods that are not ending."""
    return [each for each in kube.get("-n", namespace, "pods") if "deletionTimestamp" not in each["metadata"]]


def is_ready(found: dict[str, Any]) -> bool:
    """Whether its condition says so."""
    told = found["status"].get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in told)


@pytest.mark.parametrize("case", REPLICAS)
def test_an_install_waits_until_all_pods_are_ready(kube: Cluster, namespace: str, case: str) -> None:
    kube.helm("install", "agent", CHART, "-n", namespace, *values(case), *WITHIN)
    found = pods(kube, namespace)
    assert len(found) == REPLICAS[case] and all(is_ready(each) for each in found)
    assert {each["status"]["phase"] for each in found} == {"Running"}
    kube.helm("uninstall", "agent", "-n", namespace, *WITHIN)
    assert not pods(kube, namespace)


@contextmanager
def watched(kube: Cluster, namespace: str) -> Iterator[list[tuple[str, str]]]:
    """What happens to pods meanwhile: ADDED, MODIFIED or DELETED and the name; complete when the block has ended."""
    command = [
        str(tools.path("kubectl")), "--kubeconfig", str(kube.folder / "kubeconfig"), "-n", namespace, "get", "pods",
        "--watch", "--output-watch-events", "-o", "json",
    ]  # fmt: skip
    seen: list[tuple[str, str]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield seen
        process.terminate()
        text, _ = process.communicate(timeout=30)
    decoder, at = json.JSONDecoder(), 0
    while text[at:].strip():
        event, length = decoder.raw_decode(text[at:].lstrip())
        at += len(text[at:]) - len(text[at:].lstrip()) + length
        seen.append((event["type"], event["object"]["metadata"]["name"]))


def test_an_upgrade_of_a_pod_with_a_claim_ends_the_old_one_first(kube: Cluster, namespace: str) -> None:
    given = ("agent", CHART, "-n", namespace, *values("central"), *WITHIN)
    kube.helm("install", *given)
    (before,) = pods(kube, namespace)
    with watched(kube, namespace) as seen:
        kube.helm("upgrade", *given, "--set", "settings.adapt.method=norm")
    (after,) = pods(kube, namespace)
    old, new = (each["metadata"]["name"] for each in (before, after))
    assert old != new and is_ready(after)
    assert seen.index(("DELETED", old)) < seen.index(("ADDED", new))
    assert before["spec"]["volumes"][0] == after["spec"]["volumes"][0]  # the same store
    assert "persistentVolumeClaim" in after["spec"]["volumes"][0]


def test_an_upgrade_of_shared_stores_starts_the_new_pod_first(kube: Cluster, namespace: str) -> None:
    given = ("agent", CHART, "-n", namespace, *values("central-standby"), *WITHIN)
    kube.helm("install", *given)
    old = {each["metadata"]["name"] for each in pods(kube, namespace)}
    with watched(kube, namespace) as seen:
        kube.helm("upgrade", *given, "--set", "settings.adapt.method=norm")
    new = {each["metadata"]["name"] for each in pods(kube, namespace)}
    assert len(new) == 2 and not new & old
    there = set(old)
    for kind, name in seen:  # a standby is there at every moment
        there = there - {name} if kind == "DELETED" else there | {name}
        assert len(there) >= 2


@pytest.mark.parametrize(("program", "flag"), [("helm", "--rollback-on-failure"), ("helm3", "--atomic")])
@pytest.mark.parametrize("case", ["central", "sidecar-demo"])
def test_an_upgrade_that_does_not_come_up_is_taken_back(
    kube: Cluster, namespace: str, case: str, program: str, flag: str
) -> None:
    require_or_skip("helm", tools.unavailable(program))
    given = ("agent", CHART, "-n", namespace, *values(case), "--wait")
    kube.helm("install", *given, program=program)
    before = agent(kube, namespace)
    with pytest.raises(helm.Refused, match=r"rolled back|deadline exceeded"):
        kube.helm("upgrade", *given, *NOWHERE, flag, "--timeout", "15s", program=program)
    assert agent(kube, namespace) == before
    until(lambda: [is_ready(each) for each in pods(kube, namespace)] == [True])
    assert "failed" in kube.helm("history", "agent", "-n", namespace, program=program)


def test_of_two_agents_one_stays_while_nodes_are_drained(kube: Cluster, namespace: str) -> None:
    kube.helm("install", "agent", CHART, "-n", namespace, *values("central-standby"), *WITHIN)
    first, second = (each["metadata"]["name"] for each in pods(kube, namespace))
    until(
        lambda: kube.get("-n", namespace, "pdb", "agent-tta-agent")["status"].get("disruptionsAllowed") == 1
    )
    try:
        kube.kubectl("cordon", "node-0", "node-1")  # nobody takes the place of the one that goes
        evict(kube, namespace, first)
        until(
            lambda: second in {each["metadata"]["name"] for each in pods(kube, namespace) if is_ready(each)}
        )
        with pytest.raises(helm.Refused, match="violate the pod's disruption budget"):
            evict(kube, namespace, second)
    finally:
        kube.kubectl("uncordon", "node-0", "node-1")
    until(lambda: [is_ready(each) for each in pods(kube, namespace)] == [True, True])
    evict(kube, namespace, second)


def evict(kube: Cluster, namespace: str, pod: str) -> None:
    """As `kubectl drain` does."""
    about = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
    where = f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction"
    kube.kubectl("create", "--raw", where, "-f", "-", given=json.dumps(about))


def test_the_versions_outlive_the_release(kube: Cluster, namespace: str) -> None:
    given = ("agent", CHART, "-n", namespace, *values("central"), *WITHIN)
    kube.helm("install", *given)
    (before,) = pods(kube, namespace)
    kube.helm("uninstall", "agent", "-n", namespace, *WITHIN)
    kube.helm("install", *given, "--set", "store.existingClaim=agent-tta-agent")
    (after,) = pods(kube, namespace)
    assert before["metadata"]["name"] != after["metadata"]["name"] and is_ready(after)
    assert before["spec"]["volumes"][0] == after["spec"]["volumes"][0]


def test_a_pod_without_a_free_gpu_waits(kube: Cluster, namespace: str) -> None:
    for number in range(3):  # two nodes with two GPUs each, one pod of ours takes two
        name = f"agent-{number}"
        more = ("--set", "gpu.count=2", "--set", f"fullnameOverride={name}")
        wait = WITHIN if number < 2 else ()
        kube.helm("install", name, CHART, "-n", namespace, *values("gpu-device-plugin"), *more, *wait)
    until(lambda: len(pods(kube, namespace)) == 3)
    (waits,) = [each for each in pods(kube, namespace) if not is_ready(each)]
    until(
        lambda: "Insufficient nvidia.com/gpu" in yaml.safe_dump(kube.get("-n", namespace, "pods"), width=1000)
    )
    assert waits["metadata"]["labels"]["app.kubernetes.io/instance"] == "agent-2"
