"""The chart on a real Kubernetes API server, in namespaces that enforce Pod Security restricted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts import golden
from tests.charts.test_renders import FOREIGN, HELMS, PATCHES, need, without_empty
from tests.conftest import require_or_skip
from tests.parts.kube import helm, schemas
from tests.parts.kube.cluster import Cluster, cluster, unavailable

pytestmark = pytest.mark.k8s
INSTALLED = ["central", "central-everything", "sidecar-demo", "sidecar-demo-plain", "gpu-dra", "library"]
KINDS = "deploy,cm,svc,pdb,networkpolicy,podmonitor,prometheusrule,resourceclaimtemplate"
PARTS = {"securityContext": {
    "allowPrivilegeEscalation": False, "runAsNonRoot": True, "runAsUser": 1000, "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}}  # fmt: skip


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The API server with the definitions of Prometheus' operator and of KServe."""
    require_or_skip("kube", unavailable())
    with cluster(tmp_path_factory.mktemp("kube")) as found:
        for kind in schemas.CRDS:
            found.kubectl("apply", "--server-side", "-f", str(schemas.crd(kind)))
        until(found.knows_definitions)
        yield found


@pytest.fixture
def namespace(kube: Cluster, request: pytest.FixtureRequest) -> str:
    name = "".join(sign if sign.isalnum() else "-" for sign in request.node.name.lower())[-50:].strip("-")
    return kube.namespace(name)


def values(case: str) -> list[str]:
    return ["-f", str(helm.CHART / "ci" / f"{case}-values.yaml")]


def agent(kube: Cluster, namespace: str) -> dict[str, str]:
    """Variables of the agent as the API server has them."""
    (found,) = kube.get("-n", namespace, "deploy")
    return helm.variables(helm.containers(found)["tta-agent"])


@pytest.mark.parametrize("program", HELMS)
@pytest.mark.parametrize("case", INSTALLED)
def test_install_upgrade_rollback_uninstall(kube: Cluster, namespace: str, case: str, program: str) -> None:
    need(program)

    def run(verb: str, *more: str) -> str:
        return kube.helm(verb, "agent", *more, "-n", namespace, program=program)

    chart = str(helm.CHART)
    assert "NOTES:" in run("install", chart, *values(case))
    if case == "library":
        assert not kube.get("-n", namespace, "deploy")
    else:
        before = agent(kube, namespace)
        run("upgrade", chart, *values(case), "--set", "settings.adapt.method=norm")
        assert agent(kube, namespace)["TTA_ADAPT__METHOD"] == "norm" != before.get("TTA_ADAPT__METHOD")
        run("rollback", "1")
        assert agent(kube, namespace) == before
        with pytest.raises(helm.Refused, match="topik"):
            run("upgrade", chart, *values(case), "--set", "settings.stream.topik=x")
        assert agent(kube, namespace) == before
    run("uninstall")
    left = [(each["kind"], each["metadata"]["name"]) for each in kube.get("-n", namespace, KINDS)]
    assert [each for each in left if each != ("ConfigMap", "kube-root-ca.crt")] == []
    found = [each["metadata"] for each in kube.get("-n", namespace, "pvc")]
    claims = [each["name"] for each in found if "deletionTimestamp" not in each]
    assert claims == (
        [] if case.startswith(("sidecar", "library")) else ["agent-tta-agent"]
    )  # versions outlive it


@pytest.mark.parametrize("program", HELMS)
def test_a_larger_model_leaves_the_claim_as_it_is(kube: Cluster, namespace: str, program: str) -> None:
    need(program)
    release = ("agent", str(helm.CHART), "-n", namespace, *values("central"))
    kube.helm("install", *release, program=program)
    claims = ("-n", namespace, "pvc", "agent-tta-agent")
    before = kube.get(*claims)["spec"]
    for more in ("modelMiB=900", "settings.store.keep=3"):
        kube.helm("upgrade", *release, "--set", more, program=program)
        assert kube.get(*claims)["spec"] == before
    with pytest.raises(helm.Refused, match="immutable"):  # what is asked for by name is asked of the cluster
        kube.helm("upgrade", *release, "--set", "store.size=50Gi", program=program)


