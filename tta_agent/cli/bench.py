"""`tta-agent bench`: measure every method, online and as it would be served."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tta_agent.cli import outputs
from tta_agent.core import process

if TYPE_CHECKING:
    from tta_agent.bench.options import BenchOptions
    from tta_agent.bench.session import Findings

WIDE = 160  # columns, where no terminal says how many there are
HOME = Path.home() / ".cache" / "tta-agent" / "bench"
HELP = (
    "Accuracy of every method, online and as it would be served; what a round costs; a peer beside it.\n\n"
    "source: the frozen model. online: what adapting answers at once, with batch statistics. served @k: a frozen "
    "snapshot is taken every k batches and answers the next k, one image at a time, as a model server does. "
    "F, B: forward and backward passes a batch. time: of a round, in plain forwards.\n\n"
    "Streams: reset (a fresh adapter for each corruption), continual (one through all), and the wild ones: "
    "correlated (classes in runs), mixed (corruptions shuffled), single (one image at a time), unknown (30 % of "
    "other classes), long (20 repetitions), label_shift (rare classes), clean (no corruption).\n\n"
    "Interrupt it when you like: the same command goes on from the last finished cell (one method on one stream). "
    "Cells of other settings, weights, data or code are not taken over. Settings come from presets and TTA_* "
    "variables, as for `tta-agent run`.\n\n"
    "Try: tta-agent bench methods --quick --methods norm,tent --images 500"
)

bench = typer.Typer(
    help="Measure methods against each other, on your data and model or on ours.", no_args_is_help=True
)


@bench.callback()
def _group() -> None:
    """Measure methods against each other, on your data and model or on ours."""


@bench.command(help=HELP)
def methods(
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Six corruptions, batch 100, lag 5, as many images as ten minutes allow."
        ),
    ] = False,
    who: Annotated[
        str,
        typer.Option(
            "--methods", help="Comma-separated: METHOD, METHOD@PRESET, @PRESET, a .yaml of settings, or all."
        ),
    ] = "all",
    preset: Annotated[str | None, typer.Option(help="Preset for the methods that name none.")] = None,
    protocols: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            "--stream",
            help="How records arrive, comma-separated, or all (see above). Default: reset,continual.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="cifar (where its file is found; the default), fashion (packaged), or an .npz with "
            "inputs uint8 [N,C,H,W] and labels [N]; with domain [N] (names), its images are shifted "
            "already: no corruption, a stream for each domain."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="resnet20, fashion_bn, fashion_gn, fashion_ln, module:callable, or a timm name. "
            "Default: what was trained on such images."
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights of --model: .safetensors or a torch file.")
    ] = None,
    source_data: Annotated[
        Path | None, typer.Option(help="Labelled source images (.npz) for the methods that use some.")
    ] = None,
    mean: Annotated[
        str,
        typer.Option(
            help="The model takes (x - mean) / std, x in [0, 1]: one number, or one a "
            "channel. Ours normalise by themselves."
        ),
    ] = "0",
    std: Annotated[str, typer.Option(help="See --mean.")] = "1",
    corruptions: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated names, or all 15. Default: all, or none where --data names domains."
        ),
    ] = None,
    severity: Annotated[int, typer.Option(min=1, max=5, help="1 (mild) to 5.")] = 5,
    images: Annotated[
        int | None, typer.Option(min=1, help="Of the file's beginning, for each corruption. Default: all.")
    ] = None,
    batches: Annotated[str | None, typer.Option("--batch", help="Batch sizes. Default: 200,64.")] = None,
    lags: Annotated[
        str | None, typer.Option(help="A snapshot every k batches answers the next k. Default: 1,5,20.")
    ] = None,
    orders: Annotated[
        int | None, typer.Option(min=1, help="Orders of arrival, for the deviation. Default: 3.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes of one thread each; 0: this one. Default: one a core."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write all numbers to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables to this file.")] = None,
    work: Annotated[
        Path, typer.Option(help="Finished cells are kept here; the same command goes on from them.")
    ] = HOME,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what was finished before.")] = False,
) -> None:
    """Measure every method: see HELP."""
    process.budget(1)
    logging.basicConfig(level=logging.WARNING)
    from tta_agent.bench.options import BenchOptions

    options = BenchOptions(
        quick, who, preset, protocols, data, model, weights, source_data, mean, std, corruptions, severity,
        images, batches, lags, orders,
    )  # fmt: skip
    outputs.check({"--json": out, "--markdown": markdown})
    cores = os.cpu_count() or 1
    found = _measure(options, work, fresh, cores if workers is None else workers)
    _tell(found, out, markdown, quick)
    sys.exit(1 if found.failed else 0)


def _measure(options: BenchOptions, folder: Path, fresh: bool, workers: int) -> Findings:
    from rich.console import Console

    from tta_agent.bench import session
    from tta_agent.bench.work import Work

    few = options.quick and options.images is None
    work, console = Work(folder, fresh=fresh), Console(stderr=True)
    try:
        return session.carry_out(options.plan(), work, workers=workers, few=few, console=console)
    except KeyboardInterrupt:
        console.print(f"stopped; the same command goes on from what is in {work.path}", soft_wrap=True)
        raise


def _tell(found: Findings, out: Path | None, markdown: Path | None, quick: bool) -> None:
    from rich.console import Console

    sheets = found.sheets()
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=WIDE)
    for sheet in sheets:
        console.print(sheet.rich())
    for cell, error in found.failed:
        print(f"failed: {cell.name()}: {error}", file=sys.stderr)
    if out is not None:
        outputs.write(out, json.dumps(found.rows() if quick else found.everything(), indent=1) + "\n")
    if markdown is not None:
        outputs.write(markdown, "\n".join(sheet.markdown() for sheet in sheets))
