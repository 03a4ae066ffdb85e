"""Records from a shift to the certified swap, by the share of labels and by their delay."""

from __future__ import annotations

import tempfile
from pathlib import Path

import gate_streams as streams
import numpy as np
import torch

from tta_agent import corruptions
from tta_agent.assembly import build
from tta_agent.samples import dataset as images
from tta_agent.settings import env
from tta_agent.telemetry.facade import Telemetry

RATES = (0.3, 0.1, 0.02, streams.REQUESTED)
DELAYS = (0, 500, 5000)  # records
RECORD_S = 0.01  # between two records of a recording
CLEAN, MOST = 1000, 4000  # records before the shift, and after the first label that may come
SHIFTS = (("gaussian_noise", 4), ("contrast", 5))


def cells(nets, *, quick, seeds):
    """Jobs of `delay_of`: (model, shift, rate, delay, seed)."""
    return [
        (net, shift, rate, delay, seed)
        for delay in ((500,) if quick else DELAYS)
        for rate in RATES
        for net in nets
        for shift in SHIFTS[: 1 if quick else None]
        for seed in range(seeds)
    ]


def delay_of(job):
    """Records from the shift to the swap, None where there is none, and what came before it."""
    model, shift, rate, delay, seed = job
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="gate-delay-") as scratch:
        stretches = [(None, 0, CLEAN), (*shift, delay + MOST)]
        folder = streams.recording(model, stretches, seed, Path(scratch))
        late = {"label_delay_s": delay * RECORD_S}
        found = streams.play(folder, model, "norm", seed, rate, **late)
    swapped, born = (_first_after(found["events"], name) for name in ("swap", "candidate"))
    return {
        "model": model.name, "shift": shift[0], "rate": rate, "delay": delay, "seed": seed, "records": swapped,
        "candidate": born, "labels": found["labels_arrived"], "source": found["source_accuracy"],
        "served": found["served_accuracy"],
    }  # fmt: skip


def _first_after(events, name):
    """Records from the shift to the first such event, None where there is none."""
    places = (event["record"] - CLEAN for event in events if event["event"] == name)
    return next((place for place in places if place > 0), None)


def table(rows):
    """By rate, at the delay of 500 records, and by delay and rate: median and 90 % quantile; None: too few swaps."""
    by = {delay: _by_rate([row for row in rows if row["delay"] == delay]) for delay in DELAYS}
    found = {str(delay): rates for delay, rates in by.items() if rates}
    return {"delay": found.get("500", {}), "delay_by_label_delay": found, "delay_runs": rows}


def _by_rate(rows):
    rates = {rate: [row["records"] for row in rows if row["rate"] == rate] for rate in RATES}
    return {str(rate): _quantiles(records) for rate, records in rates.items() if records}


def _quantiles(records):
    known = [np.inf if n is None else n for n in records]
    median, p90 = (float(np.quantile(known, q, method="higher")) for q in (0.5, 0.9))
    return {
        "median": median if np.isfinite(median) else None, "p90": p90 if np.isfinite(p90) else None,
        "runs": len(known), "swapped": int(np.isfinite(known).sum()),
    }  # fmt: skip


def transductive(model, method, shift, seeds, rounds=8, batch=64):
    """Gain on the records that taught a candidate, less its gain on held-out twins: mean and standard error, points.

    Twins are as many other records of the same stretch: only that the copy has seen the first ones, without their
    labels, differs.
    """
    some, found = images.read_npz(model.data), []
    settings = env.load(model=model.flags, adapt={"method": method}, mode="shadow")
    source, many = build.load_source(settings), rounds * batch
    mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (source.mean, source.std))
    for seed in seeds:
        rows = np.random.default_rng(seed).permutation(len(some.labels))[: 2 * many]
        x = torch.from_numpy(some.inputs[rows]).float() / 255
        x = (corruptions.corrupt(x, shift[0], shift[1], seed=seed, constants=model.constants) - mean) / std
        copy = build.make_adaptation(settings, source, Telemetry.off())
        for start in range(0, many, batch):
            copy.round(x[start : start + batch].numpy())
        with torch.no_grad():
            answers = [net(x).argmax(1).numpy() for net in (copy.adapter.servable(), source.module)]
        gain = (answers[0] == some.labels[rows]).astype(float) - (answers[1] == some.labels[rows])
        found.append(100 * (gain[:many].mean() - gain[many:].mean()))
    return float(np.mean(found)), float(np.std(found, ddof=1) / len(found) ** 0.5)
