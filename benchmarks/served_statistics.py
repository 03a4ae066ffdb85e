"""How well do the estimated statistics serve? Served minus online, in points of accuracy.

    python benchmarks/served_statistics.py first [--nets fashion,cifar,zeropad,written,printed] [--json OUT]
    python benchmarks/served_statistics.py estimates --methods norm,tent --images 4000

*first*: a method learns from batches of each size; after 1, 2, 5 and 20 of them a snapshot answers images that it has
not seen. Online are the answers to the same images in batches of that size. Clean images and corruptions, and a real
change of domain (`benchmarks/digits.py`): digits written by hand for a net of printed ones, and the reverse.

*estimates*: the method learns as it always does. After each round every estimate absorbs the same batch statistics;
after every k rounds each is frozen into a snapshot with the method's weights, which answers the next k batches.
Printed: over all records after the first snapshot and over the second half, mean over the corruptions and the worst.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import digits
import gate_streams
import numpy as np
import torch
import zoo_trained

from tta_adapters.norm import Norm
from tta_adapters.tent import Tent
from tta_agent import corruptions
from tta_agent.assembly import build
from tta_agent.bench import contenders, subjects
from tta_agent.bench.streams import Stream, StreamSpec
from tta_agent.models.batchnorm import StatsConfig, absorb
from tta_agent.samples import dataset
from tta_agent.settings import env
from tta_agent.telemetry.facade import Telemetry
from tta_agent.testing import everyone

INF = float("inf")
ESTIMATES = {
    f"momentum {momentum}, change {change}": StatsConfig(momentum=momentum, change=change)
    for momentum in (0.02, 0.05, 0.1, 0.3)
    for change in (1.5, 2.0, 3.0, INF)
}
AFTER = (1, 2, 5, 20)
KINDS = {"clean": 0, "gaussian_noise": 5, "contrast": 5, "frost": 3}
METHODS = {"norm": Norm, "tent": Tent}
UNSEEN = 1000  # images that snapshots answer


class Shadow:
    """An estimate that sees what the adapter's own sees."""

    def __init__(self, norms, estimate):
        self.norms = {name: copy.deepcopy(layer) for name, layer in norms.items()}
        for layer in self.norms.values():
            layer.estimate = estimate

    def absorb(self, norms):
        for name, layer in self.norms.items():
            layer._batch = norms[name]._batch
        absorb(self.norms.values())

    def snapshot(self, servable):
        tensors = servable.state_dict()
        for name, layer in self.norms.items():
            for leaf in ("running_mean", "running_var"):
                tensors[f"{name}.{leaf}"].copy_(layer.served()[leaf])
        return servable


def measure(settings, source, stream, lag):
    """Correctness of every answer: online [N], and by estimate [N] (NaN before the first snapshot)."""
    telemetry = Telemetry.from_environment("study", system="none", group="study")
    teacher = build.make_adaptation(settings, source, telemetry)
    adapter = getattr(teacher.adapter, "inner", teacher.adapter)
    shadows = {name: Shadow(adapter.norms, estimate) for name, estimate in ESTIMATES.items()}
    plain = adapter.absorb

    def all_absorb():
        for shadow in shadows.values():
            shadow.absorb(adapter.norms)
        return plain()

    adapter.absorb = all_absorb
    serving, online, served = {}, [], {name: [] for name in shadows}
    for number, batch in enumerate(stream.batches(), start=1):
        with torch.no_grad():
            for name in shadows:
                given = serving[name](torch.from_numpy(batch.x)).argmax(1).numpy() if serving else None
                right = np.full(len(batch.x), np.nan) if given is None else given == batch.labels
                served[name].append(right)
        online.append(teacher.round(batch.x).logits.argmax(1) == batch.labels)
        if number % lag == 0:
            serving = {name: shadow.snapshot(adapter.servable()) for name, shadow in shadows.items()}
    telemetry.shutdown()
    return np.concatenate(online), {name: np.concatenate(parts) for name, parts in served.items()}


def gaps(online, served):
    """Served minus online in points: over all records that a snapshot answered, and over the second half."""
    half = np.arange(len(online)) >= len(online) // 2
    there = ~np.isnan(served)
    return [100 * (served[rows].mean() - online[rows].mean()) for rows in (there, there & half)]


def estimates(args):
    """Table of the estimates."""
    data = subjects.data_path(args.data)
    cache = Path(tempfile.gettempdir()) / "tta-served-statistics"
    for contender in contenders.parse(args.methods):
        rows = {name: [] for name in ESTIMATES}
        for corruption in (args.kinds or ",".join(corruptions.NAMES)).split(","):
            spec = StreamSpec(data, "reset", (corruption,), images=args.images, batch=args.batch)
            stream = Stream(spec, cache)
            model = subjects.model_flags(None, None, None, stream.pool.shape[1:])
            settings = contender.settings(model, "reset", cache / "store")
            source = build.load_source(env.load(model=model))
            online, served = measure(settings, source, stream, args.lag)
            for name in rows:
                rows[name].append(gaps(online, served[name]))
        print(f"\n{contender.name}: served - online (points)   all: mean, worst   second half: mean, worst")
        for name, found in rows.items():
            mean, worst = np.mean(found, axis=0), np.min(found, axis=0)
            print(f"  {name:28s} {mean[0]:+.2f} {worst[0]:+.2f}   {mean[1]:+.2f} {worst[1]:+.2f}", flush=True)


