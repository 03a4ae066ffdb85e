"""`tta-agent doctor` and `tta-agent peek`: look before you start. Heavy imports stay inside."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tta_agent.core import process
from tta_agent.settings import env

if TYPE_CHECKING:
    from tta_agent.assembly.doctor.finding import CheckFinding
    from tta_agent.settings.schema import Settings

MARKS = {
    "ok": "[green]ok[/]",
    "warning": "[yellow]warning[/]",
    "failure": "[red]failure[/]",
    "skipped": "skipped",
}
TERMINATION_BYTES = 4096  # of a container's termination message


def doctor(
    only: Annotated[
        list[str] | None, typer.Option(help="Only these: settings, volume, broker, model, records, server.")
    ] = None,
    skip: Annotated[list[str] | None, typer.Option(help="All but these.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    message_file: Annotated[
        Path | None, typer.Option(help="Failures and warnings go there too: /dev/termination-log.")
    ] = None,
) -> None:
    """Check what the agent needs: settings, volume, broker, records, model, server; each failure with its fix.

    Nothing is changed, but for the folders that a check of the model needs. Status 1: a check has failed.

    Example: tta-agent doctor --skip server
    """
    settings = _quiet()
    from tta_agent.assembly.doctor.run import examine

    found = []
    for finding in examine(settings, only or (), skip or ()):
        found.append(finding)
        if not as_json:
            _tell(finding)
    if as_json:
        print(json.dumps([dataclasses.asdict(finding) for finding in found], indent=1))
    if message_file is not None:
        message_file.write_text(_message(found))
    raise typer.Exit(1 if any(finding.outcome == "failure" for finding in found) else 0)


def peek(
    count: Annotated[int, typer.Option(min=1, max=10_000, help="Records at most.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Show the last records of the stream as the agent understands them; nothing is committed.

    It needs no model. Status 1: there are records, and none can be read.
    """
    settings = _quiet()
    from tta_agent.stream import peeking

    seen = peeking.peek(settings, count)
    if as_json:
        summary = dataclasses.asdict(seen.summary) if seen.summary else None
        rows = [row.row() for row in seen.rows]
        print(json.dumps({"summary": summary, "joined": seen.joined, "records": rows}, indent=1))
    else:
        table = Table("record", "bytes", "key", "read as")
        for row in seen.rows:
            where = f"{row.raw.topic}[{row.raw.partition}]@{row.raw.offset}"
            told = escape(row.read_as) if not row.reason else f"[red]{row.reason}[/]: {escape(row.told)}"
            key = (row.raw.key or b"")[:24].decode(errors="backslashreplace")
            table.add_row(escape(where), f"{len(row.raw.value or b''):,}", escape(key), told)
        console = Console()
        console.print(table)
        print(seen.summary.line() if seen.summary else f"no record of {settings.stream.topic} could be read")
    raise typer.Exit(1 if seen.rows and len(seen.refused) == len(seen.rows) else 0)


def _quiet() -> Settings:
    settings = env.load()
    process.budget(settings.model.threads)
    logging.basicConfig(level=logging.ERROR)
    logging.getLogger("kafka").propagate = False
    return settings


def _tell(finding: CheckFinding) -> None:
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{MARKS[finding.outcome]:>10} {escape(finding.subject)}: {escape(finding.told)}")
    if finding.fix and finding.outcome != "ok":
        console.print(f"        {escape(finding.fix)}")


def _message(found: list[CheckFinding]) -> str:
    lines = [
        f"{one.outcome}: {one.subject}: {one.told}; {one.fix}"
        for one in found
        if one.outcome in ("failure", "warning")
    ]
    text = "\n".join(sorted(lines)) or "nothing stands in the way"
    return text.encode()[:TERMINATION_BYTES].decode(errors="ignore")
