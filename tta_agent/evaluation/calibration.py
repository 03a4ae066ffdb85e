"""A/A runs: the gates' statistics where nothing differs, on the user's own stream.

Two kinds of pairs that are no better and no worse than each other: serving against itself with jittered weights, on
the same records, and every second record of serving's answers against the others. The 99.5 % quantile over many
windows is the threshold below which a gate that needs a null (histogram, concentration) does not speak, and the share
of windows in which a configured gate fires says how often it would stop, or promote, for nothing. Published detectors
that lean on exchangeability fire on nearly every real stream; windows here keep the stream's order for that reason.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tta_agent.core import json_text, task
from tta_agent.core.atomic_files import write_atomic
from tta_agent.core.errors import ConfigError
from tta_agent.core.evidence import AnchorResult, Evidence, LabelledPair
from tta_agent.core.protocols import Gate
from tta_agent.core.types import Array, GateResult

FILE = "calibration.json"
QUANTILE = 0.995
APART = 0.01  # share of answers in which a jittered copy differs
UNPAIRED = frozenset(
    {"collapse", "histogram", "concentration", "rank"}
)  # gates that do not compare record by record
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answers:
    """Sample of a stream: logits [N, C] in order of arrival, labels [N] (-1: none), tenant of each record [N]."""

    serving: Array
    jittered: Sequence[Array]
    labels: Array
    tenants: Sequence[str]
    anchors: Sequence[AnchorResult | None]


@dataclass(frozen=True, slots=True)
class Null:
    """One gate: the 99.5 % quantile of its statistic, over so many windows, and the share in which it fires."""

    value: float
    windows: int
    fire_rate: float


def jittered(module: nn.Module, sigma: float, seed: int) -> nn.Module:
    """A copy with every parameter multiplied by 1 + sigma N(0, 1)."""
    module = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.device, parameter.dtype)
            parameter.mul_(1 + sigma * noise)
    return module


def find_sigma(module: nn.Module, x: Array, share: float = APART, steps: int = 12) -> float:
    """The jitter with which about `share` of the answers on x differ, by bisection of its logarithm."""
    low, high, before = math.log(1e-5), math.log(1.0), ask(module, x)
    for _ in range(steps):
        middle = (low + high) / 2
        apart = float(task.differs(ask(jittered(module, math.exp(middle), 0), x), before).mean())
        low, high = (middle, high) if apart < share else (low, middle)
    return math.exp((low + high) / 2)


@torch.no_grad()
def ask(module: nn.Module, x: Array, batch: int = 100) -> Array:
    """Logits [N, C] of inputs [N, ...], in inference mode."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    parts = [
        module(torch.from_numpy(x[i : i + batch]).to(device)).float().cpu() for i in range(0, len(x), batch)
    ]
    return np.asarray(torch.cat(parts).numpy())


def runs(
    answers: Answers, gates: Mapping[str, Gate], window: int, count: int, alpha: float
) -> Iterator[list[tuple[str, float, bool]]]:
    """`count` windows of each kind, spread evenly: for each the gates' names, statistics, and whether they fire.

    Raises:
        ConfigError: fewer than two windows of records.
    """
    n = len(answers.serving)
    if n < 2 * window:
        raise ConfigError(
            f"{n} records are too few for windows of {window}: expected {2 * window} or more. "
            "Record more, or set TTA_GATE__WINDOW_RECORDS lower"
        )
    starts = np.linspace(0, n - 2 * window, count).round().astype(int)
    for i, start in enumerate(starts):
        which = i % len(answers.jittered)
        pair = _paired(answers, which, slice(start, start + window), alpha)
        yield [_one(name, gate, pair) for name, gate in gates.items()]
        both = answers.serving[start : start + 2 * window]
        halves = Evidence(both[::2], both[1::2], 0, 0, 0, alpha)
        yield [_one(name, gate, halves) for name, gate in gates.items() if name in UNPAIRED]


def summary(found: Iterator[list[tuple[str, float, bool]]]) -> dict[str, Null]:
    """By gate, over all windows."""
    values: dict[str, list[tuple[float, bool]]] = {}
    for window in found:
        for name, value, fires in window:
            values.setdefault(name, []).append((value, fires))
    return {name: _null(seen) for name, seen in values.items()}


def _null(seen: list[tuple[float, bool]]) -> Null:
    numbers, fires = zip(*seen, strict=True)
    value = float(np.quantile(numbers, QUANTILE, method="higher"))
    return Null(value, len(seen), sum(fires) / len(seen))


def _paired(answers: Answers, which: int, rows: slice, alpha: float) -> Evidence:
    serving, candidate = answers.serving[rows], answers.jittered[which][rows]
    pairs = zip(
        answers.labels[rows].tolist(), task.answers(serving), task.answers(candidate),
        answers.tenants[rows], strict=True,
    )  # fmt: skip
    judged = tuple(LabelledPair(*pair) for pair in pairs if pair[0] != -1)
    steps = [one.step for one in judged]
    return Evidence(
        serving, candidate, steps.count(1), steps.count(-1), len(judged), alpha, judged=judged, source=serving,
        proven=serving, tenants=answers.tenants[rows], anchor=answers.anchors[which],
    )  # fmt: skip


def _one(name: str, gate: Gate, evidence: Evidence) -> tuple[str, float, bool]:
    finding = gate.judge(evidence)
    return name, _statistic(finding, len(evidence.serving)), finding.verdict == _fires(gate)


def _fires(gate: Gate) -> str:
    """A veto errs by saying no to an equal, a proof by saying yes."""
    return "pass" if getattr(gate, "proof", None) else "fail"


def _statistic(finding: GateResult, n: int) -> float:
    """As `Evidence.null` holds it: of the histogram 4 N JS, which does not depend on the window's length."""
    return finding.value * 4 * n if finding.gate == "histogram" else finding.value


def save(folder: Path, nulls: Mapping[str, Null], **about: Any) -> Path:
    """Write `calibration.json`; `about` names fingerprint, window and records."""
    gates = {
        name: {
            "quantile": QUANTILE,
            "value": null.value,
            "windows": null.windows,
            "fire_rate": null.fire_rate,
        }
        for name, null in nulls.items()
    }
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    write_atomic(path, (json.dumps({"made": made, **about, "gates": gates}, indent=1) + "\n").encode())
    return path


def load(folder: Path, fingerprint: str | None = None) -> dict[str, float]:
    """Quantiles by gate, for `Evidence.null`; empty where none were made, or (with a warning) for another model.

    Raises:
        ConfigError: the file is damaged.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return {}
    try:
        found = json_text.parse_object(path.read_bytes())
        nulls = {name: float(gate["value"]) for name, gate in found["gates"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is damaged ({error}): remove it, or make it again by `tta-agent calibrate`"
        ) from None
    if fingerprint and found.get("fingerprint") != fingerprint:
        log.warning("%s was made for another model and is not used: run `tta-agent calibrate` again", path)
        return {}
    return nulls
