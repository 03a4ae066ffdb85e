"""How soon is a change of what arrives seen, and how often is one seen that is none?

python benchmarks/domains.py

By the agent's own `BlockMeans`, on real images and what the nets say to them: steady streams of one kind for the
false ones, clean images before a corruption and the other way round for the delay. And which kinds are taken for
each other.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gate_streams as streams
import numpy as np
import torch

from tta_agent import corruptions
from tta_agent.assembly import build
from tta_agent.drift.block_means import BLOCK, BlockMeans
from tta_agent.drift.regime import FITTING, DataRegime
from tta_agent.samples import dataset as images
from tta_agent.settings import env

KINDS = (
    (None, 0), ("gaussian_noise", 4), ("impulse_noise", 4), ("contrast", 5), ("defocus_blur", 3), ("shot_noise", 4),
    ("frost", 4), ("brightness", 1),
)  # fmt: skip
FAR = ("gaussian_noise", "impulse_noise", "contrast")  # from clean images, for every net
STEADY = 6000  # blocks
BEFORE, AFTER = 80, 188  # blocks until the change, and from it


def answers(model):
    """By kind of images: signatures [4000, d]; and the labels [4000]."""
    some = images.read_npz(model.data)
    source = build.load_source(env.load(model=model.flags, mode="shadow"))
    rows = np.random.default_rng(0).permutation(len(some.labels))[:4000]
    mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (source.mean, source.std))
    found = {}
    for name, severity in KINDS:
        x = torch.from_numpy(some.inputs[rows]).float() / 255
        if name:
            x = corruptions.corrupt(x, name, severity, seed=0, constants=model.constants)
        x = (x - mean) / std
        with torch.no_grad():
            logits = torch.cat([source.module(part) for part in x.split(200)])
        found[name or "clean"] = BlockMeans().features(logits.numpy(), x.numpy())
    return found, some.labels[rows]


def ordered(labels, order, random, count):
    """Rows in an order of arrival, as many as asked for."""
    rows: list[int] = []
    while len(rows) < count:
        mixed = random.permutation(len(labels))
        rows += list(mixed if order == "i.i.d." else streams.in_runs(mixed, labels, random))
    return np.array(rows[:count])


def changes(rows):
    """For each block the regime that has ended with it, or None."""
    return [report.ended for report in BlockMeans().update(rows).blocks]


def delay(one, other, rows, more):
    """Records of the other kind until the change is seen; None where it is not."""
    seen = changes(np.concatenate([one[rows], other[more]]))
    late = [i - BEFORE + 1 for i, ended in enumerate(seen) if ended and i >= BEFORE]
    return late[0] * BLOCK if late else None


def confused(known, numbers):
    """Pairs of kinds, of one net, of which the other is taken for the one in more than half of 200 looks; and all."""
    random = np.random.default_rng(2)
    pairs = [
        (net, one, other) for net, kinds in known.items() for one in kinds for other in kinds if one != other
    ]
    found = []
    for net, one, other in pairs:
        own, others = (_blocks(known[net][kind][:, :numbers], random) for kind in (one, other))
        domain = DataRegime(own[:64])
        fits = [domain.fits(others[random.permutation(len(others))[:FITTING]]) for _ in range(200)]
        if np.mean(fits) > 0.5:
            found.append(f"{net}: {other} for {one}")
    return found, len(pairs)


def _blocks(rows, random):
    mixed = rows[random.permutation(len(rows))]
    return mixed[: len(rows) // BLOCK * BLOCK].reshape(-1, BLOCK, rows.shape[1]).mean(1)


def main():
    torch.set_num_threads(1)
    known = {name: answers(model) for name, model in streams.models().items() if name != "layers"}
    for order in ("i.i.d.", "classes in runs of 25"):
        random = np.random.default_rng(1)
        false, delays = [], []
        for rows_of, labels in known.values():
            for kind, z in rows_of.items():
                rows = ordered(labels, order, random, STEADY * BLOCK)
                false.append(1000 * sum(ended is not None for ended in changes(z[rows])) / STEADY)
                for one, other in (("clean", kind), (kind, "clean")) if kind in FAR else ():
                    parts = (
                        [ordered(labels, order, random, n * BLOCK) for n in (BEFORE, AFTER)] for _ in range(6)
                    )
                    delays += [delay(rows_of[one], rows_of[other], *part) for part in parts]
        late = [d for d in delays if d is not None]
        print(
            f"{order}: of 1,000 steady blocks {np.mean(false):.2f} called changed, {max(false):.1f} at most; a "
            f"change seen after {np.median(late):.0f} records, {np.quantile(late, 0.9):.0f} in nine of ten, "
            f"{max(late)} at most, "
            f"{len(delays) - len(late)} of {len(delays)} not in {AFTER * BLOCK:,}"
        )

    kinds = {name: rows_of for name, (rows_of, _) in known.items()}
    for numbers, what in ((2, "what the source says"), (5, "that and what the inputs are")):
        taken, pairs = confused(kinds, numbers)
        print(
            f"by {what} {len(taken)} of {pairs} pairs of kinds are taken for the same",
            *taken[:10],
            sep="\n  ",
        )


if __name__ == "__main__":
    main()
