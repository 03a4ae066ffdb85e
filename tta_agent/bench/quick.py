"""The option `--quick`: the published row of every method in ten minutes on two cores."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tta_agent.bench.plan import BenchPlan, Cell
from tta_agent.bench.predict import Predictor, at_once
from tta_agent.bench.report import nearest_lag
from tta_agent.bench.summary import ResultTable
from tta_agent.bench.work import Result

# Two of noise and of digital, one of blur and of weather; 5 of them are the ones that hurt this kind of net most.
CORRUPTIONS = ("gaussian_noise", "impulse_noise", "glass_blur", "fog", "contrast", "jpeg_compression")
BUDGET_S = 490.0  # of ten minutes, so that a machine that slows down still ends in time
HEAVY = 8.0  # a round of more plain forwards than this gets the fewest images
FEWEST, MOST, STEP = 800, 4000, 200
STARTING_S = 8.0  # of the workers

BAR = ("source", "online", "forwards", "backwards")
BAR_AT_LAG = ("served", "served_second_half", "online_same", "online_second_half")


def fit(plan: BenchPlan, predict: Predictor, spent_s: float, workers: int) -> dict[str, int]:
    """Number of images of each corruption, by method, that fit into the rest of the budget.

    All methods but the heavy ones get the same number: the largest in steps of `STEP` up to `MOST`. The heavy
    ones get `FEWEST`, or what the file holds.

    Args:
        plan: its stream has all images of the file.
        spent_s: seconds so far.
    """
    names = [contender.name for contender in plan.contenders]
    fewest, most, batch = min(FEWEST, plan.stream.images), min(MOST, plan.stream.images), plan.batches[0]
    few = dict.fromkeys(names, fewest)
    heavy = {n for n in names if predict.timings.get((n, batch), {}).get("step_over_forward", 0) > HEAVY}
    cells, theirs = plan.accuracies(few), plan.peers(few)
    left_s = (BUDGET_S - spent_s - STARTING_S) * at_once(workers) - sum(map(predict, theirs))

    def seconds(images: int) -> float:
        grown = [cell if cell.contender.name in heavy else _of(cell, images) for cell in cells]
        return sum(map(predict, grown))

    fits = next((size for size in range(most, fewest, -STEP) if seconds(size) <= left_s), fewest)
    return {name: fewest if name in heavy else fits for name in names}


def _of(cell: Cell, images: int) -> Cell:
    return dataclasses.replace(cell, stream=dataclasses.replace(cell.stream, images=images))


def rows(
    table: ResultTable, cells: Sequence[Cell], lags: Sequence[int], timings: Mapping[tuple[str, int], Result]
) -> dict[str, dict[str, Any]]:
    """Row of each method: accuracies 0 .. 1, passes in batches' worth, time in plain forwards.

    `served` and `served_second_half` are answers of frozen snapshots, one image at a time; `online_same` and
    `online_second_half` are the online answers to the same records.
    """
    lag, batch = nearest_lag(lags), table.place[1]
    mine = [c for c in cells if c.kind == "accuracy" and (c.stream.protocol, c.stream.batch) == table.place]
    found = {}
    for method, row in table.rows.items():
        images = next(c.stream.images for c in mine if c.contender.name == method)
        plain = {name: row[name].mean for name in BAR if name in row}
        at_lag = {name: row[f"{name}@{lag}"].mean for name in BAR_AT_LAG if f"{name}@{lag}" in row}
        time = timings.get((method, batch), {}).get("step_over_forward")
        found[method] = {
            **plain, **at_lag, "step_over_forward": time, "images": images,
            "corruptions": len(table.domains[method]), "batch": batch, "lag": lag,
        }  # fmt: skip
    return found
