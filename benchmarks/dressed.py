"""Anchor images dressed as what arrives: does the gain on them tell the gain on the stream, without a label?

python benchmarks/dressed.py --json OUT        (both CIFAR nets, 15 corruptions of 5 severities, and clean)

A dressed image has the spectrum, by channel, of the window; its label is known.
The gain of a candidate on 500 dressed anchor images is compared with its gain on 500 other images of the stream. It
only counts where the source answers the dressed images as it answers the window: in confidence, entropy, classes.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gate_streams as streams
import numpy as np
import torch

from tta_agent import corruptions
from tta_agent.assembly import build
from tta_agent.samples import dataset as images
from tta_agent.settings import env
from tta_agent.telemetry.facade import Telemetry

WINDOW, LEARN, BATCH = 500, 640, 64
ALIKE = {
    "confidence": 0.05,
    "entropy": 0.15,
    "classes": 0.15,
}  # nats; total variation of the predicted classes


def scaled(x, window):
    """Images [N, C, S, S] with the channels' means and mean amplitude spectra of the window, in [0, 1]."""
    here, there = (torch.fft.rfft2(a) for a in (x, window))
    ratio = there.abs().mean(0) / here.abs().mean(0).clamp_min(1e-8)
    return torch.fft.irfft2(here * ratio, s=x.shape[-2:]).clamp(0, 1)


def noised(x, window):
    """The same power spectra: what the window has less of is filtered, what it has more of is added as noise."""
    here, there = (torch.fft.rfft2(a) for a in (x, window))
    power, wanted = here.abs().square().mean(0), there.abs().square().mean(0)
    kept = here * (wanted / power.clamp_min(1e-8)).clamp(max=1).sqrt()
    noise = torch.fft.rfft2(torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
    noise[..., 0, 0] = (there.mean(0) - here.mean(0))[..., 0, 0].real  # brightness is no noise
    more = (wanted - power).clamp_min(0) / x[0, 0].numel()
    more[..., 0, 0] = 1
    return torch.fft.irfft2(kept + noise * more.sqrt(), s=x.shape[-2:]).clamp(0, 1)


DRESSINGS = {"scaled": scaled, "noised": noised}


def apart(one, other):
    """How differently two sets of logits [N, C] answer."""
    p, q = (logits.softmax(1) for logits in (one, other))
    entropies = [float(-(a * a.clamp_min(1e-12).log()).sum(1).mean()) for a in (p, q)]
    hist = [torch.bincount(a.argmax(1), minlength=a.shape[1]) / len(a) for a in (p, q)]
    return {
        "confidence": abs(float(p.max(1)[0].mean() - q.max(1)[0].mean())),
        "entropy": abs(entropies[0] - entropies[1]),
        "classes": float((hist[0] - hist[1]).abs().sum() / 2),
    }


def scenarios(model, source, anchor, seed, dressing, levels):
    """A row for each corruption and severity."""
    some, random = images.read_npz(model.data), np.random.default_rng(seed)
    mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (source.mean, source.std))
    settings = env.load(model=model.flags, adapt={"method": "norm"}, mode="shadow")
    shifts = [(None, 0), *((name, level) for name in corruptions.NAMES for level in levels)]
    for name, level in shifts:
        rows = random.permutation(len(some.labels))[: LEARN + 2 * WINDOW]
        x = torch.from_numpy(some.inputs[rows]).float() / 255
        if name:
            x = corruptions.corrupt(x, name, level, seed=seed, constants=model.constants)
        copy = build.make_adaptation(settings, source, Telemetry.off())
        for start in range(0, LEARN, BATCH):
            copy.round(((x[start : start + BATCH] - mean) / std).numpy())
        nets = (source.module, copy.adapter.servable())
        window, held = x[LEARN : LEARN + WINDOW], x[LEARN + WINDOW :]
        own, labels = dressing(torch.from_numpy(anchor.inputs).float() / 255, window), anchor.labels
        with torch.no_grad():
            at = [[net((a - mean) / std) for net in nets] for a in (own, held, window)]
        true, told = gain(at[1], some.labels[rows[LEARN + WINDOW :]]), gain(at[0], labels)
        far = apart(at[0][0], at[2][0])
        yield {
            "shift": name or "clean", "severity": level, "gain": true, "told": told, "apart": far,
            "alike": all(far[key] <= ALIKE[key] for key in ALIKE),
        }  # fmt: skip


def gain(pair, labels):
    """Accuracy of the second less that of the first."""
    right = [(logits.argmax(1).numpy() == labels).mean() for logits in pair]
    return float(right[1] - right[0])


def rule(rows, margin):
    """Promote where the source answers alike and the gain on dressed images exceeds `margin`."""
    promoted = [row["alike"] and row["told"] > margin for row in rows]
    useful = {k: [p for p, row in zip(promoted, rows, strict=True) if row["gain"] >= k] for k in (0.05, 0.03)}
    harmful = [p and row["gain"] < 0 for p, row in zip(promoted, rows, strict=True)]
    return {
        "margin": margin, "promoted": sum(promoted), "harmful": sum(harmful),
        **{f"power_{k:g}": float(np.mean(found)) for k, found in useful.items()},
    }  # fmt: skip


def main():
    """Both CIFAR nets."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--json", type=Path)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--nets", default="cifar,zeropad")
    asked.add_argument("--levels", default="1,2,3,4,5")
    asked.add_argument("--dressing", choices=DRESSINGS, default="noised")
    asked = asked.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name in asked.nets.split(","):
        model = streams.models().get(name)
        if model is None:
            print(f"{name}: its weights are not here")
            continue
        source = build.load_source(env.load(model=model.flags, adapt={"method": "norm"}, mode="shadow"))
        some = images.read_npz(streams.SHARED / "cifar10_source.npz")
        anchor = images.LabelledImages(some.inputs[:WINDOW], some.labels[:WINDOW])
        levels = map(int, asked.levels.split(","))
        dressing = DRESSINGS[asked.dressing]
        rows = list(scenarios(model, source, anchor, asked.seed, dressing, list(levels)))
        found[name] = {"rows": rows, "rules": [rule(rows, margin) for margin in (0.0, 0.01, 0.03)]}
        error = [abs(row["told"] - row["gain"]) for row in rows if row["alike"]]
        print(f"{name}: alike {len(error)} of {len(rows)}, mean error {100 * np.mean(error):.1f} points")
        for row in rows:
            shift, gains = f"{row['shift']} {row['severity']}", (100 * row["gain"], 100 * row["told"])
            print(f"  {shift:20} gain {gains[0]:+6.1f} told {gains[1]:+6.1f} {'alike' * row['alike']}")
        print(*found[name]["rules"], sep="\n")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
