"""Comparison of two versions: origin, tensors, results of the gates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tta_agent.registry.registry import ModelRegistry

TOP = 10  # layers that are named


def compare(registry: ModelRegistry, a: int, b: int) -> dict[str, Any]:
    """Differences of two versions, as plain values.

    `settings` and `records`: {name: [a, b]}, equal ones left out; the source knows no settings. `gates`: {name:
    [a, b]}, values, None where one was not asked. `tensors`: how many differ, and the layers that moved furthest, as
    {layer, tensors, distance, of}: |b - a| and |a|, Euclidean, over the layer's tensors; None where a graph is gone.
    """
    before, after = registry.manifest(a), registry.manifest(b)
    return {
        "versions": [a, b],
        "settings": _differ(_origin(before), _origin(after)) if _chosen(before) and _chosen(after) else {},
        "records": _differ(_flat(_learnt(before)), _flat(_learnt(after))),
        "gates": _gates(registry, a, b),
        "tensors": _tensors(registry, a, b),
    }


def _chosen(manifest: Mapping[str, Any]) -> bool:
    return "settings" in manifest or "policy" in manifest


def _origin(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return _flat({"policy": manifest.get("policy"), **manifest.get("settings", {})})


def _learnt(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {name: manifest[name] for name in ("rounds", "records", "positions") if name in manifest}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _differ(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[Any]]:
    names = sorted(a.keys() | b.keys())
    return {name: [a.get(name), b.get(name)] for name in names if a.get(name) != b.get(name)}


def _gates(registry: ModelRegistry, a: int, b: int) -> dict[str, list[Any]]:
    values = [{f["gate"]: f["value"] for f in registry.verdict(n).get("findings", [])} for n in (a, b)]
    return {name: [values[0].get(name), values[1].get(name)] for name in {**values[0], **values[1]}}


def _tensors(registry: ModelRegistry, a: int, b: int) -> dict[str, Any] | None:
    if not (registry.has_graph(a) and registry.has_graph(b)):
        return None
    from tta_agent.models import weight_delta

    rows = weight_delta.distances(registry.get(a).path, registry.get(b).path)
    names = ("layer", "tensors", "distance", "of")
    return {
        "differ": sum(row[1] for row in rows),
        "layers": [dict(zip(names, row, strict=True)) for row in rows[:TOP]],
        "further_layers": max(len(rows) - TOP, 0),
    }
