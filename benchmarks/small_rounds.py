"""How many records does a round need where BatchNorm takes its statistics from them?

python benchmarks/small_rounds.py [--methods norm,tent,...] [--records 500]

The Fashion-MNIST net and noisy images, in rounds of 1 to 64 records, by TTA_ADAPT__WINDOW. *online*: what the copy
answers at once; *served*: what is served at the end, on 1,500 further images. Points.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from tta_agent import corruptions
from tta_agent.assembly import build
from tta_agent.samples import dataset as images
from tta_agent.settings import env
from tta_agent.telemetry.facade import Telemetry

MODEL = {
    "factory": "tta_agent.samples.nets:fashion_net",
    "weights": str(images.ASSETS / images.WEIGHTS),
    "input_shape": [1, 28, 28],
}
SHIFT = ("gaussian_noise", "impulse_noise")
FURTHER = slice(-1500, None)


def rightly(logits, labels):
    return 100 * float((logits.argmax(1) == labels).mean())


@torch.no_grad()
def answers(net, x):
    return np.concatenate([net(torch.from_numpy(part)).numpy() for part in np.array_split(x, 6)])


def measured(method, size, window, x, labels):
    """Accuracy of the source, online and served."""
    settings = env.load(model=MODEL, adapt={"method": method, "window": window}, mode="auto")
    source = build.load_source(settings)
    adaptation = build.make_adaptation(settings, source, Telemetry.off())
    first = len(x) - 1500
    online = [adaptation.round(x[i : min(i + size, first)]).logits for i in range(0, first, size)]
    nets = (source.module, adaptation.adapter.servable())
    frozen, served = (rightly(answers(net, x[FURTHER]), labels[FURTHER]) for net in nets)
    return frozen, rightly(np.concatenate(online), labels[:first]), served


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", default="norm,tent,roid,sar,eata,deyo,adamixbn")
    parser.add_argument("--records", type=int, default=500)
    parser.add_argument("--rounds", default="1,4,8,16,64")
    parser.add_argument("--windows", default="1,8,16,32", help="1 is none")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    some = images.load()
    n = asked.records + 1500
    x, labels = torch.from_numpy(some.inputs[:n]).float() / 255, some.labels[:n]
    x = corruptions.mixture(x, SHIFT, 4, 0, "imagenet")[0].numpy()
    windows = [int(window) for window in asked.windows.split(",")]
    print("| method | round |" + "".join(f" window {window}: online / served |" for window in windows))
    for method in asked.methods.split(","):
        for size in map(int, asked.rounds.split(",")):
            found = [measured(method, size, window, x, labels) for window in windows]
            cells = "".join(f" {online:.1f} / {served:.1f} |" for _, online, served in found)
            print(f"| {method} | {size} |{cells}", flush=True)
    print(f"source: {found[0][0]:.1f}")


if __name__ == "__main__":
    main()
