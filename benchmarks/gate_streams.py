"""Whole policies over streams of real images on which keeping the source is often right: regret and harm."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tta_agent import corruptions
from tta_agent.replay.engine import replay
from tta_agent.samples import dataset as images
from tta_agent.settings import env
from tta_agent.settings.named import merged
from tta_agent.stream.recordings.reader import Preprocessing, Recording, import_npz

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
UNGATED = {
    "gate": {"gates": ["tta_agent.testing:Anything"], "min_interval_s": 0, "swaps_per_day": 100000},
    "watch": {"bake_records": 1},  # of labels, and it gets none
}
STEP = 100  # records between the beginnings of two windows
REQUESTED = "requested"  # labels: only those that the agent asks for
DAILY = 1600  # of these at most, a quarter of them at once


@dataclass(frozen=True)
class Model:
    """A net with its images; `constants` are those of the corruptions."""

    name: str
    data: Path
    flags: dict
    constants: str


def models():
    """What there is on this machine; the first one always is."""
    fashion = {
        "factory": "tta_agent.samples.nets:fashion_net",
        "weights": str(images.ASSETS / images.WEIGHTS),
        "input_shape": [1, 28, 28],
    }
    found = {"fashion": Model("fashion", images.ASSETS / images.SHIPPED, fashion, "imagenet")}
    for name, weights in (("cifar", "cifar10_resnet20"), ("zeropad", "cifar10_resnet20_zeropad")):
        if (SHARED / f"{weights}.safetensors").exists():
            flags = {
                "factory": "tta_agent.bench.nets:resnet20",
                "weights": str(SHARED / f"{weights}.safetensors"),
                "input_shape": [3, 32, 32],
            }
            found[name] = Model(name, SHARED / "cifar10_test.npz", flags, "cifar")
    layers = {
        "factory": "tta_agent.bench.nets:fashion_ln",
        "weights": str(Path(__file__).parent / "weights" / "fashion_ln.safetensors"),
        "input_shape": [1, 28, 28],
    }
    return {"layers": Model("layers", images.ASSETS / images.SHIPPED, layers, "imagenet"), **found}


DRIFTING = [
    "gaussian_noise",
    "impulse_noise",
    "shot_noise",
    "contrast",
    "frost",
    "brightness",
    "gaussian_noise",
]
STRUCTURES = {  # (corruption, severity) and records of each stretch
    "clean": [(None, 0, 4000)],
    "mild": [("brightness", 1, 4000)],
    "shift": [(None, 0, 1000), ("gaussian_noise", 4, 4000)],
    "contrast": [("contrast", 5, 4000)],
    "alternating": [(None, 0, 500), ("impulse_noise", 4, 500)] * 4,
    "correlated": [(None, 0, 1000), ("gaussian_noise", 4, 3000)],
    "returning": [(None, 0, 1000), ("gaussian_noise", 4, 1050), (None, 0, 2950)],
    "drifting": [(None, 0, 1000), *((name, 4, 1000) for name in DRIFTING)],
    "frost": [("frost", 5, 4000)],
    "snow": [("snow", 5, 4000)],
}
GRID = ("clean", "mild", "shift", "contrast", "alternating", "correlated", "returning")
FAST = {"options": {"tent": {"lr": 0.01}}}
HARMFUL = (  # (net, stream, method, its settings): keeping the source is right, or TENT ruins what statistics gain
    ("layers", "snow", "tent", FAST), ("fashion", "frost", "tent", FAST), ("zeropad", "clean", "norm", {}),
    ("zeropad", "clean", "tent", {}),
)  # fmt: skip


def recording(model, structure, seed, folder, stretch=1):
    """The stream, by its name or its stretches, as a recording; its domains last `stretch` times as long."""
    stretches = STRUCTURES[structure] if isinstance(structure, str) else structure
    some = images.read_npz(model.data)
    random = np.random.default_rng(seed)
    order = random.permutation(len(some.labels))
    parts, labels, domains, taken = [], [], [], 0
    for name, severity, count in ((name, level, n * stretch) for name, level, n in stretches):
        rows = np.take(order, range(taken, taken + count), mode="wrap")
        if structure == "correlated":
            rows = in_runs(rows, some.labels, random)
        taken += count
        x = torch.from_numpy(some.inputs[rows]).float() / 255
        if name:
            x = corruptions.corrupt(x, name, severity, seed=seed, constants=model.constants)
        parts.append((x * 255).round().to(torch.uint8).numpy())
        labels.append(some.labels[rows])
        domains += [name or "clean"] * count
    npz = folder / "arrays.npz"
    np.savez(npz, inputs=np.concatenate(parts), labels=np.concatenate(labels), domain=np.array(domains))
    import_npz(
        npz, folder / "recording", model=model.name, preprocessing=Preprocessing(1 / 255, (0.0,), (1.0,))
    )
    return folder / "recording"


def in_runs(rows, labels, random):
    """Classes in runs of about 25."""
    piles = {c: list(rows[labels[rows] == c]) for c in np.unique(labels[rows])}
    found = []
    while piles:
        c = random.choice(list(piles))
        found += [piles[c].pop() for _ in range(min(25, len(piles[c])))]
        if not piles[c]:
            del piles[c]
    return np.array(found)


def cell(job):
    """One method on one stream: what the gate served, and what keeping the source and no gate at all would have."""
    model, structure, seed, labels, stretch, method = job
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="gate-") as scratch:
        folder = recording(model, structure, seed, Path(scratch), stretch)
        one = play(folder, model, method, seed, labels)
        ungated = play(folder, model, method, seed, 0.0, UNGATED)
    return {
        "model": model.name, "structure": structure, "seed": seed, "method": method,
        "source": one["source_accuracy"], "served": one["served_accuracy"], "ungated": ungated["served_accuracy"],
        "swaps": len(one["swaps"]), "rollbacks": len(one["rollbacks"]),
        "labels_arrived": one["labels_arrived"], "labels_used": one["labels_used"],
        "labels_per_swap": one["labels_per_swap"],
        "followed": sum(event["event"] in ("fallback", "reinstated") for event in one["events"]),
        "records": one["records"], "below": _worst_after_first_swap(one, 500),
        "below_in_2000": _worst_after_first_swap(one, 2000),
    }  # fmt: skip


def compared(rows):
    """The methods on one stream, each with its regret: against the best of the source and of any, always adapting."""
    best = max(max(row["source"], row["ungated"]) for row in rows)
    for row in rows:
        row |= {"best": best, "regret": best - row["served"], "late_records": _late_records(row, best)}
    return rows


def _late_records(row, best):
    """For how many records the gain of the best was missed: what is left of a regret when streams get longer."""
    gain = best - row["source"]
    return (best - row["served"]) * row["records"] / gain if gain > 0.02 else None


def play(folder, model, method, seed, labels, more=None, label_delay_s=5.0):
    """One policy over one recording; `labels` is the share of records that get one, or REQUESTED."""
    flags = merged({"model": model.flags, "adapt": {"method": method}, "mode": "auto"}, more or {})
    on_request = labels == REQUESTED
    if on_request:
        flags = merged({"labels": {"requests_per_day": DAILY}}, flags)
    return replay(
        folder, env.load(**flags), label_rate=1.0 if on_request else labels, on_request=on_request,
        label_delay_s=label_delay_s, seed=seed, scratch=folder.parent, windows=len(Recording.open(folder)) // STEP,
    )  # fmt: skip


def kept(job):
    """One harmful case: accuracies with and without the gate, and what became of it."""
    model, structure, method, adapt, seed, label_rate = job
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="gate-") as scratch:
        folder = recording(model, structure, seed, Path(scratch))
        gated = play(folder, model, method, seed, label_rate, {"adapt": adapt})
        open_door = merged({"adapt": adapt}, UNGATED)
        ungated = play(folder, model, method, seed, 0.0, open_door) if seed < 5 else {"served_accuracy": None}
    source, served, swaps, back = (
        gated[k] for k in ("source_accuracy", "served_accuracy", "swaps", "rollbacks")
    )
    fate = (
        "no promotion" if not swaps else "better" if served >= source else "taken back" if back else "harmed"
    )
    return {
        "case": f"{model.name} {structure} {method}", "seed": seed, "source": source, "served": served,
        "ungated": ungated["served_accuracy"], "fate": fate,
    }  # fmt: skip


def _worst_after_first_swap(one, records):
    """Most by which accuracy was below the source in any window of so many records after the first swap."""
    first = next((event["record"] for event in one["swaps"]), None)
    if first is None:
        return 0.0
    lost = [row["source"] - row["served"] for row in one["windows"] if row["first"] >= first]
    many = records // STEP
    return max((float(np.mean(lost[i : i + many])) for i in range(len(lost) - many + 1)), default=0.0)
