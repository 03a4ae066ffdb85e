"""Training of the shipped net, and writing of `assets/`.

    python -m tta_agent.samples.train --data FOLDER_OF_IDX_GZ --out tta_agent/samples/assets

The folder holds the four files of Fashion-MNIST (`train-images-idx3-ubyte.gz` and so on).
"""

import argparse
import gzip
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from tta_agent.core.errors import ConfigError
from tta_agent.core.task import decide
from tta_agent.core.types import Array
from tta_agent.samples.dataset import SHIPPED, WEIGHTS, LabelledImages
from tta_agent.samples.nets import fashion_net

MARGIN = 2  # pixels that a crop may move
MAGIC = {2049: 1, 2051: 3}  # idx header of bytes -> number of axes


@dataclass(frozen=True)
class TrainingPlan:
    """Hyperparameters of the training."""

    epochs: int = 9
    batch: int = 128
    peak_lr: float = 0.2
    decay: float = 5e-4
    seed: int = 0


def read_idx(path: Path) -> Array:
    """Array [N] or [N, H, W] in an idx file of bytes.

    Raises:
        ConfigError: no such file, or no idx file.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is missing: --data must name the folder of Fashion-MNIST's idx .gz files")
    raw = gzip.decompress(path.read_bytes())
    axes = MAGIC.get(int.from_bytes(raw[:4], "big"))
    if axes is None:
        raise ConfigError(f"{path} is not an idx file of bytes")
    shape = np.frombuffer(raw, ">i4", axes, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)


def read_split(folder: Path, split: str) -> LabelledImages:
    """Images of one split, `train` or `t10k`."""
    images = read_idx(folder / f"{split}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{split}-labels-idx1-ubyte.gz")
    return LabelledImages(images[:, None], labels.astype(np.int64))


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Reflect-padded random crops and horizontal flips of images [B, C, H, W].

    Reflected and not zero-padded: zeros would teach the BatchNorms a border that no real image has.
    """
    count, _, height, width = x.shape
    padded = F.pad(x, (MARGIN,) * 4, mode="reflect")
    top, left = torch.randint(0, 2 * MARGIN + 1, (2, count, 1), generator=generator)
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    flipped = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(flipped, columns.flip(1), columns)
    image = torch.arange(count).view(-1, 1, 1)
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def train(model: nn.Module, images: LabelledImages, plan: TrainingPlan) -> None:
    """Fit the model by SGD with one cycle of the learning rate; print one line an epoch."""
    steps = len(images.labels) // plan.batch
    optimizer = torch.optim.SGD(
        model.parameters(), plan.peak_lr, momentum=0.9, weight_decay=plan.decay, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.peak_lr, total_steps=steps * plan.epochs)
    generator = torch.Generator().manual_seed(plan.seed)
    inputs, labels = torch.from_numpy(images.inputs.copy()), torch.from_numpy(images.labels)
    model.train()
    for epoch in range(plan.epochs):
        started_s, total = time.monotonic(), 0.0
        order = torch.randperm(len(labels), generator=generator)[: steps * plan.batch]
        for chosen in order.view(steps, plan.batch):
            x = augment(inputs[chosen].float() / 255, generator)
            loss = F.cross_entropy(model(x), labels[chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        taken_s = time.monotonic() - started_s
        print(f"epoch {epoch + 1}/{plan.epochs}  loss {total / steps:.3f}  {taken_s:.0f} s", flush=True)


@torch.no_grad()
def accuracy(model: nn.Module, images: LabelledImages, batch: int = 500) -> float:
    """Accuracy, 0 .. 1, in inference mode."""
    model.eval()
    right = 0
    for start in range(0, len(images.labels), batch):
        x = torch.from_numpy(images.inputs[start : start + batch].copy()).float() / 255
        right += int((decide(model(x)).numpy() == images.labels[start : start + batch]).sum())
    return right / len(images.labels)


README = """# Assets of the demo

| file | what |
|---|---|
| `fashion_net.safetensors` | weights of `tta_agent.samples.nets:fashion_net`, fp32 |
| `fashion_mnist_test.npz` | all 10,000 test images: `inputs` uint8 [10000, 1, 28, 28], `labels` int64 |

Accuracy on the 10,000 test images: {accuracy:.2f} %

Made from the 60,000 training images of Fashion-MNIST, {plan.epochs} epochs, seed {plan.seed}, by

    python -m tta_agent.samples.train --data FOLDER_OF_IDX_GZ --out tta_agent/samples/assets{options}

The last digits depend on the machine and the number of threads.

Classes, in order: T-shirt/top, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot.

## Origin and licence

Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017, arXiv:1708.07747), https://github.com/zalandoresearch/fashion-mnist,
under the MIT licence:

> The MIT License (MIT)
>
> Copyright © 2017 Zalando SE, https://tech.zalando.com
>
> Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
> associated documentation files (the "Software"), to deal in the Software without restriction, including
> without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
> copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to the
> following conditions:
>
> The above copyright notice and this permission notice shall be included in all copies or substantial
> portions of the Software.
>
> THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT
> LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO
> EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER
> IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR
> THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def write(out: Path, model: nn.Module, test: LabelledImages, plan: TrainingPlan) -> float:
    """Write the three assets; return the accuracy on the test images."""
    out.mkdir(parents=True, exist_ok=True)
    (out / WEIGHTS).write_bytes(save(model.state_dict()))
    np.savez_compressed(out / SHIPPED, inputs=test.inputs, labels=test.labels)
    reached = accuracy(model, test)
    options = "" if plan == TrainingPlan() else f" --epochs {plan.epochs} --seed {plan.seed}"
    text = README.format(accuracy=100 * reached, plan=plan, options=options)
    (out / "README.md").write_text(text, encoding="utf-8")
    return reached


def main() -> None:
    """Train and write by the command line."""
    parser = argparse.ArgumentParser(description="Train the demo's model and write its assets.")
    parser.add_argument("--data", type=Path, required=True, help="folder of Fashion-MNIST's idx .gz files")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the assets to")
    parser.add_argument("--epochs", type=int, default=TrainingPlan.epochs)
    parser.add_argument("--seed", type=int, default=TrainingPlan.seed)
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    plan = TrainingPlan(epochs=args.epochs, seed=args.seed)
    model = fashion_net()
    train(model, read_split(args.data, "train"), plan)
    print(f"accuracy {write(args.out, model, read_split(args.data, 't10k'), plan):.4f} -> {args.out}")


if __name__ == "__main__":
    main()
