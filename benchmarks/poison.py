"""Who sends what he should not: does the served version suffer, and is the gain still made?

python benchmarks/poison.py --quick --json OUT      (under five minutes on two cores)
python benchmarks/poison.py --json OUT              (longer streams, more seeds, two methods: an hour)

Each attack is played through the replay engine on the Fashion-MNIST net: clean images, then noisy ones, with 5 % or
20 % of the records by an attacker. Nobody knows which: these records teach, are held out, and get labels like any
other. Accuracy is that of the honest records, who are the users; all figures are points.

confident noise   images of noise that the source is sure of, all as one class
fgsm              honest images, moved against the source by the sign of the gradient
out of range      every value at 1e4 or -1e4, or noise of that size
wild pixel        honest images with one pixel of 1e20
lying labels      honest images, each by another client, labelled as another class
one client        the same, all by one client, whose key is held out for the gate
chosen keys       the same, by clients whose keys are all held out
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gate_streams as streams
import numpy as np
import torch
import torch.nn.functional as F

from tta_agent import corruptions
from tta_agent.assembly import build
from tta_agent.replay.engine import replay
from tta_agent.samples import dataset as images
from tta_agent.settings import env
from tta_agent.settings.named import merged
from tta_agent.stream.batcher import held_out
from tta_agent.stream.recordings.format import Row
from tta_agent.stream.recordings.writer import RecordingWriter

SHIFT = ("gaussian_noise", 4)
HOLDOUT, CLASSES, RATE = 0.2, 10, 100  # share held out, classes, records a second
WINDOW, STEP = 500, 100  # honest records of a window, and between two of them
LABELS = 0.5  # share of records whose label comes, five seconds later
SHARES = (0.05, 0.2)


def confident_noise(x, labels, net, random):
    """Noise, made sure of class 0 in ten steps."""
    noise = torch.rand(x.shape, generator=random)
    for _ in range(10):
        noise.requires_grad_()
        score = net(noise).log_softmax(1)[:, 0].sum()
        noise = (noise + 0.05 * torch.autograd.grad(score, noise)[0].sign()).clamp(0, 1).detach()
    return noise


def fgsm(x, labels, net, random):
    """Goodfellow et al., arXiv 1412.6572, by 0.1."""
    x = x.clone().requires_grad_()
    slope = torch.autograd.grad(F.cross_entropy(net(x), labels), x)[0]
    return (x + 0.1 * slope.sign()).clamp(0, 1).detach()


def out_of_range(x, labels, net, random):
    """A third each: high, low, noise."""
    far = torch.randn(x.shape, generator=random) * 1e4
    far[::3], far[1::3] = 1e4, -1e4
    return far


def wild_pixel(x, labels, net, random):
    """Somewhere."""
    x = x.clone()
    place = torch.randint(x[0].numel(), (len(x),), generator=random)
    x.flatten(1)[torch.arange(len(x)), place] = 1e20
    return x


INPUTS = {
    "confident noise": confident_noise,
    "fgsm": fgsm,
    "out of range": out_of_range,
    "wild pixel": wild_pixel,
}
LIES = ("lying labels", "one client", "chosen keys")
ATTACKS = (*INPUTS, *LIES)
REASONS = ("rejected_implausible", "held_out_implausible", "rounds_skipped", "rounds_nonfinite")


def key_of(attack, i):
    """The client's key; where it matters, one that is held out for the gate."""
    name = "mallory" if attack == "one client" else f"m{i}"
    if attack == "lying labels":
        return name
    return next(f"{name}-{n}" for n in itertools.count() if held_out(f"{name}-{n}", HOLDOUT))


def stream(attack, share, lengths, seed, net):
    """Inputs [n, ...], the labels that are sent, clients' keys, and which records are honest [n].

    The honest records are the same for all attacks; the attacker's stand between them.
    """
    some, random = images.read_npz(images.ASSETS / images.SHIPPED), np.random.default_rng(seed)
    total = sum(lengths)
    bad = np.zeros(round(total / (1 - share)), bool)
    bad[np.random.default_rng([seed, 1]).permutation(len(bad))[: len(bad) - total]] = True
    rows = random.permutation(len(some.labels))[:total]
    theirs = random.permutation(len(some.labels))[: bad.sum()]
    shifted = np.cumsum(~bad) > lengths[0]
    x, labels = torch.zeros(len(bad), *some.inputs.shape[1:]), np.zeros(len(bad), np.int64)
    for who, chosen in ((~bad, rows), (bad, theirs)):
        x[who], labels[who] = images_of(some, chosen, shifted[who], seed), some.labels[chosen]
    keys = [f"c{i}" for i in range(len(bad))]
    generator = torch.Generator().manual_seed(seed)
    if bad.any() and attack in INPUTS:
        truth = torch.from_numpy(labels[bad])
        parts = zip(x[bad].split(250), truth.split(250), strict=True)
        x[bad] = torch.cat([INPUTS[attack](part, some_labels, net, generator) for part, some_labels in parts])
    if bad.any() and attack in LIES:
        labels[bad] = (labels[bad] + random.integers(1, CLASSES, bad.sum())) % CLASSES
        keys = [key_of(attack, i) if bad[i] else key for i, key in enumerate(keys)]
    return x.numpy(), labels, keys, ~bad