@torch.no_grad()
def right(answer, x, y, size):
    """Accuracy in percent of `answer` on images in batches of this size; a short rest is left out."""
    parts = [part for part in x.split(size) if len(part) == size]
    found = torch.cat([answer(part).argmax(1) for part in parts])
    return 100 * float((found == y[: len(found)]).float().mean())


def subjects_of(net, kinds, count):
    """Source and, by kind, images and labels."""
    if net in ("written", "printed"):
        other = {"written": digits.printed, "printed": digits.written}[net]
        rows = torch.randperm(len(other()[1]), generator=torch.Generator().manual_seed(0))[:count]
        yield digits.net(net), "real", *(part[rows] for part in other())
        return
    if net == "mobilenet":
        yield from large(kinds)
        return
    model = gate_streams.models()[net]
    some = dataset.read_npz(model.data)
    source = build.load_source(env.load(model=model.flags, mode="shadow"))
    mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (source.mean, source.std))
    rows = np.random.default_rng(1).permutation(len(some.labels))[:count]
    for kind in kinds:
        x = torch.from_numpy(some.inputs[rows]).float() / 255
        if KINDS[kind]:
            x = corruptions.corrupt(x, kind, KINDS[kind], seed=1, constants=model.constants)
        yield source.module, kind, (x - mean) / std, torch.from_numpy(some.labels[rows])


def large(kinds):
    """The same of MobileNetV3 at 224 px (`zoo_trained.py`), which is trained first, once."""
    cache = Path(tempfile.gettempdir()) / "tta-served-statistics"
    cache.mkdir(exist_ok=True)
    net, some = zoo_trained.trained(cache, "mobilenetv3_small_100", 224, epochs=3), dataset.load()
    labels = torch.from_numpy(some.labels[zoo_trained.TRAINED :])
    for kind in kinds:
        x = zoo_trained.enlarged(some.inputs[zoo_trained.TRAINED :], 224)
        yield (
            net,
            kind,
            corruptions.corrupt(x, kind, KINDS[kind], 1, "imagenet") if KINDS[kind] else x,
            labels,
        )


def snapshots(make, source, size, x, after):
    """Snapshots after so many batches of this size; fewer where the images end."""
    adapter = make(source)
    for number, part in enumerate(x.split(size)[: max(after)], start=1):
        adapter.step(part, adapter.forward(part), everyone(part))
        if number in after:
            yield number, adapter.servable()


def first(args):
    """Table of the first snapshots."""
    sizes, after = ([int(value) for value in text.split(",")] for text in (args.batches, args.after))
    found = {}
    print("| method | net | stream | batch | source | online |" + "".join(f" {n} |" for n in after))
    for method in args.methods.split(","):
        for net in args.nets.split(","):
            kinds = (args.kinds or ",".join(KINDS)).split(",")
            for source, kind, x, y in subjects_of(net, kinds, UNSEEN + max(sizes) * max(after)):
                unseen = min(UNSEEN, len(x) // 2)
                plain = right(source, x[:unseen], y[:unseen], 200)
                for size in sizes:
                    online = right(METHODS[method](source).predict, x[:unseen], y[:unseen], size)
                    served = {
                        n: right(snapshot, x[:unseen], y[:unseen], 200)
                        for n, snapshot in snapshots(METHODS[method], source, size, x[unseen:], after)
                    }
                    row = {n: round(value - online, 1) for n, value in served.items()}
                    found[f"{method}/{net}/{kind}/{size}"] = row
                    cells = "".join(f" {row[n]:+.1f} |" if n in row else " |" for n in after)
                    print(
                        f"| {method} | {net} | {kind} | {size} | {plain:.1f} | {online:.1f} |{cells}",
                        flush=True,
                    )
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("part", choices=("first", "estimates"))
    parser.add_argument("--methods", default="norm")
    parser.add_argument("--kinds", default=None, help="corruptions, or clean")
    parser.add_argument(
        "--nets", default="fashion,cifar,zeropad,written,printed", help="or mobilenet, 224 px"
    )
    parser.add_argument("--batches", default="16,32,64,100,200")
    parser.add_argument("--after", default=",".join(map(str, AFTER)))
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--lag", type=int, default=5)
    parser.add_argument("--data", default=None)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    (first if args.part == "first" else estimates)(args)


if __name__ == "__main__":
    main()
