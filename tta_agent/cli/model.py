"""`tta-agent model`: the served model by itself. Heavy imports stay inside, so that --help is quick."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tta_agent.core import process
from tta_agent.core.atomic_files import write_atomic
from tta_agent.core.errors import ConfigError
from tta_agent.settings import env

if TYPE_CHECKING:
    from tta_agent.models.inspection import ModelReport

model = typer.Typer(
    help="The served model: can it adapt, by which methods, at which cost.", no_args_is_help=True
)
console = Console()


@model.callback()
def _group() -> None: ...


@model.command()
def check(
    file: Annotated[Path, typer.Argument(help="The served ONNX file.")],
    source_data: Annotated[
        Path | None,
        typer.Option(help="Source inputs, .npz or a folder of images. Default: TTA_MODEL__SOURCE_DATA."),
    ] = None,
    output: Annotated[str | None, typer.Option(help="Output that is the answer, of several.")] = None,
    input_shape: Annotated[
        str | None, typer.Option(help="Shape of one sample where the file leaves it open: 3,224,224.")
    ] = None,
    sites: Annotated[
        str | None, typer.Option(help="Layers with a folded BatchNorm: auto, none, or names by comma.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Build the model from the file, try every adapter for a round, and say all that stands in the way.

    Nothing is served or written. What the options do not say, the TTA_MODEL__* settings do. Status 1: no adapter can
    use the file.

    Example: tta-agent model check model.onnx --source-data source.npz
    """
    given = {"source_data": source_data, "output": output, "input_shape": input_shape, "sites": sites}
    m = env.load(model={"onnx": file, **{k: v for k, v in given.items() if v is not None}}).model
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; expected the served ONNX file")
    process.budget(m.threads)
    logging.basicConfig(level=logging.WARNING)
    import torch

    from tta_agent.models.inspection import inspect

    torch.set_num_threads(m.threads)
    found = inspect(
        file, shape=m.input_shape, output=m.output, mean=m.mean, std=m.std, device=m.device, sites=m.sites,
        source_data=m.source_data,
    )  # fmt: skip
    if as_json:
        print(json.dumps({**dataclasses.asdict(found), "adapts": found.adapts}, indent=1))
    else:
        _tell(found)
    raise typer.Exit(0 if found.adapts else 1)


@model.command()
def source_data(
    file: Annotated[Path, typer.Argument(help="Written: an .npz for TTA_MODEL__SOURCE_DATA.")],
    records: Annotated[int, typer.Option(min=1, help="Last records of the stream to take.")] = 300,
) -> None:
    """Keep the inputs of the last records as source data. Run it in calm hours, before the data shift.

    Models whose BatchNorms were folded at export get their statistics back from some hundred of them. Nothing is
    committed to the stream; the settings are those of `run`.

    Example: tta-agent model source-data source.npz --records 300
    """
    if file.suffix != ".npz" or file.exists():
        raise ConfigError(f"{file}: expected a new file that ends in .npz")
    settings = env.load()
    process.budget(settings.model.threads)
    logging.basicConfig(level=logging.WARNING)
    import numpy as np

    from tta_agent.assembly.source_records import collect

    inputs, way = collect(settings, records)
    content = io.BytesIO()
    np.savez_compressed(content, inputs=inputs)
    write_atomic(file, content.getvalue())
    print(
        f"{file}: inputs of {len(inputs)} records, prepared as {way}, taken for what the model was trained on\n"
        f"use them by TTA_MODEL__SOURCE_DATA={file}"
    )


def _tell(report: ModelReport) -> None:
    table = Table(show_header=False, title=escape(report.file))
    for name, text in _rows(report):
        table.add_row(name, escape(text))
    console.print(table)
    if report.obstacles:
        obstacles = Table("what stands in the way", "what to do")
        for obstacle in report.obstacles:
            obstacles.add_row(escape(obstacle.found), escape(obstacle.remedy))
        console.print(obstacles)
    able = [name for name, reason in report.adapters.items() if reason is None and name != "frozen"]
    console.print(f"adapts by: {', '.join(able)}" if able else "it cannot adapt as it is")


def _rows(report: ModelReport) -> list[tuple[str, str]]:
    ports = [
        (kind, "\n".join(f"{port.name} {port.type} {list(port.shape)}" for port in found))
        for kind, found in (("inputs", report.inputs), ("outputs", report.outputs))
    ]
    rest: dict[str, dict[str, Any]] = {
        "answer": report.answer,
        "normalisation": report.layers,
        "parameters": report.parameters,
        "difference from the file": report.parity,
        "cost of a sample": report.cost,
        "size of a version": report.version,
    }
    return ports + [
        (name, ", ".join(f"{k} {_number(v)}" for k, v in row.items() if v is not None))
        for name, row in rest.items()
        if row
    ]


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
