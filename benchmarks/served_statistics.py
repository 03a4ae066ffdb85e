"""Which estimate of the target statistics serves best? One run of a method, many estimates beside it.

    python benchmarks/served_statistics.py --methods norm,tent --images 4000

The method learns as it always does. After each round every estimate absorbs the same batch statistics; after
every k rounds each is frozen into a snapshot with the method's weights, which answers the next k batches. Printed:
served minus online, in points of accuracy, over all records after the first snapshot and over the second half, the
mean over the corruptions and the worst of them.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path

import numpy as np
import torch

from tta_agent import corruptions
from tta_agent.assembly import build
from tta_agent.bench import contenders, subjects
from tta_agent.bench.streams import Stream, StreamSpec
from tta_agent.models.batchnorm import StatsConfig
from tta_agent.settings import env
from tta_agent.telemetry.facade import Telemetry

INF = float("inf")
ESTIMATES = {
    f"momentum {momentum}, change {change}": StatsConfig(momentum=momentum, change=change)
    for momentum in (0.02, 0.05, 0.1, 0.3)
    for change in (1.5, 2.0, 3.0, INF)
}


class Shadow:
    """An estimate that sees what the adapter's own sees."""

    def __init__(self, norms, estimate):
        self.norms = {name: copy.deepcopy(layer) for name, layer in norms.items()}
        for layer in self.norms.values():
            layer.estimate = estimate

    def absorb(self, norms):
        for name, layer in self.norms.items():
            layer._batch = tuple(norms[name].before.clone())
            layer.absorb()

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
    adapter = teacher.adapter
    shadows = {name: Shadow(adapter.norms, estimate) for name, estimate in ESTIMATES.items()}
    serving, online, served = {}, [], {name: [] for name in shadows}
    for number, batch in enumerate(stream.batches(), start=1):
        with torch.no_grad():
            for name in shadows:
                given = serving[name](torch.from_numpy(batch.x)).argmax(1).numpy() if serving else None
                right = np.full(len(batch.x), np.nan) if given is None else given == batch.labels
                served[name].append(right)
        before = adapter.norms[next(iter(adapter.norms))].batches.clone()
        online.append(teacher.round(batch.x).logits.argmax(1) == batch.labels)
        if adapter.norms[next(iter(adapter.norms))].batches > before:
            for shadow in shadows.values():
                shadow.absorb(adapter.norms)
        if number % lag == 0:
            serving = {name: shadow.snapshot(adapter.servable()) for name, shadow in shadows.items()}
    telemetry.shutdown()
    return np.concatenate(online), {name: np.concatenate(parts) for name, parts in served.items()}


def gaps(online, served):
    """Served minus online in points: over all records that a snapshot answered, and over the second half."""
    half = np.arange(len(online)) >= len(online) // 2
    there = ~np.isnan(served)
    return [100 * (served[rows].mean() - online[rows].mean()) for rows in (there, there & half)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--methods", default="norm,tent")
    parser.add_argument("--corruptions", default=",".join(corruptions.NAMES))
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--lag", type=int, default=5)
    parser.add_argument("--data", default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = subjects.data_path(args.data)
    cache = Path(tempfile.gettempdir()) / "tta-served-statistics"
    for contender in contenders.parse(args.methods):
        rows = {name: [] for name in ESTIMATES}
        for corruption in args.corruptions.split(","):
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


if __name__ == "__main__":
    main()
