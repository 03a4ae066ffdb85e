"""What does the guard by labels cost? Labels until a useful candidate is proven, with it and without.

python benchmarks/guard_cost.py [--nets fashion,cifar]

Statistics adaptation (600 records) of each net to eight corruptions of severity 5; then 2,400 other records in six
orders, the first n of which are labelled: the least n (steps of 10, from 200 on of 50) at which all default gates,
and all gates with the guard, call the candidate proven. "-": never.
"""

from __future__ import annotations

import argparse
import copy
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gate_simulations as simulations
import gate_streams as streams
import numpy as np
import torch

from tta_agent import corruptions
from tta_agent.assembly import build
from tta_agent.core.evidence import Evidence, LabelledPair
from tta_agent.evaluation.decision import GateSet
from tta_agent.evaluation.label_guard import LabelGuard
from tta_agent.samples import dataset as images
from tta_agent.settings import env
from tta_agent.telemetry.facade import Telemetry

SHIFTS = (
    "gaussian_noise", "contrast", "frost", "impulse_noise", "fog", "snow", "defocus_blur", "brightness",
)  # fmt: skip
LEARNT, RECORDS, ORDERS = 600, 3000, 6
LABELS = (*range(20, 200, 10), *range(200, 2000, 50))


def answers(model, shift):
    """Logits of source and adapted copy, and classes, of records that the copy has not learnt from."""
    some = images.read_npz(model.data)
    x = torch.from_numpy(some.inputs[:RECORDS]).float() / 255
    x = corruptions.corrupt(x, shift, 5, seed=1, constants=model.constants)
    settings = env.load(model=model.flags, adapt={"method": "norm"}, mode="shadow")
    source = build.load_source(settings)
    adaptation = build.make_adaptation(settings, source, Telemetry.off())
    for start in range(0, LEARNT, 100):
        adaptation.round(x[start : start + 100].numpy())
    adapted = copy.deepcopy(adaptation.adapter.servable())
    with torch.no_grad():
        serving, candidate = (net(x[LEARNT:]).numpy() for net in (source.module, adapted))
    return serving, candidate, some.labels[LEARNT:RECORDS]


def evidence(serving, candidate, truth, labels):
    """Of all records, the first ones labelled."""
    named = (column[:labels].tolist() for column in (truth, serving.argmax(1), candidate.argmax(1)))
    judged = tuple(LabelledPair(*row) for row in zip(*named, strict=True))
    steps = [one.step for one in judged]
    counts = steps.count(1), steps.count(-1), labels
    return Evidence(serving, candidate, *counts, 0.01, judged=judged, source=serving, proven=serving)


def needed(gates, columns):
    """Labels until it is proven, or None."""
    asked = (n for n in LABELS if gates.decide(evidence(*columns, n), labels_come=True).outcome == "proven")
    return next(asked, None)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", default="fashion,cifar")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    vetoes = simulations.gates(simulations.default_gates())
    benches = [GateSet(vetoes, guard) for guard in (None, LabelGuard())]
    pairs = []
    for net in asked.nets.split(","):
        for shift in SHIFTS:
            columns = answers(streams.models()[net], shift)
            orders = [np.random.default_rng(seed).permutation(len(columns[2])) for seed in range(ORDERS)]
            shuffled = [[column[order] for column in columns] for order in orders]
            mine = [tuple(needed(bench, one) for bench in benches) for one in shuffled]
            pairs += mine
            told = ", ".join(f"{alone or '-'}/{guarded or '-'}" for alone, guarded in mine)
            print(f"{net} {shift}: {told}", flush=True)
    proven = [(alone, guarded) for alone, guarded in pairs if alone]
    later = [(guarded or 0) - alone for alone, guarded in proven if guarded != alone]
    freed = [guarded for alone, guarded in pairs if guarded and not alone]
    print(
        f"{len(proven) - len(later)} of {len(proven)} as soon, {len(later)} later by {sorted(later)}; "
        f"proven with the guard alone: {len(freed)}, after {sorted(freed)}"
    )


if __name__ == "__main__":
    main()
