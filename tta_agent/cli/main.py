"""The commands. Heavy imports stay inside them, so that --help is quick."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

import tta_agent
from tta_agent.cli import failures
from tta_agent.core import process
from tta_agent.core.errors import ConfigError
from tta_agent.settings import env

if TYPE_CHECKING:
    from tta_agent.settings.schema import Settings

app = typer.Typer(
    help="Test-time adaptation beside a model server: drift, adapt, prove, swap, roll back.\n\n"
    "Settings are environment variables TTA_<GROUP>__<NAME>; `tta-agent schema` lists them, "
    "`tta-agent run --show-config` prints what they come to. New here? `tta-agent demo`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = Console()


def main() -> None:
    """Entry point: what we raise on purpose, and what refuses us from outside, is a message, not a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)  # so that `finally` runs: the demo ends its children
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        told = failures.message(error)
        if told is None:
            raise
        print(f"tta-agent: {told}", file=sys.stderr)
        sys.exit(2)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tta-agent {tta_agent.__version__}")
        raise typer.Exit


@app.callback()
def _group(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version, and exit."
        ),
    ] = False,
) -> None: ...


@app.command()
def run(
    show_config: Annotated[bool, typer.Option(help="Print the settings that result, and exit.")] = False,
) -> None:
    """Consume the stream, adapt the copy, test candidates, swap what is proven (TTA_MODE=auto or approve)."""
    settings = _settings()
    if show_config:
        from tta_agent.assembly import preflight

        preflight.check_plugins(settings)
        print(settings.model_dump_json(indent=1))
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))  # while torch is imported; nothing runs yet
    process.yield_to_others(settings.model.nice)
    from tta_agent.cli.run import Lifecycle

    Lifecycle(settings).run()


@app.command()
def serve() -> None:
    """The embedded model server: Open Inference Protocol v2 over ONNX Runtime, with a tap to the stream."""
    settings = _settings()
    from tta_agent.assembly import server

    server.run(settings)


@app.command()
def rollback(
    to: Annotated[
        int | None, typer.Option(help="Version to go back to; default: the one that served before.")
    ] = None,
) -> None:
    """Put an earlier version back into the server: short for `versions rollback`."""
    settings = _settings()
    from tta_agent.control import manual

    number = manual.rollback(settings, to)
    console.print(f"version {number} serves now")


@app.command()
def schema() -> None:
    """The JSON schema of all settings, with their descriptions."""
    from tta_agent.settings.schema import Settings

    print(json.dumps(Settings.model_json_schema(), indent=1))


@app.command("import-npz")
def import_npz(
    npz: Annotated[Path, typer.Argument(help="Arrays inputs [N,C,H,W], labels [N]?, domain [N]?")],
    out: Annotated[Path, typer.Argument(help="Folder of the new recording.")],
    model: Annotated[str, typer.Option(help="Name of the model that it is for.")] = "model",
    scale: Annotated[
        float, typer.Option(help="Inputs are multiplied by this (uint8 images: 0.00392156862745098).")
    ] = 1.0,
    mean: Annotated[
        str, typer.Option(help="Then minus this, one number or one a channel, comma-separated.")
    ] = "0",
    std: Annotated[str, typer.Option(help="Then divided by this.")] = "1",
    rate: Annotated[float, typer.Option(help="Records per second of recorded time.")] = 100.0,
) -> None:
    """Make a recording of arrays."""
    from tta_agent.stream.recordings import reader

    preprocessing = reader.Preprocessing(scale, _numbers(mean), _numbers(std))
    with _progress() as bar:
        task = bar.add_task("writing", total=None)
        count = reader.import_npz(
            npz, out, model=model, preprocessing=preprocessing, rate_per_s=rate,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    console.print(f"{count} records in {out}")


@app.command()
def record(
    out: Annotated[Path, typer.Argument(help="Folder of the new recording.")],
    count: Annotated[int, typer.Option(help="Stop after so many inferences.")] = 100_000,
    follow_s: Annotated[float, typer.Option(help="Wait this long for more at the end of the topic.")] = 2.0,
) -> None:
    """Copy what the topic holds, joined with its labels, into a recording for `replay`."""
    settings = _settings()
    from tta_agent.stream import recorder

    with _progress() as bar:
        task = bar.add_task("recording", total=None)
        done = recorder.record(settings, out, count, follow_s, lambda n: bar.update(task, completed=n))
    print("\n".join((f"{done.records} records in {out}", *done.unreadable)))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _settings(**flags: Any) -> Settings:
    settings = env.load(**flags)
    process.budget(settings.model.threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("httpx", "httpcore", "onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # a line a retry; sources/kafka.py keeps the cause for its errors
    logging.getLogger("kafka").propagate = False
    return settings


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{text!r} is not a number or a comma-separated list of them") from None


def _progress() -> Any:
    from rich.progress import Progress

    bar = Console(stderr=True)
    return Progress(console=bar, transient=True, disable=not bar.is_terminal)


def _add_others() -> None:
    from tta_agent.cli import commands
    from tta_agent.cli.bench import bench
    from tta_agent.cli.calibrate import calibrate
    from tta_agent.cli.demo import demo, traffic
    from tta_agent.cli.doctor import doctor, peek
    from tta_agent.cli.model import model
    from tta_agent.cli.rehearse import rehearse
    from tta_agent.cli.replay import HELP, replay
    from tta_agent.cli.versions import versions

    for command in (
        commands.approve,
        commands.reject,
        commands.freeze,
        commands.unfreeze,
        commands.reset,
    ):
        app.command()(command)
    app.command(help=HELP)(replay)
    app.command()(doctor)
    app.command()(peek)
    app.command()(rehearse)
    app.command()(calibrate)
    app.command()(demo)
    app.command()(traffic)
    app.add_typer(bench, name="bench")
    app.add_typer(model, name="model")
    app.add_typer(versions, name="versions")


_add_others()
