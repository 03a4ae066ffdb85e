"""`tta-agent calibrate`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from tta_agent.core import process
from tta_agent.core.errors import ConfigError
from tta_agent.settings import env

if TYPE_CHECKING:
    from tta_agent.core.types import Answer, Array
    from tta_agent.evaluation.calibration import Answers, Null
    from tta_agent.models.loader import DeployedModel
    from tta_agent.settings.schema import Settings

JITTERS = 5
FIRST = 500  # records on which the jitter is chosen
T = TypeVar("T")


def calibrate(
    recording: Annotated[
        Path | None,
        typer.Argument(help="Folder of a recording; default: held-out records of the configured stream."),
    ] = None,
    records: Annotated[int, typer.Option(min=200, help="Look at so many records at most.")] = 10_000,
    windows: Annotated[int, typer.Option(min=10, help="Windows of each kind.")] = 200,
    follow_s: Annotated[float, typer.Option(help="Wait this long for more at the end of the topic.")] = 2.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, not as a table.")
    ] = False,
) -> None:
    """How often the gates speak when nothing differs: A/A runs on your own stream.

    Serving is judged against itself, with jittered weights and by halves of the stream. What the statistics do then
    becomes the threshold of the gates that need one, in calibration.json beside the registry; the table shows how
    often each gate of TTA_GATE__GATES would have spoken. Labels and anchor set are used where there are some.

    Try: tta-agent record tuesday && tta-agent calibrate tuesday
    """
    settings = env.load()
    process.budget(settings.model.threads)
    from tta_agent.assembly import build
    from tta_agent.evaluation.calibration import save

    source = build.load_source(settings)
    answers = _answers(settings, source, recording, records, follow_s)
    window = _window(settings.gate.window_records, len(answers.serving))
    nulls = _measure(settings, answers, window, windows)
    about = {
        "fingerprint": build.fingerprint(source.module), "window": window, "records": len(answers.serving),
        "labels": int((answers.labels >= 0).sum()),
    }  # fmt: skip
    path = save(settings.store.proofs or settings.store.path, nulls, **about)
    if as_json:
        print(json.dumps(json.loads(path.read_text(encoding="utf-8"))))
    else:
        _show(nulls, about, path, set(settings.gate.gates))


def _window(wanted: int, records: int) -> int:
    """As the gates use it; smaller where there are too few records: statistics scale, quantiles need many windows."""
    least = 100
    if records < 2 * least:
        raise ConfigError(f"{records} records are too few to calibrate with: expected {2 * least} or more")
    return max(least, min(wanted, records // 4))


def _measure(settings: Settings, answers: Answers, window: int, count: int) -> dict[str, Null]:
    from tta_agent.core import plugins
    from tta_agent.evaluation.calibration import runs, summary

    names = dict.fromkeys([*settings.gate.gates, "histogram", "concentration"])
    gates = {name: plugins.make("gates", name, settings.gate.options) for name in names}
    found = runs(answers, gates, window, count, settings.gate.alpha)
    return summary(_told(found, "judging windows", 2 * count))


def _answers(
    settings: Settings, source: DeployedModel, recording: Path | None, records: int, follow_s: float
) -> Answers:
    with tempfile.TemporaryDirectory() as scratch:
        folder = recording or _recorded(settings, Path(scratch) / "recording", records, follow_s)
        return _asked(settings, source, folder, records, held=recording is None)


def _recorded(settings: Settings, folder: Path, records: int, follow_s: float) -> Path:
    from tta_agent.stream import recorder

    # a share of them is held out, and only those are looked at
    recorder.record(settings, folder, round(records / settings.select.holdout), follow_s)
    return folder


def _asked(settings: Settings, source: DeployedModel, folder: Path, records: int, *, held: bool) -> Answers:
    import numpy as np

    from tta_agent.evaluation.calibration import Answers, ask, find_sigma, jittered
    from tta_agent.stream.batcher import held_out
    from tta_agent.stream.holdout import secret_of
    from tta_agent.stream.recordings.reader import Recording

    tape = Recording.open(folder)
    share, salt = settings.select.holdout, secret_of(settings.store.path) if held else b""
    rows = (row for row in tape if not held or held_out(row.key, share, salt))
    wanted = islice(rows, records)
    first = list(islice(wanted, FIRST))
    if not first:
        raise ConfigError(f"{folder}: no record to calibrate with; `tta-agent record` makes a recording")
    _fits(tape.model_input(first[:1]), source)
    sigma = find_sigma(source.module, tape.model_input(first))
    modules = [source.module, *(jittered(source.module, sigma, seed) for seed in range(1, JITTERS + 1))]
    logits: list[list[Array]] = [[] for _ in modules]
    labels: list[Answer] = []
    tenants: list[str] = []
    for chunk in _told(_chunks(first, wanted), "asking serving and its jittered copies", None):
        x = tape.model_input(chunk)
        for module, kept in zip(modules, logits, strict=True):
            kept.append(ask(module, x))
        labels += [-1 if row.label is None else row.label for row in chunk]
        tenants += [row.key for row in chunk]
    serving, *others = (np.concatenate(kept) for kept in logits)
    anchors = _anchors(settings, source, modules)
    truths = np.empty(len(labels), object)
    truths[:] = labels
    return Answers(serving, others, truths, tenants, anchors)


def _fits(x: Array, source: DeployedModel) -> None:
    if x.shape[1:] != tuple(source.shape):
        raise ConfigError(
            f"records have shape {list(x.shape[1:])}, the model takes {list(source.shape)}: "
            "is this the recording of another model?"
        )


def _anchors(settings: Settings, source: DeployedModel, modules: list[Any]) -> list[Any]:
    from tta_agent.assembly.rollout import load_anchor
    from tta_agent.evaluation.calibration import ask

    anchor = load_anchor(settings, source)
    if anchor is None:
        return [None] * (len(modules) - 1)
    told = _told(modules, "asking about the anchor set", len(modules))
    serving, *others = (anchor.answers(partial(ask, module)) for module in told)
    return [anchor.compare(serving, other) for other in others]


def _chunks(first: list[T], rest: Iterator[T], size: int = 500) -> Iterator[list[T]]:
    chunk = first
    while chunk:
        yield chunk
        chunk = list(islice(rest, size))


def _told(items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import track

    bar = Console(stderr=True)
    return iter(track(items, what, total=total, console=bar, transient=True, disable=not bar.is_terminal))


def _show(nulls: dict[str, Null], about: dict[str, Any], path: Path, configured: set[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    labels = about["labels"] or "no"
    title = f"A/A: {about['records']} records, windows of {about['window']}, {labels} labels"
    table = Table("gate", "99.5 % quantile", "windows", "fires in", title=title)
    for name, null in nulls.items():
        fires = f"[red]{null.fire_rate:.1%}[/red]" if null.fire_rate > 0.01 else f"{null.fire_rate:.1%}"
        shown = name if name in configured else f"{name} (not configured)"
        table.add_row(shown, f"{null.value:.4g}", str(null.windows), fires)
    console = Console()
    console.print(table)
    console.print(
        "A veto fires when it refuses an equal, a proof when it promotes one; above 1 % is worth a look."
    )
    console.print(f"written to {path}")
