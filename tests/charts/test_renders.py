"""Renders of the chart: as they are kept, the same on Helm 3 and 4, and as Kubernetes' own schemas want them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from charts.generate import prometheus_name
from tests.charts import golden
from tests.conftest import require_or_skip
from tests.parts.kube import helm, schemas, tools
from tta_agent.telemetry import names

HELMS = ("helm", "helm3")
WORKLOADS = [case for case in helm.CASES if case != "library"]
PATCHES = [case for case in helm.CASES if case.startswith("patch")]
RESTRICTED = {
    "runAsNonRoot": True, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
}  # fmt: skip
FOREIGN = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: my-server, labels: {app: my-server}}
spec:
  selector: {matchLabels: {app: my-server}}
  template:
    metadata: {labels: {app: my-server}, annotations: {theirs: "1"}}
    spec:
      initContainers:
        - {name: fetch, image: "fetch:1", command: [fetch]}
      containers:
        - name: server
          image: server:1
          ports: [{containerPort: 8080}]
          env: [{name: THEIRS, value: "1"}]
          volumeMounts: [{name: models, mountPath: /models}]
        - {name: proxy, image: "proxy:1"}
      volumes: [{name: models, emptyDir: {}}]
"""


@pytest.fixture(autouse=True)
def _helm() -> None:
    require_or_skip("helm", tools.unavailable("helm"))


def need(*programs: str) -> None:
    """Skip where one of them has not been built."""
    require_or_skip("helm", tools.unavailable(*programs))


def patched(manifest: Path, patch: str) -> dict[str, Any]:
    """The object after a strategic-merge patch, which kubectl applies without a cluster."""
    file = manifest.with_name("patch.yaml")
    file.write_text(patch)
    command = [str(tools.path("kubectl")), "patch", "--local", "-o", "yaml", "-f", str(manifest)]
    done = subprocess.run(
        [*command, "--patch-file", str(file)],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": "/nonexistent"},
    )
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


@pytest.mark.parametrize("case", [case for case in helm.CASES if case not in PATCHES])  # no whole objects
@pytest.mark.parametrize("program", HELMS)
def test_lint_has_nothing_to_say(case: str, program: str) -> None:
    need(program)
    values = str(helm.CHART / "ci" / f"{case}-values.yaml")
    told = helm.helm("lint", "--strict", str(helm.CHART), "-f", values, program=program)
    assert "1 chart(s) linted, 0 chart(s) failed" in told and "[WARNING]" not in told


def test_renders_and_the_files_of_deploy_are_those_that_are_kept() -> None:
    differ = [
        str(path) for path, text in golden.files().items() if not path.exists() or path.read_text() != text
    ]
    assert not differ, "python -m tests.charts.golden writes them anew"


@pytest.mark.parametrize("case", helm.CASES)
def test_helm_3_makes_the_same_objects(case: str) -> None:
    need("helm3")
    ours, theirs = (helm.manifests(helm.render(case=case, program=program)) for program in HELMS)
    assert by_name(ours) == by_name(theirs)


def by_name(found: list[helm.Manifest]) -> dict[tuple[str, str], helm.Manifest]:
    """Objects by kind and name."""
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def test_kept_renders_are_of_cases_that_exist() -> None:
    assert sorted(path.stem for path in golden.FOLDER.iterdir()) == helm.CASES