@pytest.mark.parametrize("case", [case for case in helm.CASES if case not in PATCHES])
def test_the_server_takes_all_without_a_warning(kube: Cluster, namespace: str, case: str) -> None:
    text = helm.render(case=case).replace("namespace: tta\n", f"namespace: {namespace}\n")
    out, warnings = kube.kubectl("apply", "--server-side", "-n", namespace, "-f", "-", given=text)
    assert "serverside-applied" in out and not warnings


@pytest.mark.parametrize("case", [case for case in helm.CASES if case not in (*PATCHES, "library")])
def test_the_pod_is_admitted_where_restricted_is_enforced(kube: Cluster, namespace: str, case: str) -> None:
    template = helm.one(helm.manifests(helm.render(case=case)), "Deployment")["spec"]["template"]
    for name in ("priorityClassName", "serviceAccountName"):  # objects that are not made here
        template["spec"].pop(name, None)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "agent"}, "spec": template["spec"]}
    if kube.controllers:
        until(lambda: kube.get("-n", namespace, "serviceaccounts"))
    _, warnings = kube.kubectl("create", "-n", namespace, "-f", "-", given=yaml.safe_dump(pod))
    assert not warnings
    pod["metadata"] = {"name": "another"}
    del pod["spec"]["containers"][0]["securityContext"]["capabilities"]
    with pytest.raises(helm.Refused, match="unrestricted capabilities"):
        kube.kubectl("create", "-n", namespace, "-f", "-", given=yaml.safe_dump(pod))


def until(holds: Any, seconds: float = 60.0) -> None:
    """Poll."""
    deadline_s = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.2)


@pytest.mark.parametrize("case", ["central", "sidecar-demo"])
def test_the_deployment_gets_its_pod(kube: Cluster, namespace: str, case: str) -> None:
    require_or_skip("kube", None if kube.controllers else "needs kube-controller-manager")
    kube.helm("install", "agent", str(helm.CHART), "-n", namespace, *values(case))
    until(lambda: kube.get("-n", namespace, "pods"))
    (pod,) = kube.get("-n", namespace, "pods")
    names = [each["name"] for each in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])]
    assert names == (["tta-agent"] if case == "central" else ["tta-agent", "server"])
    assert not [
        volume for volume in pod["spec"]["volumes"] if "projected" in volume
    ]  # no token of a service account


def foreign() -> dict[str, Any]:
    """Somebody's Deployment, which is restricted itself."""
    found: dict[str, Any] = yaml.safe_load(FOREIGN)
    for each in helm.containers(found).values():
        each |= PARTS
    return found


@pytest.mark.parametrize("case", PATCHES)
def test_a_patch_is_applied_to_a_foreign_deployment_and_removed_without_a_trace(
    kube: Cluster, namespace: str, tmp_path: Path, case: str
) -> None:
    kube.kubectl("create", "-n", namespace, "-f", "-", given=yaml.safe_dump(foreign()))
    (before,) = kube.get("-n", namespace, "deploy")
    for name, more in (("patch", ()), ("remove", ("--set", "patch.remove=true"))):
        (tmp_path / name).write_text(helm.render(*more, case=case))
    patch = ("patch", "-n", namespace, "deployment", "my-server", "--patch-file")
    _, warnings = kube.kubectl(*patch, str(tmp_path / "patch"))
    (during,) = kube.get("-n", namespace, "deploy")
    assert not warnings and "tta-agent" in helm.containers(during)
    kube.kubectl(*patch, str(tmp_path / "remove"))
    (after,) = kube.get("-n", namespace, "deploy")
    assert without_empty(after["spec"]) == without_empty(before["spec"])


def test_a_patch_is_not_installed_by_mistake(kube: Cluster, namespace: str) -> None:
    with pytest.raises(helm.Refused, match=r"spec\.selector"):
        kube.helm("install", "agent", str(helm.CHART), "-n", namespace, *values("patch"))


def test_kserve_takes_the_example(kube: Cluster, namespace: str) -> None:
    text = yaml.safe_dump(golden.kserve())
    out, warnings = kube.kubectl("apply", "--server-side", "-n", namespace, "-f", "-", given=text)
    assert "resnet serverside-applied" in out and not warnings
    (found,) = kube.get("-n", namespace, "inferenceservices")
    assert [each["name"] for each in found["spec"]["predictor"]["containers"]] == ["tta-agent"]
