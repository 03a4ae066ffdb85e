"""JSON schemas of Kubernetes' objects and of others' custom resources, from the files of their Go modules.

kubeconform looks for `<kind>-<group>-<version>.json`. They are made once into the cache of the tools.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.parts.kube import tools

_OPERATOR = ("github.com/prometheus-operator/prometheus-operator", "v0.85.0")
_KSERVE = ("github.com/kserve/kserve", "v0.16.0")
CRDS = {
    "PodMonitor": (*_OPERATOR, "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml"),
    "PrometheusRule": (
        *_OPERATOR,
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
    "InferenceService": (*_KSERVE, "config/crd/full/serving.kserve.io_inferenceservices.yaml"),
    "ServingRuntime": (*_KSERVE, "config/crd/full/serving.kserve.io_servingruntimes.yaml"),
}
LOCATION = "{{ .ResourceKind }}{{ .KindSuffix }}.json"
Schema = dict[str, Any]


def folder() -> Path:
    """Where the schemas are, or will be."""
    return tools.cache() / f"schemas-{tools.KUBERNETES}"


def make() -> Path:
    """The folder of the schemas, filled where it is missing; it appears all at once."""
    if not folder().is_dir():
        folder().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder().parent) as part:
            (Path(part) / "all").mkdir()
            for name, schema in (*_of_kubernetes(), *_of_custom_resources()):
                (Path(part) / "all" / name).write_text(json.dumps(schema))
            (Path(part) / "all").rename(folder())
    return folder()


class _Loader(yaml.CSafeLoader):
    """YAML in which a lone `=` is text, as everywhere but in YAML 1.1."""


_Loader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: node.value)


def crd(kind: str) -> Path:
    """The file of a custom resource definition."""
    module, version, where = CRDS[kind]
    return tools.module_files(module, version) / where


def _of_kubernetes() -> Iterator[tuple[str, Schema]]:
    module = tools.module_files("k8s.io/kubernetes", f"v{tools.KUBERNETES}")
    spec = json.loads((module / "api" / "openapi-spec" / "swagger.json").read_text())
    definitions = {name: _closed(_special(name, about)) for name, about in spec["definitions"].items()}
    for name, about in spec["definitions"].items():
        kinds = about.get("x-kubernetes-group-version-kind", ())
        if len(kinds) == 1:
            (kind,) = kinds
            root = {**definitions[name], "definitions": _needed(name, definitions)}
            yield _file(kind["kind"], kind["group"], kind["version"]), root


def _of_custom_resources() -> Iterator[tuple[str, Schema]]:
    for kind in CRDS:
        spec = yaml.load(crd(kind).read_text(), _Loader)["spec"]
        for version in spec["versions"]:
            schema = _closed(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            yield _file(kind, spec["group"], version["name"]), schema


def _file(kind: str, group: str, version: str) -> str:
    parts = (kind.lower(), group.partition(".")[0], version)
    return "-".join(part for part in parts if part) + ".json"


def _special(name: str, about: Schema) -> Schema:
    if name.endswith("intstr.IntOrString"):
        return {"type": ["string", "integer"]}
    if name.endswith("resource.Quantity"):
        return {"type": ["string", "number"]}
    return {"type": "object"} if name.endswith("v1.JSONSchemaProps") else about


def _closed(schema: Any) -> Any:
    """The schema without descriptions; a name that it does not know is an error."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        return {"type": ["string", "integer"]}
    kept = {name: _closed(part) for name, part in schema.items() if not _is_prose(name, part)}
    if isinstance(kept.get("properties"), dict) and not kept.get("x-kubernetes-preserve-unknown-fields"):
        kept.setdefault("additionalProperties", False)
    return kept


def _is_prose(name: str, part: Any) -> bool:
    return name in ("description", "format", "default") and not isinstance(part, Mapping)


def _needed(name: str, definitions: Mapping[str, Any]) -> Schema:
    """Definitions that one refers to, near and far."""
    found: Schema = {}
    waiting = [name]
    while waiting:
        each = waiting.pop()
        if each not in found:
            found[each] = definitions[each]
            waiting += _references(definitions[each])
    return found


def _references(schema: Any) -> list[str]:
    if isinstance(schema, Mapping):
        own = [schema["$ref"].rpartition("/")[2]] if isinstance(schema.get("$ref"), str) else []
        return own + [name for part in schema.values() for name in _references(part)]
    return [name for part in schema for name in _references(part)] if isinstance(schema, list) else []


if __name__ == "__main__":
    print(make())