def test_the_unit_tests_of_the_chart_pass() -> None:
    need("helm-unittest")
    command = [str(tools.path("helm-unittest")), str(helm.CHART)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("case", helm.CASES)
def test_objects_fit_the_schemas_of_kubernetes(tmp_path: Path, case: str) -> None:
    need("kubeconform")
    text = helm.render(case=case)
    if case in PATCHES:
        need("kubectl")
        (tmp_path / "foreign.yaml").write_text(FOREIGN)
        text = yaml.safe_dump(patched(tmp_path / "foreign.yaml", text))
    conforms(text, tmp_path)


def conforms(text: str, folder: Path) -> None:
    """Every object is valid, by name and by type of each field."""
    (folder / "objects.yaml").write_text(text)
    location = f"{schemas.make()}/{schemas.LOCATION}"
    command = [str(tools.path("kubeconform")), "-strict", "-summary", "-schema-location", location]
    done = subprocess.run(
        [*command, str(folder / "objects.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"Valid: [1-9]\d*, Invalid: 0, Errors: 0, Skipped: 0", done.stdout), done.stdout


def test_a_misspelt_field_does_not_fit_them(tmp_path: Path) -> None:
    need("kubeconform")
    with pytest.raises(AssertionError, match="runAsNonRot"):
        conforms(helm.render(case="central").replace("runAsNonRoot", "runAsNonRot"), tmp_path)


@pytest.mark.parametrize("case", WORKLOADS)
def test_every_container_is_restricted_and_bounded(case: str) -> None:
    found = helm.containers(helm.one(helm.manifests(helm.render(case=case)), "Deployment"))
    ours = {name: each for name, each in found.items() if "image" in each}
    assert "tta-agent" in ours
    for name, each in ours.items():
        context = each["securityContext"]
        assert {field: context[field] for field in RESTRICTED} == RESTRICTED, name
        assert context["runAsUser"] > 0
        assert each["resources"]["limits"]["memory"] and each["resources"]["requests"]["memory"], name


@pytest.mark.parametrize("case", WORKLOADS)
def test_nothing_waits_for_the_agent(case: str) -> None:
    agent = helm.containers(helm.one(helm.manifests(helm.render(case=case)), "Deployment"))["tta-agent"]
    assert "readinessProbe" not in agent and "startupProbe" not in agent
    assert agent["livenessProbe"]["httpGet"]["path"] == "/healthz"


@pytest.mark.parametrize("case", WORKLOADS)
def test_every_mount_has_its_volume_and_every_writable_one_is_named(case: str) -> None:
    workload = helm.one(helm.manifests(helm.render(case=case)), "Deployment")
    volumes = {each["name"] for each in workload["spec"]["template"]["spec"]["volumes"]}
    for name, each in helm.containers(workload).items():
        mounts = {mount["mountPath"]: mount for mount in each["volumeMounts"]}
        assert {mount["name"] for mount in mounts.values()} <= volumes, name
        if "image" in each:
            writable = {path for path, mount in mounts.items() if not mount.get("readOnly")}
            assert writable <= {"/tmp", "/var/lib/tta-agent"}


@pytest.mark.parametrize(
    ("kubernetes", "native"), [("1.28.9", False), ("1.29.0", True), ("1.30.1-gke.7", True)]
)
@pytest.mark.parametrize("case", ["sidecar-demo", "patch"])
def test_the_sidecar_is_native_where_the_cluster_has_it(case: str, kubernetes: str, native: bool) -> None:
    pod = helm.one(helm.manifests(helm.render(case=case, kubernetes=kubernetes)), "Deployment")["spec"][
        "template"
    ]
    where = "initContainers" if native else "containers"
    assert "tta-agent" in {each["name"] for each in pod["spec"][where]}


@pytest.mark.parametrize("case", PATCHES)
def test_a_patch_and_its_removal_leave_a_foreign_deployment_as_it_was(tmp_path: Path, case: str) -> None:
    need("kubectl")
    foreign = tmp_path / "foreign.yaml"
    foreign.write_text(FOREIGN)
    before = yaml.safe_load(FOREIGN)
    with_agent = patched(foreign, helm.render(case=case))
    assert {"fetch", "server", "proxy", "tta-agent"} <= {*helm.containers(with_agent)}
    assert helm.containers(with_agent)["server"]["env"] == [{"name": "THEIRS", "value": "1"}]
    foreign.write_text(yaml.safe_dump(with_agent))
    assert without_empty(
        patched(foreign, helm.render("--set", "patch.remove=true", case=case))
    ) == without_empty(before)


def without_empty(value: Any) -> Any:
    """Without what says nothing: empty objects and lists."""
    if isinstance(value, dict):
        kept = {name: without_empty(part) for name, part in value.items()}
        return {name: part for name, part in kept.items() if part not in ({}, [], None)}
    return [without_empty(part) for part in value] if isinstance(value, list) else value


@pytest.mark.parametrize("program", HELMS)
def test_another_chart_can_include_the_sidecar(tmp_path: Path, program: str) -> None:
    need(program)
    (tmp_path / "templates").mkdir()
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts" / "tta-agent").symlink_to(helm.CHART)
    dependency = {"name": "tta-agent", "version": "0.1.0", "condition": "tta-agent.enabled"}
    about = {"apiVersion": "v2", "name": "theirs", "version": "1.0.0", "dependencies": [dependency]}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(about))
    (tmp_path / "values.yaml").write_text(
        "tta-agent: {mode: library, settings: {model: {onnx: /models/m.onnx}}}\n"
    )
    (tmp_path / "templates" / "deployment.yaml").write_text(LIBRARY)
    text = helm.helm("template", "r", str(tmp_path), "--kube-version", helm.KUBERNETES, program=program)
    (found,) = helm.manifests(text)
    pod = found["spec"]["template"]["spec"]
    assert [each["name"] for each in pod["initContainers"]] == ["tta-agent"]
    assert {each["name"] for each in pod["volumes"]} == {"tta-agent-store", "tta-agent-tmp"}
    assert helm.variables(pod["initContainers"][0])["TTA_MODEL__ONNX"] == "/models/m.onnx"
    if tools.unavailable("kubeconform") is None:
        (tmp_path / "out").mkdir()
        conforms(text, tmp_path / "out")
    with pytest.raises(helm.Refused, match="topik"):
        helm.helm(
            "template", "r", str(tmp_path), "--set", "tta-agent.settings.stream.topik=x", program=program
        )


LIBRARY = """
{{- $tta := index .Subcharts "tta-agent" }}
apiVersion: apps/v1
kind: Deployment
metadata: {name: theirs}
spec:
  selector: {matchLabels: {app: theirs}}
  template:
    metadata: {labels: {app: theirs}}
    spec:
      initContainers: {{- include "tta-agent.initContainers" $tta | nindent 8 }}
      containers:
        - {name: server, image: "server:1"}
        {{- include "tta-agent.containers" $tta | nindent 8 }}
      volumes: {{- include "tta-agent.volumes" $tta | nindent 8 }}
"""


def test_a_change_of_a_setting_is_a_change_of_the_pod() -> None:
    changes = ((), ("--set", "settings.adapt.method=norm"))
    found = [helm.one(helm.manifests(helm.render(*more, case="patch")), "Deployment") for more in changes]
    one, other = (each["spec"]["template"]["metadata"]["annotations"] for each in found)
    assert one.keys() == other.keys() and one != other


def test_rules_and_dashboard_ask_for_metrics_that_the_agent_has() -> None:
    found = helm.manifests(helm.render(case="central-everything"))
    rules = [
        rule["expr"]
        for group in helm.one(found, "PrometheusRule")["spec"]["groups"]
        for rule in group["rules"]
    ]
    board = helm.one(found, "ConfigMap")["data"]["tta-agent.json"]
    there = {prometheus_name(metric) for metric in names.METRICS}
    told = set(re.findall(r"\b(?:tta|messaging)_[a-z_]+(?=[{\[)])", " ".join([*rules, board])))
    asked = {re.sub("_bucket$", "", name) for name in told}
    assert len(rules) >= 5 and asked == there
    labels = set(re.findall(r"(\w+)=\"", " ".join(rules)))
    assert labels <= {name.replace(".", "_") for name in names.ATTRIBUTES}


def test_alerts_fire_when_they_are_to() -> None:
    require_or_skip("promtool", tools.unavailable("promtool"))
    rules = str(Path(__file__).parent / "rules_test.yaml")
    command = [str(tools.path("promtool")), "test", "rules", rules]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_notes_print_three_commands() -> None:
    for case in ("central", "sidecar-demo"):
        told = helm.helm(
            "install", "agent", str(helm.CHART), "-n", "tta", "--dry-run=client", "-f",
            str(helm.CHART / "ci" / f"{case}-values.yaml"),
        )  # fmt: skip
        assert (
            len(re.findall(r"^    kubectl .*agent-tta-agent", told.partition("NOTES:")[2], re.MULTILINE)) == 3
        )
