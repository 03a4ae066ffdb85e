"""`tta-agent demo` and `tta-agent traffic`."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tta_agent.cli import outputs
from tta_agent.core import extras, process
from tta_agent.core.errors import ConfigError, nearest
from tta_agent.settings import env

if TYPE_CHECKING:
    from tta_agent.demo.traffic import TrafficPlan
    from tta_agent.settings.schema import Settings

Data = Annotated[
    str | None,
    typer.Option(help="npz:PATH with inputs uint8 [N,C,H,W] and labels [N]; default: Fashion-MNIST."),
]
Corruption = Annotated[
    str, typer.Option(help="Corruption families of the shift, comma-separated: a mixture, one an image.")
]
Severity = Annotated[int, typer.Option(min=1, max=5, help="1 (mild) to 5.")]
Rate = Annotated[float, typer.Option(min=1, help="Requests per second.")]
LabelRate = Annotated[float, typer.Option(min=0, max=1, help="Share of records whose label arrives at all.")]
LabelDelay = Annotated[float, typer.Option(min=0, help="Seconds until a label arrives.")]
Seed = Annotated[int, typer.Option(help="Chooses images, corruptions and labels.")]


def demo(
    corruption: Corruption = "gaussian_noise,impulse_noise",
    severity: Severity = 4,
    data: Data = None,
    bootstrap_servers: Annotated[
        str | None, typer.Option(help="Kafka brokers; default: the embedded log.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=20, help="How long the shifted act lasts.")] = 95.0,
    rate: Rate = 100.0,
    label_rate: LabelRate = 0.3,
    label_delay: LabelDelay = 5.0,
    labels: Annotated[
        Literal["late", "none"],
        typer.Option(
            help="none: no label ever comes; the agent rehearses on labelled images before it starts."
        ),
    ] = "late",
    rehearse_minutes: Annotated[
        float, typer.Option(min=0.5, help="For --labels none: how long it may rehearse.")
    ] = 3.0,
    export: Annotated[
        Literal["kept", "default"],
        typer.Option(
            help="default: an ONNX file is served as exporters write it by default, its BatchNorms folded."
        ),
    ] = "kept",
    kill_agent: Annotated[
        bool, typer.Option(help="SIGKILL the agent in the middle, and start it again.")
    ] = False,
    seed: Seed = 7,
    out: Annotated[
        Path, typer.Option(help="Folder for plots, logs, registry; its `state` is replaced.")
    ] = Path("demo-out"),
    json_out: Annotated[Path | None, typer.Option("--json", help="Write all numbers to this file.")] = None,
) -> None:
    """The whole story on real images: a shift, accuracy drops, the agent adapts, proves, swaps.

    Starts a model server, traffic with late labels, and the agent, each with its own thread budget.
    Exit status 0 only if no request failed, no answer came from an unknown version and no process died.
    """
    from tta_agent.demo import report, story, tally
    from tta_agent.demo.screen import screen

    process.budget(1)
    logging.basicConfig(level=logging.WARNING)
    outputs.check({"--json": json_out})
    plan = _plan(corruption, severity, rate, label_rate if labels == "late" else 0.0, label_delay, seed)
    if labels == "none":
        os.environ["TTA_GATE__ANCHOR"] = str((out / "anchor.npz").resolve())
        os.environ["TTA_STORE__PROOFS"] = str((out / "proofs").resolve())
    images = _images(data)
    model = _kept_net()
    if export == "default":
        model, images = _default_export(out, images)
    settings, environ = _world(out, bootstrap_servers, plan, model)
    if labels == "none":
        images = _rehearsed(images, settings, environ, rehearse_minutes)
    phases = story.Phases(shifted_s=seconds, kill_agent=kill_agent)
    began_s = time.monotonic()
    print("starting the model server (it exports the model to ONNX the first time) ...", flush=True)
    run = story.prepare(settings, environ, images, plan, phases)
    with screen() as show:
        story.play(run, show)
    numbers = tally.result(run)
    numbers["seconds_with_startup"] = round(time.monotonic() - began_s, 1)
    sys.exit(_close(numbers, report.write(numbers, out), report.table(numbers), json_out))


def _rehearsed(images: Any, settings: Settings, environ: dict[str, str], minutes: float) -> Any:
    """The images that will arrive, once the others have been rehearsed on."""
    from tta_agent.demo import unlabelled

    assert settings.gate.anchor is not None
    arriving = unlabelled.split(images, settings.gate.anchor)
    print(f"rehearsing on {len(images.labels) - len(arriving.labels)} labelled images ...", flush=True)
    unlabelled.rehearse(environ, minutes)
    return arriving


def _close(numbers: dict[str, Any], files: dict[str, Path], table: Any, json_out: Path | None) -> int:
    from rich.console import Console

    console = Console()
    console.print(table)
    if json_out:
        outputs.write(json_out, json.dumps(numbers, indent=1) + "\n")
        files = {**files, "json": json_out}
    for what, path in files.items():
        console.print(f"{what:>8}: {path}", soft_wrap=True)
    if "png" not in files:
        console.print(f"     png: not drawn; {extras.missing('demo', 'it')}", soft_wrap=True, markup=False)
    console.print(f"  registry: {numbers['registry']}", soft_wrap=True)
    state = Path(numbers["registry"]).parent
    console.print(f"  deeper: TTA_STORE__PATH={state} tta-agent versions", soft_wrap=True)
    wrong = list(numbers["failures"])
    if numbers["failed_requests"]:
        wrong.append(f"{numbers['failed_requests']} requests failed: {numbers['errors']}")
    if numbers["unknown_answers"]:
        wrong.append(
            f"{numbers['unknown_answers']} answers came from versions that the registry does not know"
        )
    for line in wrong:
        print(f"tta-agent demo: {line}", file=sys.stderr)
    if not numbers["swaps"]:
        print("no candidate was proven in this time: the source served on. More labels or seconds may help.")
    return 1 if wrong else 0


def traffic(
    corruption: Corruption = "gaussian_noise,impulse_noise",
    severity: Severity = 4,
    data: Data = None,
    clean_s: Annotated[float, typer.Option(min=0, help="Seconds before the shift.")] = 20.0,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds after the shift.")] = 95.0,
    rate: Rate = 100.0,
    label_rate: LabelRate = 0.3,
    label_delay: LabelDelay = 5.0,
    seed: Seed = 7,
) -> None:
    """Only the users of the demo: images to TTA_SWAP__URL, late labels to the stream. Prints accuracy."""
    settings = env.load()
    process.budget(1)
    from tta_agent.demo.live import drive

    plan = _plan(corruption, severity, rate, label_rate, label_delay, seed)
    drive(settings, _images(data), plan, clean_s, seconds)


def _plan(
    corruption: str, severity: int, rate: float, label_rate: float, label_delay: float, seed: int
) -> TrafficPlan:
    from tta_agent.corruptions import NAMES
    from tta_agent.demo.traffic import TrafficPlan

    families = tuple(name.strip() for name in corruption.split(","))
    for name in families:
        if name not in NAMES:
            raise ConfigError(f"--corruption {name}: no such corruption; {nearest(name, NAMES)}")
    return TrafficPlan(rate, families, severity, label_rate, label_delay, seed)


def _images(spec: str | None) -> Any:
    from tta_agent.samples.dataset import load

    return load(spec)


def _kept_net() -> dict[str, str]:
    """The packaged net as a torch module."""
    from tta_agent.samples.dataset import ASSETS, WEIGHTS

    net = "tta_agent.samples.nets:fashion_net"
    return {
        "TTA_MODEL__FACTORY": net,
        "TTA_MODEL__WEIGHTS": str(ASSETS / WEIGHTS),
        "TTA_MODEL__INPUT_SHAPE": "[1,28,28]",
    }


def _default_export(out: Path, images: Any) -> tuple[dict[str, str], Any]:
    """The packaged net as a default export, and the images that may arrive."""
    from tta_agent.demo import default_export
    from tta_agent.samples.dataset import ASSETS, WEIGHTS

    return default_export.write(out, "tta_agent.samples.nets:fashion_net", ASSETS / WEIGHTS, images)


def _world(
    out: Path, brokers: str | None, plan: TrafficPlan, model: dict[str, str]
) -> tuple[Settings, dict[str, str]]:
    """Settings of the three processes: the demo's defaults, which the caller's TTA_* variables override."""
    run = f"-demo-{os.getpid()}-{int(time.time())}" if brokers else ""  # a shared broker keeps old topics
    defaults = {
        "TTA_MODE": "auto",
        **model,
        "TTA_MODEL__SERVED_AS": "fashion",
        "TTA_STREAM__TOPIC": f"inference{run}",
        "TTA_STREAM__LABELS_TOPIC": f"inference{run}.labels",
        "TTA_STREAM__GROUP": f"tta-agent{run}",
        "TTA_STORE__PATH": str((out / "state").resolve()),
        **({"TTA_STREAM__BOOTSTRAP_SERVERS": brokers} if brokers else {}),
    }
    given = {name: value for name, value in os.environ.items() if name.startswith("TTA_")}
    os.environ.update({**defaults, **given, "TTA_STORE__PATH": defaults["TTA_STORE__PATH"]})
    settings = env.load()
    return settings, {name: value for name, value in os.environ.items() if name.startswith("TTA_")}
