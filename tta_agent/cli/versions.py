"""`tta-agent versions`: look at the registry, and decide in it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tta_agent.cli import version_tables
from tta_agent.core import process
from tta_agent.core.errors import RegistryError
from tta_agent.core.os_errors import describe
from tta_agent.core.redact import without_user
from tta_agent.registry import shared_data
from tta_agent.settings import env

if TYPE_CHECKING:
    from tta_agent.registry.registry import ModelRegistry
    from tta_agent.settings.schema import Settings

HELP = (
    "What the registry holds, and why; promote, roll back, pin, tidy up. Alone, it lists.\n\n"
    "N is a number or one of the aliases source, serving, previous, candidate. The registry is the one under "
    "TTA_STORE__PATH, or at TTA_STORE__VERSIONS. --json writes for scripts; status 2 says that it did not work.\n\n"
    "Try: tta-agent versions explain serving"
)
versions = typer.Typer(help=HELP)
console = Console()
Json = Annotated[bool, typer.Option("--json", help="For scripts.")]
Name = Annotated[
    str, typer.Argument(metavar="N", help="A number, or source, serving, previous or candidate.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@versions.callback(invoke_without_command=True)
def _group(context: typer.Context, as_json: Json = False) -> None:
    if context.invoked_subcommand is None:
        list_(as_json)


@versions.command("list")
def list_(as_json: Json = False) -> None:
    """All versions in the registry: aliases, how each trial ended, and the number that decided."""
    rows = _registry().rows()
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    version_tables.overview(rows)


@versions.command()
def show(name: Name, as_json: Json = False) -> None:
    """Manifest and verdict of a version, as they are written down."""
    registry = _registry()
    number = registry.number_of(name)
    told = {
        "manifest": registry.manifest(number),
        "verdict": registry.verdict(number),
        "withdrawn": registry.withdrawal(number),
    }
    print(json.dumps(told, indent=1)) if as_json else console.print_json(data=told)


@versions.command()
def explain(name: Name, as_json: Json = False) -> None:
    """Why a version serves, served or was refused: for a person, in under 30 lines."""
    registry = _registry()
    number = registry.number_of(name)
    from tta_agent.registry.explain import explain as lines_of

    lines = lines_of(registry, number)
    print(json.dumps({"version": number, "lines": lines}, indent=1) if as_json else "\n".join(lines))


@versions.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="The one to start from: a number or an alias.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    as_json: Json = False,
) -> None:
    """What two versions do not share: settings, records, what the gates saw, and how far each layer moved.

    Example: tta-agent versions diff source serving
    """
    registry = _registry()
    from tta_agent.registry.compare import compare

    told = compare(registry, registry.number_of(a), registry.number_of(b))
    if as_json:
        print(json.dumps(told, indent=1))
        return
    version_tables.difference(told)


@versions.command()
def promote(
    name: Name,
    force: Annotated[bool, typer.Option(help="Even if it was never proven, or was taken back.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Put a version into the server. A running agent starts over from it and cools down."""
    settings = _settings()
    number = _registry(settings).number_of(name)
    if not yes:
        typer.confirm(f"Put version {number} into {without_user(settings.swap.url)}?", abort=True, err=True)
    from tta_agent.control import manual

    _serves(manual.promote(settings, number, force=force), as_json)


@versions.command()
def rollback(
    name: Annotated[
        str | None, typer.Argument(metavar="[N]", help="Default: the one that served before.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Put an earlier version back into the server. A running agent starts over and cools down."""
    settings = _settings()
    to = None if name is None else _registry(settings).number_of(name)
    from tta_agent.control import manual

    _serves(manual.rollback(settings, to), as_json)


@versions.command()
def pin(name: Name, as_json: Json = False) -> None:
    """Keep a version's graph, whatever retention says."""
    registry = _registry()
    registry.pin(registry.number_of(name))
    print(version_tables.pins(registry.pinned(), as_json))


@versions.command()
def unpin(name: Name, as_json: Json = False) -> None:
    """Leave a version to retention again."""
    registry = _registry()
    registry.unpin(registry.number_of(name))
    print(version_tables.pins(registry.pinned(), as_json))


@versions.command()
def gc(
    keep: Annotated[
        int | None, typer.Option(min=1, help="Graphs of proven versions to keep; default TTA_STORE__KEEP.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Remove old graphs; explanations of proven versions stay.

    Source, serving, previous, candidate and pinned versions are never touched.
    """
    settings = _settings()
    gone = _registry(settings).gc(keep or settings.store.keep, dry_run=dry_run)
    if as_json:
        print(json.dumps({"graphs": gone.graphs, "versions": gone.versions, "dry_run": dry_run}))
        return
    verb = "would lose" if dry_run else "lost"
    console.print(f"{version_tables.these(gone.graphs)} {verb} the graph and keep the explanation")
    console.print(f"{version_tables.these(gone.versions)} {verb} the explanation too (rejected long ago)")


@versions.command()
def export(
    name: Name,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write, for instance serving.onnx.")],
    as_json: Json = False,
) -> None:
    """Write the full ONNX graph of a version to a file; above 2 GiB with its data files beside it."""
    registry = _registry()
    number = registry.number_of(name)
    size = _write(registry, number, out)
    told = {"version": number, "file": str(out), "bytes": size}
    print(json.dumps(told) if as_json else f"version {number} in {out}, {size:,} bytes")


@versions.command()
def verify(as_json: Json = False) -> None:
    """Read everything and prove it: the hash of every graph, and the chain of manifests and verdicts.

    Status 2 where anything is damaged, with its name.
    """
    registry = _registry()
    numbers = registry.numbers()
    found = {number: _checked(registry, number) for number in _shown(numbers)}
    damaged: dict[int | str, str] = {n: told for n, (sound, told) in found.items() if not sound}
    damaged |= _alias_faults(registry)
    if as_json:
        print(json.dumps({"checked": len(found), "damaged": damaged}, indent=1))
    else:
        whole = sum(told == "sound" for _, told in found.values())
        console.print(f"{len(found)} versions read, {whole} of them with a graph; {len(damaged)} damaged")
    if damaged:
        raise RegistryError("; ".join(dict.fromkeys(damaged.values())))


def _checked(registry: ModelRegistry, number: int) -> tuple[bool, str]:
    try:
        return True, registry.check(number)
    except RegistryError as error:
        return False, str(error)


def _alias_faults(registry: ModelRegistry) -> dict[int | str, str]:
    from tta_agent.registry import trust

    try:
        return {alias: told for alias, told in trust.faults(registry).items()}
    except RegistryError as error:  # of a version that is told anyway
        return {"aliases.json": str(error)}


def _shown(numbers: list[int]) -> Any:
    from rich.progress import track

    bar = Console(stderr=True)
    return track(numbers, "reading", console=bar, transient=True, disable=not bar.is_terminal)


def _settings() -> Settings:
    logging.basicConfig(level=logging.WARNING)
    process.budget((settings := env.load()).model.threads)
    return settings


def _registry(settings: Settings | None = None) -> ModelRegistry:
    from tta_agent.registry.factory import open_registry

    registry = open_registry(settings or _settings())
    if not registry.numbers():
        raise RegistryError(registry.nothing())
    return registry


def _write(registry: ModelRegistry, number: int, out: Path) -> int:
    try:
        return shared_data.export(registry.get(number), out)
    except OSError as error:
        raise RegistryError(f"cannot write {describe(error, out)}") from None


def _serves(number: int, as_json: bool) -> None:
    print(json.dumps({"serving": number})) if as_json else console.print(f"version {number} serves now")
