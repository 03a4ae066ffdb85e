"""Parts of the chart that follow from the code: the schema of its values, and the Grafana dashboard.

`make docs` writes them, with the reference pages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tta_agent.settings.presets import presets
from tta_agent.settings.schema import Settings
from tta_agent.telemetry import names

HERE = Path(__file__).resolve().parent
UNITS = {"s": "s", "By": "bytes", "1": "none"}
SECRET_WORDS = "password|secret"  # in names of options of Kafka's clients
SUFFIXES = {"s": "_seconds", "By": "_bytes", "1": ""}


def files(root: Path) -> dict[Path, str]:
    """Text of each file that is made, by its path under the repository's root."""
    made = {"values.schema.json": values_schema(), "files/dashboard.json": dashboard()}
    chart = root / "charts" / "tta-agent"
    return {chart / name: json.dumps(content, indent=1) + "\n" for name, content in made.items()}


def values_schema() -> dict[str, Any]:
    """JSON schema of the chart's values: its own, and every setting that is no secret."""
    schema: dict[str, Any] = yaml.safe_load((HERE / "own.schema.yaml").read_text(encoding="utf-8"))
    made = Settings.model_json_schema()
    for name, group in made["$defs"].items():
        schema["definitions"][name] = _group(group)
    settings = {name: _plain(about) for name, about in made["properties"].items()}
    settings["policy"]["enum"] = sorted(presets())
    schema["properties"]["settings"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": settings,
    }
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema}


def _group(group: Mapping[str, Any]) -> dict[str, Any]:
    """One group; a secret is set by a Secret alone."""
    open_ones = {name: _plain(about) for name, about in group["properties"].items() if not _is_secret(about)}
    if "kafka" in open_ones:
        open_ones["kafka"]["propertyNames"] = {"not": {"pattern": SECRET_WORDS}}
    return {"type": "object", "additionalProperties": False, "properties": open_ones}


def _is_secret(about: Mapping[str, Any]) -> bool:
    return any(way.get("writeOnly") for way in (about, *about.get("anyOf", ())))


def _plain(about: Any) -> Any:
    """A schema in the words of draft 7, without defaults: those are the preset's to choose."""
    if isinstance(about, str):
        return " ".join(about.split())
    if isinstance(about, list):
        return [_plain(part) for part in about]
    if not isinstance(about, Mapping):
        return about
    kept = {name: _plain(part) for name, part in about.items() if name not in ("default", "title", "format")}
    if "$ref" in kept:
        return {"$ref": str(kept["$ref"]).replace("#/$defs/", "#/definitions/")}
    return kept


def prometheus_name(metric: names.Metric) -> str:
    """A metric as Prometheus shows it; of a histogram without `_bucket`, `_sum` and `_count`."""
    name = metric.name.replace(".", "_")
    suffix = SUFFIXES.get(metric.unit, "")
    name = name if name.endswith(suffix) else name + suffix
    return f"{name}_total" if metric.kind == "counter" else name


def dashboard() -> dict[str, Any]:
    """Grafana dashboard with one panel for each metric."""
    panels = [_panel(number, metric) for number, metric in enumerate(names.METRICS)]
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}
    pod = {
        "name": "pod", "type": "query", "datasource": {"type": "prometheus", "uid": "${datasource}"}, "multi": True,
        "includeAll": True, "refresh": 2, "query": f"label_values({prometheus_name(names.ROUNDS)}, pod)",
    }  # fmt: skip
    return {
        "title": "tta-agent", "uid": "tta-agent", "schemaVersion": 39, "version": 1, "editable": True,
        "tags": ["tta-agent"], "refresh": "30s", "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [source, pod]}, "panels": panels,
    }  # fmt: skip


def _panel(number: int, metric: names.Metric) -> dict[str, Any]:
    name, chosen = prometheus_name(metric), '{pod=~"$pod"}'
    legend = "__auto"
    if metric.kind == "counter":
        expression, unit = f"rate({name}{chosen}[5m])", "cps"
    elif metric.kind == "histogram":
        rates = f"sum by (le, pod) (rate({name}_bucket{chosen}[5m]))"
        expression, unit, legend = (
            f"histogram_quantile(0.5, {rates})",
            UNITS.get(metric.unit, "none"),
            "{{pod}}",
        )
    else:
        expression, unit = f"{name}{chosen}", UNITS.get(metric.unit, "none")
    return {
        "id": number + 1, "title": metric.name, "description": metric.description, "type": "timeseries",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"x": number % 3 * 8, "y": number // 3 * 7, "w": 8, "h": 7},
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [{"refId": "A", "expr": expression, "legendFormat": legend}],
    }  # fmt: skip