def images_of(some, rows, shifted, seed):
    """Images in 0 .. 1, the last ones shifted."""
    x = torch.from_numpy(some.inputs[rows]).float() / 255
    late = torch.from_numpy(shifted)
    if late.any():
        x[late] = corruptions.corrupt(x[late], *SHIFT, seed=seed, constants="imagenet")
    return x


def written(folder, attack, x, labels, keys, honest):
    """As a recording; what is no image has no label."""
    with RecordingWriter(folder, model="fashion", classes=CLASSES) as writer:
        for i, (sample, label, key) in enumerate(zip(x, labels.tolist(), keys, strict=True)):
            known = honest[i] or attack not in INPUTS or attack == "fgsm"
            writer.add(Row(f"{i:06d}", i / RATE, key, sample, label=label if known else None))


def cell(job):
    """One attack played once."""
    attack, share, method, lengths, seed, screen = job
    torch.set_num_threads(1)
    flags = {"model": streams.models()["fashion"].flags, "adapt": {"method": method}, "mode": "auto"}
    flags = merged(flags, {"select": {"holdout": HOLDOUT, **({} if screen else {"screen": []})}})
    settings, seen = env.load(**flags), []
    net = build.load_source(settings).module
    with tempfile.TemporaryDirectory(prefix="poison-") as scratch:
        folder = Path(scratch) / "recording"
        x, labels, keys, honest = stream(attack, share, lengths, seed, net)
        written(folder, attack, x, labels, keys, honest)
        found = replay(
            folder,
            settings,
            label_rate=LABELS,
            label_delay_s=5.0,
            seed=seed,
            scratch=Path(scratch),
            marks=seen.append,
        )
    right = {who: 100.0 * seen[0].right[who][honest] for who in ("served", "source")}
    below = right["source"] - right["served"]
    windows = [below[i : i + WINDOW].mean() for i in range(0, len(below) - WINDOW + 1, STEP)]
    return {
        "served": right["served"].mean(), "source": right["source"].mean(), "worst_window": max(windows),
        "swaps": len(found["swaps"]), "rollbacks": len(found["rollbacks"]),
        "first_swap": found["swaps"][0]["record"] if found["swaps"] else None,
        **{name: found["kept_by_reason"].get(name, 0) for name in REASONS},
    }  # fmt: skip


def gathered(rows):
    """Several runs of one attack: means, the worst of the worst windows, and sums."""
    swaps = [row["first_swap"] for row in rows if row["first_swap"] is not None]
    sums = ("swaps", "rollbacks", *REASONS)
    return {
        **{name: round(float(np.mean([row[name] for row in rows])), 2) for name in ("served", "source")},
        "worst_window": round(max(float(row["worst_window"]) for row in rows), 2),
        "runs": len(rows),
        "first_swap": round(float(np.mean(swaps))) if swaps else None,
        **{name: sum(row[name] for row in rows) for name in sums},
    }


def told(name, row):
    """A line for people."""
    return (
        f"{name}: served {row['served']:.1f}, source {row['source']:.1f}, worst window {row['worst_window']:.1f} "
        f"below; {row['swaps']} swaps in {row['runs']} runs, the first at {row['first_swap']}, {row['rollbacks']} "
        f"taken back; {row['rejected_implausible']} left out"
    )


def planned(asked):
    """The jobs of each attack, by its name."""
    lengths, seeds = ((500, 3000), (0,)) if asked.quick else ((1000, 6000), range(asked.seeds))
    methods = asked.methods.split(",")
    shares = [("none", 0.0), *itertools.product(asked.attacks.split(","), SHARES)]
    return {
        f"{attack} {share:.0%}" if share else attack: [
            (attack, share, method, lengths, seed, not asked.unscreened)
            for method in methods
            for seed in seeds
        ]
        for attack, share in shares
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one seed of 3,500 honest records, TENT")
    parser.add_argument("--attacks", default=",".join(ATTACKS), help=f"of {', '.join(ATTACKS)}")
    parser.add_argument("--methods", help="default tent; norm,tent without --quick")
    parser.add_argument("--seeds", type=int, default=3, help="of each attack, without --quick")
    parser.add_argument("--unscreened", action="store_true", help="with TTA_SELECT__SCREEN=[]")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 2))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    asked.methods = asked.methods or ("tent" if asked.quick else "norm,tent")
    plan, found, began_s = planned(asked), {}, time.monotonic()
    with ProcessPoolExecutor(asked.workers, multiprocessing.get_context("spawn")) as pool:
        futures = {name: [pool.submit(cell, job) for job in jobs] for name, jobs in plan.items()}
        for name, jobs in futures.items():
            found[name] = row = gathered([job.result() for job in jobs])
            print(told(name, row), flush=True)
    result = {"attacks": found, "unit": "points", "seconds": round(time.monotonic() - began_s, 1)}
    text = json.dumps(result, indent=1)
    asked.json.write_text(text + "\n") if asked.json else print(text)


if __name__ == "__main__":
    main()
