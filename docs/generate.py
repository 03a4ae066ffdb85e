"""Write the reference pages, the table of rooms in the architecture page, and parts of the Helm chart from the code.

`python -m docs.generate` writes what differs; with `--check` it writes nothing and exits with 1 if a page is stale.
"""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
import yaml
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from charts import generate as chart
from docs.rooms import rooms
from docs.tables import clause, plain, table
from tta_agent.cli.main import app
from tta_agent.core.events import Event
from tta_agent.settings.presets import presets
from tta_agent.settings.retired import RETIRED
from tta_agent.settings.schema import PREFIX, Settings
from tta_agent.telemetry import names
from tta_agent.telemetry.facade import Telemetry

ROOT = Path(__file__).resolve().parent.parent
ROOMS = re.compile(r"(?<=<!-- rooms -->\n).*(?=<!-- end of rooms -->)", re.DOTALL)
WORDS = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path"}
WORDS |= {SecretStr: "secret", dict: "object"}
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def pages(root: Path) -> dict[Path, str]:
    """Text of each page that is made, by its path."""
    architecture = root / "docs" / "architecture.md"
    made = {"settings": settings(), "metrics": metrics(), "events": events(), "commands": commands()}
    reference = {**made, "presets": preset_files()}
    rewritten = ROOMS.sub(lambda _: rooms(root), architecture.read_text(encoding="utf-8"))
    return {architecture: rewritten} | {
        root / "docs" / "reference" / f"{name}.md": f"<!-- Made from the code by `make docs`. -->\n\n{text}"
        for name, text in reference.items()
    }


def settings() -> str:
    """Every environment variable: type, default, meaning, by group."""
    groups = {n: f for n, f in Settings.model_fields.items() if _is_group(f)}
    alone = {n: f for n, f in Settings.model_fields.items() if n not in groups}
    parts = [
        "# Settings\n\nEach setting is an environment variable. A command-line option wins over the variable, the "
        "variable over the [preset](presets.md) of `TTA_POLICY`, the preset over the default.\n\n"
        'A list or an object is written as JSON: `TTA_GATE__GATES=\'["integrity", "certificate"]\'`. An empty '
        "variable counts as not set. An unknown `TTA_*` variable is an error that names the nearest valid one.\n\n"
        "`tta-agent run --show-config` prints the values that result, `tta-agent schema` the JSON schema.\n",
        "## General\n\n" + _fields(PREFIX, alone),
    ]
    for name, field in groups.items():
        model: Any = field.annotation
        parts.append(f"## {name}\n\n{model.__doc__}\n\n" + _fields(f"{PREFIX}{name}__", model.model_fields))
    retired = [(f"`{name}`", sentence) for name, sentence in RETIRED.items()]
    parts.append(
        "## No longer read\n\nThey do nothing but warn.\n\n" + table(("variable", "what holds now"), retired)
    )
    return "\n".join(parts)


def metrics() -> str:
    """Metrics, spans and attributes by their declaration."""
    agent, server = (
        _metrics(found) for found in (names.METRICS, (*names.SERVER_METRICS, *names.TAP_METRICS))
    )
    spans = [(f"`{name}`", clause(getattr(Telemetry, name.removeprefix("tta.")))) for name in names.SPANS]
    attributes = [(f"`{name}`", sentence) for name, sentence in names.ATTRIBUTES.items()]
    return (
        "# Metrics, spans, attributes\n\nThey leave by OpenTelemetry; the standard `OTEL_*` variables say where to "
        "([how](../guide/operate.md#telemetry)). Prometheus shows `tta.adapt.duration` as "
        "`tta_adapt_duration_seconds`, `tta.swaps` as `tta_swaps_total`.\n\n## Metrics\n\n"
        + agent
        + f"\n### Of the embedded server\n\n`GET /metrics` of its port shows them, with `{names.MODEL_INFO.name}`, "
        f"`{names.SWAPS.name}` and `{names.SWAP_DURATION.name}` of its own. The `tta.tap` ones are of each tap.\n\n"
        + server
        + "\n## Spans\n\nOne trace for each round. The name of a messaging span is followed by its topic.\n\n"
        + table(("name", "covers"), spans)
        + f"\nThe span `{names.GATE}` has an event `{names.FINDING}` for the answer of each gate.\n"
        + "\nThe embedded server opens spans in the traces of its callers (header `traceparent`).\n\n"
        + table(("name", "covers"), [(f"`{name}`", covers) for name, covers in names.SERVER_SPANS.items()])
        + "\n## Attributes\n\n"
        + table(("name", "value"), attributes)
    )


