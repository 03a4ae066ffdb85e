"""Trains the nets with GroupNorm and LayerNorm that the benchmarks adapt, on Fashion-MNIST.

    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb DATA
    python benchmarks/train.py {gn,ln} --data DATA/usr/share/datasets/fashion-mnist [--out FOLDER]

Writes `fashion_gn.safetensors` or `fashion_ln.safetensors`, and prints the accuracy of what it wrote. After
each epoch there is a `*.partial.safetensors`, so that a run that is stopped leaves something. The same seed,
machine and number of threads give the same weights, unless the time budget hurries the schedule.

Stored as float16: half the bytes. torch widens it on loading, and rounding to 11 bits moves no figure.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tta_agent.core import process

process.budget(1)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import Progress  # noqa: E402
from rich.table import Table  # noqa: E402
from safetensors.torch import load_file, save  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from tta_agent.bench import nets  # noqa: E402
from tta_agent.corruptions import NAMES, corrupt  # noqa: E402
from tta_agent.samples.dataset import LabelledImages  # noqa: E402
from tta_agent.samples.train import accuracy, augment, read_split  # noqa: E402

NETS = {"gn": nets.fashion_gn, "ln": nets.fashion_ln}
WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Plan:
    """How to train: AdamW, its rate rising over `warm` of the run and then falling as a half cosine."""

    epochs: int = 18
    minutes: float = 35.0
    batch: int = 128
    peak_lr: float = 3e-3
    warm: float = 0.05
    decay: float = 0.05
    seed: int = 0


def rate(plan: Plan, done: float) -> float:
    """Learning rate when a share `done` in [0, 1] of the run is over."""
    if done < plan.warm:
        return plan.peak_lr * done / plan.warm
    return plan.peak_lr * 0.5 * (1 + math.cos(math.pi * (done - plan.warm) / (1 - plan.warm)))


def spent(plan: Plan, seconds: float) -> float:
    """Share of the time budget that is used up; 0 in its first tenth, so that the clock moves no fast run."""
    return max(0.0, (seconds / (60 * plan.minutes) - 0.1) / 0.9)


def optimizer_of(model: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """AdamW that leaves scales, shifts and biases undecayed."""
    parameters = list(model.parameters())
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim == 1]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": plan.decay}, {"params": vectors, "weight_decay": 0.0}],
        plan.peak_lr,
    )


def batches(images: LabelledImages, plan: Plan) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Epoch, augmented images [B, 1, 28, 28] in [0, 1] and labels [B], in a new order each epoch."""
    generator = torch.Generator().manual_seed(plan.seed)
    inputs, labels = torch.from_numpy(images.inputs.copy()), torch.from_numpy(images.labels)
    for epoch in range(plan.epochs):
        order = torch.randperm(len(labels), generator=generator)
        for chosen in order[: len(order) // plan.batch * plan.batch].view(-1, plan.batch):
            yield epoch, augment(inputs[chosen].float() / 255, generator), labels[chosen]


def train(model: nn.Module, images: LabelledImages, plan: Plan, partial: Path, progress: Progress) -> None:
    """Fit; a checkpoint and a line after each epoch. Where time runs short, the schedule runs faster."""
    each = len(images.labels) // plan.batch
    optimizer = optimizer_of(model, plan)
    bar, started_s, losses = progress.add_task("training", total=1.0), time.monotonic(), []
    model.train()
    for step, (epoch, x, labels) in enumerate(batches(images, plan)):
        done = max(step / (each * plan.epochs), spent(plan, time.monotonic() - started_s))
        if done >= 1:
            return
        for group in optimizer.param_groups:
            group["lr"] = rate(plan, done)
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
        progress.update(bar, completed=done)
        if (step + 1) % each == 0:
            write(model, partial)
            taken_s = time.monotonic() - started_s
            mean = sum(losses[-each:]) / each
            progress.console.print(f"epoch {epoch + 1}/{plan.epochs}  loss {mean:.3f}  {taken_s:.0f} s")
    progress.update(bar, completed=1.0)


def write(model: nn.Module, path: Path) -> None:
    path.write_bytes(save({name: tensor.half() for name, tensor in model.state_dict().items()}))


def corrupted(test: LabelledImages, name: str) -> LabelledImages:
    """The test images at severity 5, with the constants of CIFAR-10-C."""
    x = corrupt(torch.from_numpy(test.inputs.copy()).float() / 255, name, 5, 0, constants="cifar")
    return LabelledImages((x * 255).round().numpy().astype(np.uint8), test.labels)


def report(model: nn.Module, test: LabelledImages, console: Console) -> None:
    """Accuracy on clean and on corrupted test images, each image on its own."""
    table = Table("test images", "accuracy, %")
    table.add_row("clean", f"{100 * accuracy(model, test):.2f}")
    shares = [accuracy(model, corrupted(test, name)) for name in NAMES]
    for name, share in zip(NAMES, shares, strict=True):
        table.add_row(f"{name} 5", f"{100 * share:.2f}")
    table.add_row(f"mean of the {len(NAMES)}", f"{100 * sum(shares) / len(shares):.2f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a net for the benchmarks on Fashion-MNIST.")
    parser.add_argument("net", choices=NETS)
    parser.add_argument("--data", type=Path, required=True, help="folder of Fashion-MNIST's idx .gz files")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder for the weights")
    parser.add_argument("--epochs", type=int, default=Plan.epochs)
    parser.add_argument("--minutes", type=float, default=Plan.minutes, help="at most, without the report")
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    plan = Plan(epochs=args.epochs, minutes=args.minutes, seed=args.seed)
    model, test = NETS[args.net](), read_split(args.data, "t10k")
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"fashion_{args.net}.safetensors"
    partial = path.with_suffix(".partial.safetensors")
    console = Console()
    with Progress(console=console) as progress:
        train(model, read_split(args.data, "train"), plan, partial, progress)
    exact = accuracy(model, test)
    write(model, partial)
    partial.replace(path)
    model.load_state_dict(load_file(path))
    report(model, test, console)
    console.print(
        f"{path}: {path.stat().st_size:,} bytes; in float32 clean {100 * exact:.2f} %", soft_wrap=True
    )


if __name__ == "__main__":
    main()
