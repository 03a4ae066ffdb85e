"""`tta-agent replay`."""

from __future__ import annotations

import json
import logging
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tta_agent.cli import outputs
from tta_agent.cli.progress import ProgressLines
from tta_agent.core import process
from tta_agent.core.errors import ConfigError
from tta_agent.settings import env

if TYPE_CHECKING:
    from tta_agent.replay.tape import Late
    from tta_agent.settings.named import Named

HELP = (
    "Play whole policies over a recording: selection, adapter, gate, swap and roll-back, labels late.\n\n"
    "A policy is a preset, METHOD@PRESET, a METHOD, or a .yaml of settings by group. All get the same records and "
    "the same labels; modes shadow and approve are played as auto. Compared with the frozen source and with an "
    "oracle, which takes in each window the best of all in hindsight.\n\n"
    "--fail-if makes it a test: exit status 1 where the rule holds for a policy. Names (accuracies in points, "
    "0 .. 100): source, served, online, oracle, gain, regret, worst_window, time_below_source, swaps, rollbacks, "
    "verdicts, labels_used, labels_arrived, labels_per_swap, records, adapted, seconds, times_forward. "
    "'POLICY: RULE' speaks of one policy.\n\n"
    'Interrupted (Ctrl-C, SIGTERM), it still writes the policies that were played to the end, with "complete": '
    'false, and under "partial" the one that was playing, up to its record; where none is finished, that one.\n\n'
    "Try: tta-agent replay RECORDING --policy balanced --policy conservative --html page.html "
    "--fail-if 'served_accuracy < source - 0.5'"
)


def replay(
    recording: Annotated[Path, typer.Argument(help="Folder of a recording.")],
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="Preset, METHOD@PRESET, METHOD or .yaml; several allowed. Default: TTA_POLICY, by "
            "environment and preset."
        ),
    ] = None,
    labels: Annotated[
        Literal["random", "requested"],
        typer.Option(
            help="Which come: of records at random, or those that the agent asks for (TTA_LABELS__REQUESTS_*)."
        ),
    ] = "random",
    label_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Share of records, or of requests, that get a label.")
    ] = 0.5,
    label_delay_s: Annotated[float, typer.Option(min=0, help="Recorded seconds until a label comes.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Chooses which records get a label.")] = 0,
    speed: Annotated[
        str, typer.Option(help="max, or recorded seconds a second (1: as it happened).")
    ] = "max",
    workers: Annotated[
        int, typer.Option(min=1, help="Policies at a time, in processes of one thread each.")
    ] = 1,
    out: Annotated[
        Path | None, typer.Option("--json", help="Write the result here; - prints it instead of the table.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write one page here that needs no network.")] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(help="Exit with 1 where this holds: 'served < source - 0.5'; several allowed."),
    ] = None,
) -> None:
    """Play whole policies over a recording: see HELP."""
    outputs.check({"--json": None if out == Path("-") else out, "--html": html})
    process.budget(env.load().model.threads)
    _quiet()
    from tta_agent.replay import rules
    from tta_agent.replay.tape import Late
    from tta_agent.settings.named import policies

    named = policies(policy) if policy else _by_environment()
    checks = [rules.parse(text, [one.name for one in named]) for text in fail_if or []]
    late = Late(label_rate, label_delay_s, seed, _speed(speed), on_request=labels == "requested")
    result, complete = _play(recording, named, late, workers)
    _write(result, out, html)
    if not complete:
        print(_interrupted(result, len(named)), file=sys.stderr)
        raise KeyboardInterrupt
    sys.exit(_verdict(result, checks))


def _by_environment() -> list[Named]:
    from tta_agent.settings.named import Named

    return [Named(env.load().policy, {})]


def _speed(text: str) -> float:
    try:
        speed = math.inf if text == "max" else float(text)
    except ValueError:
        speed = 0.0
    if not speed > 0:
        raise ConfigError(f"--speed {text!r}: expected max, or a number above 0")
    return speed


def _play(folder: Path, named: list[Named], late: Late, workers: int) -> tuple[dict[str, Any], bool]:
    from rich.console import Console
    from rich.progress import Progress

    from tta_agent.replay import outcome, several

    settings = {one.name: one.settings() for one in named}
    console = Console(stderr=True)
    lines = ProgressLines(lambda line: console.print(line, soft_wrap=True, highlight=False), "records")
    partial: dict[str, dict[str, Any]] = {}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks = {name: bar.add_task(name, total=None) for name in settings}

        def tick(name: str, done: int, total: int) -> None:
            bar.update(tasks[name], completed=done, total=total)
            if not console.is_terminal:
                lines.tick(name, done, total)

        played, complete = several.play(
            folder, settings, late, workers=workers, tick=tick, partial=partial.__setitem__
        )
    if not played and not partial:
        raise KeyboardInterrupt
    about = {
        "recording": folder.resolve().name,
        "labels": {
            "which": "requested" if late.on_request else "random",
            "rate": late.label_rate,
            "delay_s": late.label_delay_s,
            "seed": late.seed,
        },
    }
    told = {"partial": [{"name": name, **one} for name, one in partial.items()]} if partial else {}
    return {**outcome.compare(played or partial, about, complete=complete), **told}, complete


def _interrupted(result: dict[str, Any], asked: int) -> str:
    partial = {one["name"]: one["records"] for one in result.get("partial", [])}
    finished = [one["name"] for one in result["policies"] if one["name"] not in partial]
    part = "".join(f"; {name} up to record {records:,}" for name, records in partial.items())
    return f"interrupted: {len(finished)} of {asked} policies are written{part}"


def _write(result: dict[str, Any], out: Path | None, html: Path | None) -> None:
    from tta_agent.replay import page, table

    text = json.dumps(result, indent=1, allow_nan=False, default=str) + "\n"
    if out == Path("-"):
        sys.stdout.write(text)
    else:
        table.show(result)
    if out is not None and out != Path("-"):
        outputs.write(out, text)
    if html is not None:
        outputs.write(html, page.html(result))


def _verdict(result: dict[str, Any], checks: list[Any]) -> int:
    from tta_agent.replay import rules

    lines = [
        line
        for policy in result["policies"]
        for rule in checks
        if (line := rule.broken(policy["name"], rules.figures(result, policy)))
    ]
    for line in lines:
        print(f"tta-agent replay: {line}", file=sys.stderr)
    return 1 if lines else 0


def _quiet() -> None:
    logging.basicConfig(level=logging.WARNING)
    for noisy in ("httpx", "httpcore", "onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