def _metrics(found: Sequence[names.Metric]) -> str:
    rows = [(f"`{m.name}`", m.kind, f"`{m.unit}`", m.description) for m in found]
    return table(("name", "kind", "unit", "what it measures"), rows)


def events() -> str:
    """The events of the log and of the event webhook."""
    rows = [
        (
            f"`{e.value}`",
            e.sentence,
            " ".join(f"`{f}`" for f in e.fields),
            f"`{e.former}`" if e.former else "",
        )
        for e in Event
    ]
    return (
        "# Events\n\nEach decision is one line of JSON in `<store>/events.jsonl`; `TTA_HTTP__EVENT_URL` gets the "
        "same object, and `GET /v1/events` lists the newest. Each has `time` (seconds since 1970) and `event`. An "
        "event that was renamed also has its former name, as `formerly`.\n\n"
        + table(("event", "meaning", "further fields", "former name"), rows)
    )


def commands() -> str:
    """Every command with its arguments and options, as `--help` has them."""
    found = list(_commands("tta-agent", typer.main.get_command(app)))
    listed = [(f"[{name}](#{name.replace(' ', '-')})", clause(command.help)) for name, command in found]
    parts = [
        "# Commands\n\nExit status: 0 done; 1 a check failed or you said no; 2 it did not work, with a message of "
        "one to three lines ([troubleshooting](../troubleshooting.md)); 130 interrupted.\n\n"
        + table(("command", "purpose"), listed)
    ]
    for name, command in found:
        context = typer.Context(command, info_name=name)
        records = [param.get_help_record(context) for param in command.params]
        rows = [(f"`{record[0]}`", record[1]) for record in records if record]
        options = "\n" + table(("argument or option", "meaning"), rows) if rows else ""
        parts.append(f"## {name}\n\n{plain(command.help)}\n" + options)
    return "\n".join(parts).replace(str(Path.home()), "~")


def preset_files() -> str:
    """Every preset: its first comment and its values."""
    parts = ["# Presets\n\n`TTA_POLICY=<name>` picks one; single variables win over it.\n"]
    for name, path in presets().items():
        lines = path.read_text(encoding="utf-8").splitlines()
        about = " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))
        values = yaml.safe_dump(
            yaml.safe_load("\n".join(lines)), sort_keys=False, default_flow_style=None, width=100
        )
        parts.append(f"## {name}\n\n{plain(about)}\n\n```yaml\n{values}```\n")
    return "\n".join(parts)


def _is_group(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _fields(prefix: str, fields: Mapping[str, FieldInfo]) -> str:
    rows = [
        (f"`{prefix}{name}`".upper(), _kind(field), _default(field), field.description or "")
        for name, field in fields.items()
    ]
    return table(("variable", "type", "default", "meaning"), rows)


def _kind(field: FieldInfo) -> str:
    signs = [(sign, getattr(part, name, None)) for part in field.metadata for name, sign in BOUNDS.items()]
    bounds = [f"{sign} {value:g}" for sign, value in signs if value is not None]
    return ", ".join([_type(field.annotation), *bounds])


def _type(kind: Any) -> str:
    if get_origin(kind) is Annotated:  # validators are no part of the type
        return _type(get_args(kind)[0])
    origin, inner = get_origin(kind), [part for part in get_args(kind) if part not in (type(None), ...)]
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_type, inner))
    if origin in (list, tuple):
        return f"list of {_type(inner[0])}"
    return WORDS.get(origin or kind, getattr(kind, "__name__", str(kind)))


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is None:
        return ""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"`{json.dumps(value) if isinstance(value, bool | list | tuple | dict) else text}`"


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    inner: Mapping[str, Any] = getattr(command, "commands", {})
    if name != "tta-agent":
        yield name, command
    for leaf, found in inner.items():
        yield from _commands(f"{name} {leaf}", found)


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with `--check` only compare; the exit status."""
    made = {**pages(ROOT), **chart.files(ROOT)}
    stale = [p for p, text in made.items() if not p.exists() or p.read_text(encoding="utf-8") != text]
    for path in stale:
        if "--check" in arguments:
            print(f"{path.relative_to(ROOT)} differs from the code: run `make docs`", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(made[path], encoding="utf-8")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
