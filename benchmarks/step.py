"""Cost of a step, as ratios of what it is compared with in the same run.

    python benchmarks/step.py [--quick] [--nets resnet18,resnet50,efficientnet_b0,vit_tiny] [--json OUT]

*norm*: forward and step of the adapter, over a forward pass of the net in training mode without gradients, which
computes the same batch statistics. *tent*: forward and step of the adapter, over a naive TENT step: forward in
training mode, entropy, backward to scales and shifts, Adam. The adapters get the net as the agent lays it out in
memory (`models/memory_layout.py`), the others as timm makes it. All samples are selected. All variants run in turn
within each repeat, so that what else the machine does falls on all of them alike; medians over the repeats, of ratios
within a repeat. The aims are 1.1 and 0.9. On a GPU where there is one.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import timm
import torch

from tta_adapters.norm import Norm
from tta_adapters.tent import Tent
from tta_agent.models import memory_layout
from tta_agent.models.batchnorm import affine
from tta_agent.scoring.sample_scores import entropy
from tta_agent.testing import everyone

NETS = {
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "efficientnet_b0": "efficientnet_b0",
    "vit_tiny": "vit_tiny_patch16_224",
}
AIM = {"norm": 1.1, "tent": 0.9}


def adapted(make, net, x):
    """One step of an adapter, as a round takes it."""
    adapter, selection = make(net), everyone(x)

    def step():
        logits = adapter.forward(x)
        adapter.step(x, logits.float(), selection)

    return step


def training_forward(net, x):
    """Forward pass in training mode, without gradients; dropout stays off."""
    model = training(net)

    def step():
        with torch.no_grad():
            model(x)

    return step


def naive_tent(net, x):
    """TENT as it stands in the paper's code."""
    model = training(net)
    parameters = list(affine(model).values())
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, lr=1e-3)

    def step():
        loss = entropy(model(x)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def training(net):
    """A copy with its BatchNorms in training mode."""
    model = copy.deepcopy(net).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.train()
    return model


def seconds(step, device):
    """Wall time of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(name, batch, repeats, device):
    """Median ratios of the net."""
    net = timm.create_model(NETS[name], pretrained=False, num_classes=100).eval().to(device)
    x = torch.randn(batch, 3, 224, 224, device=device)
    ours = copy.deepcopy(net)
    memory_layout.choose(ours, x.shape[1:], x.device)
    pairs = {"tent": (adapted(Tent, ours, x), naive_tent(net, x))}
    if any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules()):
        pairs["norm"] = (adapted(Norm, ours, x), training_forward(net, x))
    for step in (step for pair in pairs.values() for step in pair):
        step()
    ratios = {method: [] for method in pairs}
    for repeat in range(repeats):
        for method, pair in pairs.items():
            order = pair if repeat % 2 else pair[::-1]
            spent = {step: seconds(step, device) for step in order}
            ratios[method].append(spent[pair[0]] / spent[pair[1]])
    return {method: round(statistics.median(found), 3) for method, found in ratios.items()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--batch", type=int, default=None, help="16 on a CPU, 128 on a GPU")
    parser.add_argument("--quick", action="store_true", help="batches of 8, 5 repeats")
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = args.batch or (8 if args.quick else 128 if device == "cuda" else 16)
    found = {}
    print(f"{device}, batches of {batch}\n| net | norm / training forward | tent / naive TENT |")
    for name in args.nets.split(","):
        found[name] = measure(name, batch, 5 if args.quick else 15, device)
        cells = (f"{found[name][method]:.2f}" if method in found[name] else "" for method in ("norm", "tent"))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"device": device, "batch": batch, "aim": AIM, "nets": found}))


if __name__ == "__main__":
    main()
