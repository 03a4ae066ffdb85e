"""`tta-agent rehearse`. Heavy imports stay inside, so that --help is quick."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tta_agent.cli import outputs
from tta_agent.cli.forecast import IN_A_GROUP, Forecast, budget
from tta_agent.core import extras, process
from tta_agent.core.errors import ConfigError
from tta_agent.settings import env

if TYPE_CHECKING:
    from tta_agent.evaluation.rehearsed.store import RehearsalStore
    from tta_agent.rehearsal.run import PlayerConfig
    from tta_agent.rehearsal.scenarios import ScenarioGroup


def rehearse(
    anchor: Annotated[
        Path | None,
        typer.Option(
            help="Labelled images: .npz (inputs, labels) or one folder a class. Default: TTA_GATE__ANCHOR."
        ),
    ] = None,
    budget_minutes: Annotated[
        float, typer.Option(min=0.1, help="No group of scenarios is begun after this.")
    ] = 12.0,
    scenarios: Annotated[
        int | None,
        typer.Option(
            "--scenarios",
            "--worlds",
            min=9,
            help="About so many scenarios; default: as many as the time allows.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The page. Default: beside the rehearsal.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Play again what was finished before.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes of one thread each; 0: this one. Default: one a core."),
    ] = None,
) -> None:
    """Play shifts of your own labelled images before deployment: where does adapting help this model, where not?

    Model and adapter are those of the TTA_* settings. What is learnt lets the gate `rehearsed` promote without any
    label from the stream. May be interrupted: the same command goes on.

    Example: TTA_MODEL__ONNX=model.onnx TTA_GATE__ANCHOR=validation.npz tta-agent rehearse --out page.html
    """
    settings = env.load()
    extras.require("rehearse", "tta-agent rehearse")
    process.budget(1)
    logging.basicConfig(level=logging.WARNING)
    path = anchor or settings.gate.anchor or settings.model.source_data
    if path is None or not path.exists():
        why = "none are named" if path is None else f"{path} does not exist"
        raise ConfigError(
            f"rehearsing needs labelled images, and {why}: --anchor validation.npz or "
            "TTA_GATE__ANCHOR=<.npz, or a folder with one folder a class>"
        )
    outputs.check({"--out": out})
    from tta_agent.assembly import build
    from tta_agent.evaluation.rehearsed import store
    from tta_agent.rehearsal.failures import KINDS
    from tta_agent.rehearsal.run import PlayerConfig
    from tta_agent.rehearsal.scenarios import bank

    source = build.load_source(settings)
    source.output.refuse_label_sets("a rehearsal")
    name = store.key(build.fingerprint(source.module), store.learning(settings))
    saved = store.RehearsalStore((settings.store.proofs or settings.store.path) / "rehearsal", name)
    if fresh:
        saved.forget()
    groups = bank(failures=KINDS)
    groups = groups if scenarios is None else groups[: -(-scenarios // IN_A_GROUP)]
    config = PlayerConfig(settings, path)
    cores = (os.cpu_count() or 1) if workers is None else workers
    _play(config, groups, saved, cores, 60 * budget_minutes)
    _tell(_conclude(config, groups, saved, cores), saved, out or saved.path / "rehearsal.html", as_json)


def _play(
    config: PlayerConfig, groups: list[ScenarioGroup], saved: RehearsalStore, workers: int, seconds: float
) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from tta_agent.rehearsal.run import carry_out

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
    )  # fmt: skip
    console.print(
        f"{len(groups)} groups of about {IN_A_GROUP} scenarios, {seconds / 60:.0f} minutes at most, kept in "
        f"{saved.path}",
        soft_wrap=True,
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("rehearsing", total=len(groups))
        forecast = Forecast(
            len(groups) - len(saved.finished() & set(map(config.name, groups))), workers, seconds
        )

        def scenario(took_s: float) -> None:
            if told := forecast.scenario(took_s):
                console.print(told, soft_wrap=True, highlight=False)

        def finished(done: int, total: int, group: ScenarioGroup) -> None:
            said = f"group {done}/{total}: {group.family}, severity {group.severity}{forecast.group()}"
            bar.update(task, description=said, completed=done, total=total)
            if not console.is_terminal:
                console.print(said)

        try:
            carry_out(
                config,
                groups,
                saved,
                workers=workers,
                seconds=seconds,
                on_finished=finished,
                on_scenario=scenario,
            )
        except KeyboardInterrupt:
            console.print(f"stopped; the same command goes on from what is in {saved.path}", soft_wrap=True)
            raise


def _conclude(
    config: PlayerConfig, groups: list[ScenarioGroup], saved: RehearsalStore, workers: int
) -> dict[str, Any]:
    from tta_agent.evaluation.anchor_set import IMAGES
    from tta_agent.evaluation.rehearsed.proof import FEWEST, fit
    from tta_agent.rehearsal.play import WINDOW

    finished = saved.finished()
    done = [name for name in map(config.name, groups) if name in finished]
    rows = saved.rows(set(done))
    if len(rows) < FEWEST:
        raise ConfigError(
            f"{len(rows)} scenarios were played, {FEWEST} are needed for a bound: run the same command again, with "
            + budget(FEWEST - len(rows), len(rows), sum(saved.seconds(set(done))), workers)
        )
    print(f"leaving out each family of {len(rows)} scenarios ...", file=sys.stderr, flush=True)
    s = config.settings
    about = {
        "scenes": done, "worlds": len(rows), "window": WINDOW, "anchor": str(config.anchor),
        "anchor_images": IMAGES, "method": s.adapt.method,
    }  # fmt: skip
    saved.conclude(fit(rows), about)
    found = saved.summary()
    assert found is not None
    return found


def _tell(summary: dict[str, Any], saved: RehearsalStore, out: Path, as_json: bool) -> None:
    from tta_agent.rehearsal import page, words

    rows = saved.rows(set(summary["scenes"]))
    told = words.findings(rows, summary)
    outputs.write(out, page.html(rows, summary, told))
    if as_json:
        short = {k: v for k, v in summary.items() if k not in ("fit", "scenes")}
        fit = {k: v for k, v in summary["fit"].items() if k not in ("guesses", "lower")}
        print(json.dumps({**short, **fit, "findings": told, "page": str(out)}, indent=1))
        return
    for line in told:
        print(line)
    print(f"page: {out}")
