"""Renders of the chart that are kept, and files of deploy/ that follow from it.

`python -m tests.charts.golden` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.parts.kafka.broker import REPOSITORY
from tests.parts.kube import helm

FOLDER = Path(__file__).parent / "renders"
DEPLOY = REPOSITORY / "deploy"
HEAD = "# Made of the chart by `python -m tests.charts.golden`, with the values of {values}.\n"


def files() -> dict[Path, str]:
    """Text of each file, by its path."""
    kept = {FOLDER / f"{case}.yaml": text(case) for case in helm.CASES}
    kustomize = HEAD.format(values="charts/tta-agent/ci/patch-values.yaml") + text("patch")
    examples = {
        "kserve": kserve(),
        "seldon": seldon(),
    }
    made = {DEPLOY / "examples" / f"{name}.yaml": example(name, found) for name, found in examples.items()}
    return {**kept, DEPLOY / "kustomize" / "patch.yaml": kustomize, **made}


def text(case: str, program: str = "helm") -> str:
    """The render of a case, the dashboard shortened: it is a file of the chart."""
    lines = helm.render(case=case, program=program).splitlines()
    kept, skip = [], False
    for line in lines:
        skip = skip and line.startswith("    ")
        if not skip:
            kept.append(line.rstrip())
        skip = skip or line.startswith("  tta-agent.json: |-")
    return "\n".join(kept) + "\n"


def kserve() -> dict[str, Any]:
    """An InferenceService whose predictor has the agent as a second container."""
    agent, volumes = _sidecar("kserve", {"name": "kserve-provision-location", "mountPath": "/mnt/models"})
    predictor = {
        "model": {
            "modelFormat": {"name": "onnx"},
            "storageUri": "pvc://models/resnet",
            "resources": {"limits": {"memory": "2Gi"}},
        },
        "containers": [agent],
        "volumes": volumes,
        "logger": {"mode": "all", "url": "http://localhost:8092"},
    }
    metadata = {"name": "resnet", "annotations": {"serving.kserve.io/deploymentMode": "RawDeployment"}}
    kind = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService"}
    return {**kind, "metadata": metadata, "spec": {"predictor": predictor}}


def seldon() -> dict[str, Any]:
    """A SeldonDeployment whose predictor has the agent as a second container."""
    agent, volumes = _sidecar("seldon", {"name": "resnet-provision-location", "mountPath": "/mnt/models"})
    graph = {"name": "resnet", "implementation": "TRITON_SERVER", "modelUri": "pvc://models/resnet"}
    server = {"name": "resnet", "resources": {"limits": {"memory": "2Gi"}}}
    components = [{"spec": {"containers": [server, agent], "volumes": volumes}}]
    predictor = {"name": "default", "replicas": 1, "graph": graph, "componentSpecs": components}
    kind = {"apiVersion": "machinelearning.seldon.io/v1", "kind": "SeldonDeployment"}
    spec = {"protocol": "v2", "predictors": [predictor]}
    return {**kind, "metadata": {"name": "resnet"}, "spec": spec}


def example(name: str, found: Mapping[str, Any]) -> str:
    """An object of another platform as a file."""
    return HEAD.format(values=f"{name}-values.yaml") + yaml.safe_dump(dict(found), sort_keys=False, width=118)


def _sidecar(name: str, model: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The agent's container, which reads the model where the platform has put it, and its volumes."""
    values = DEPLOY / "examples" / f"{name}-values.yaml"
    found = helm.one(helm.manifests(helm.render("-f", str(values))), "Deployment")
    pod = found["spec"]["template"]["spec"]
    (agent,) = pod["containers"]
    agent["volumeMounts"].append({**model, "readOnly": True})
    return agent, pod["volumes"]


if __name__ == "__main__":
    for file, content in files().items():
        file.write_text(content, encoding="utf-8")
