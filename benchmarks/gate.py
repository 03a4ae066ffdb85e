"""Is the decision right? False promotions, power, collapse, regret and harm, by the agent's own gates.

python benchmarks/gate.py --quick --json OUT        (five minutes on two cores)
python benchmarks/gate.py --json OUT                (an hour)

simulations   1,000 candidates that are not better (streams in three structures, labels late and sampled),
              duplicates of one entity, decisive labels until a better one is certified
budget        false promotions against the bound of the error budgets of regimes (benchmarks/gate_budget.py)
collapse      200 injected failures on real answers: never promoted, and vetoed or taken back in two windows
delay         records from a shift to the certified swap, by the share of labels and by their delay
streams       whole policies over real images: regret against the best of keeping and always adapting
skewed        two classes, 1 to 30 % positives: useful, useless and harmful candidates (benchmarks/gate_skewed.py)
replay        one policy over one recording twice, the second time on a busy machine: are all events the same?
keeps         cases in which adapting harms: no promotion, or it is taken back (not with --quick)
rehearsed     promotions without any label, leave-one-family-out (benchmarks/rehearsed.py has the whole table)
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import multiprocessing
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gate_budget as budget
import gate_delay as delays
import gate_repeat as again
import gate_simulations as simulations
import gate_skewed as skewed
import gate_streams as streams
import numpy as np
import torch

from tta_agent import corruptions
from tta_agent.samples import dataset as images

PARTS = ("simulations", "budget", "collapse", "delay", "skewed", "replay", "streams", "keeps", "rehearsed")
QUICK_STRETCH = 2  # domains of 2,000 to 8,000 records, turns of 1,000
SEEDS = 20  # of each case in which adapting harms


def simulated(job):
    """Whether one candidate that is not better is promoted."""
    names, stream, seed, repeat = job
    return simulations.promotes(names, stream, seed, repeat=repeat)


def run_simulations(asked, pool):
    """False promotions by stream, with all gates and with the proofs alone; power."""
    runs = 300 if asked.quick else 1000
    found = {}
    for name, gates in (("all gates", simulations.default_gates()), ("certificate alone", ["certificate"])):
        for repeat in (1, 10) if name == "certificate alone" else (1,):
            jobs = [(gates, simulations.STREAMS[i % 3], i, repeat) for i in range(runs)]
            promoted = list(pool.map(simulated, jobs, chunksize=10))
            label = name + (", ten identical outcomes an entity" if repeat > 1 else "")
            by = {s: promoted[i::3] for i, s in enumerate(simulations.STREAMS)}
            found[label] = {
                "runs": runs, "rate": sum(promoted) / runs, **{s: sum(p) / len(p) for s, p in by.items()},
            }  # fmt: skip
            print(f"false promotions, {label}: {sum(promoted)} of {runs}", flush=True)
    found |= run_returning(asked, pool)
    seeds = range(500 if asked.quick else 2000)
    median = {p: statistics.median(simulations.decisive_labels(p, s) for s in seeds) for p in (0.65, 0.8)}
    print(
        f"decisive labels, median: {median[0.65]:.0f} at .65 (108), {median[0.8]:.0f} at .80 (24)", flush=True
    )
    turned = [simulations.turns_bad(i) for i in range(30 if asked.quick else 100)]
    took = [n for n in turned if n is not None]
    early = sum(n <= 0 for n in took)
    print(
        f"turned bad: {len(took)} of {len(turned)} taken back, {statistics.median(took):.0f} held-out records later"
    )
    alone = found["certificate alone"]
    return {
        "false_promotion_rate": max(row["rate"] for row in found.values()),
        "runs": sum(row["runs"] for row in found.values()),
        "duplicates_rate": found["certificate alone, ten identical outcomes an entity"]["rate"],
        "simulations": found,
        "certificate_alone_rate": alone["rate"],
        "turned_bad": {
            "runs": len(turned),
            "taken_back": len(took) - early,
            "too_early": early,
            "median_records": statistics.median(took),
        },
        "median_labels_p65": median[0.65],
        "median_labels_p80": median[0.8],
    }


RETURNING = {  # sessions: a candidate that is equal, or has memorised the entities that taught it
    "entities that return": {"memorises": False},
    "entities that return, memorised": {"memorises": True},
}


def run_returning(asked, pool):
    """False promotions where the same entities come again and again."""
    runs, found = 100 if asked.quick else 1000, {}
    for name, how in RETURNING.items():
        one = functools.partial(simulations.promotes_returning, **how)
        promoted = sum(pool.map(one, range(runs), chunksize=10))
        found[name] = {"runs": runs, "rate": promoted / runs}
        print(f"false promotions, {name}: {promoted} of {runs}", flush=True)
    return found


def answers(model):
    """Logits of the source, of a net adapted to the shift, and of one adapted to another: real answers, [n, C]."""
    import copy

    from tta_agent.assembly import build
    from tta_agent.settings import env
    from tta_agent.telemetry.facade import Telemetry

    some = images.read_npz(model.data)
    shifts = {"gaussian_noise": None, "contrast": None}
    for name in shifts:
        x = torch.from_numpy(some.inputs[:3000]).float() / 255
        shifts[name] = corruptions.corrupt(x, name, 4, seed=1, constants=model.constants)
    settings = env.load(model=model.flags, adapt={"method": "norm"}, mode="shadow")
    source = build.load_source(settings)
    adapted = {}
    for name, x in shifts.items():
        teacher = build.make_adaptation(settings, source, Telemetry.off())
        for start in range(0, 1000, 100):
            teacher.round(x[start : start + 100].numpy())
        adapted[name] = copy.deepcopy(teacher.adapter.servable())
    x = shifts["gaussian_noise"][1000:]
    with torch.no_grad():
        ask = {"serving": source.module, "good": adapted["gaussian_noise"], "stale": adapted["contrast"]}
        logits = {name: net(x).numpy() for name, net in ask.items()}
    return logits, some.labels[1000:3000]


def run_budget(asked, pool):
    """False promotions against their bound, by the spending of the agent."""
    return budget.run(pool, asked.quick)


def run_collapse(asked, pool):
    """Injected failures, each kind as often; with labels of all held-out records, and of half."""
    known = streams.models()
    logits, truth = answers(known["fashion"] if asked.quick else next(reversed(known.values())))
    runs, found = 200, {}
    each = runs // len(simulations.COLLAPSES)
    for rate, name in ((1.0, "collapse_caught"), (0.5, "collapse_caught_half_labels")):
        one = functools.partial(
            simulations.all_caught, **logits, truth=truth, seeds=range(each), label_rate=rate
        )
        caught = dict(zip(simulations.COLLAPSES, pool.map(one, simulations.COLLAPSES), strict=True))
        told = ", ".join(f"{kind} {n} of {each}" for kind, n in caught.items())
        print(f"collapses caught, {rate:.0%} of labels: {told}", flush=True)
        found |= {name: sum(caught.values()), f"{name}_by_kind": caught}
    return {**found, "collapse_runs": runs}


def run_streams(asked, pool):
    """Regret and harm over a grid of streams."""
    known = streams.models()
    chosen = [name for name in known if name in (["fashion"] if asked.quick else asked.nets.split(","))]
    structures = ("clean", "shift", "alternating") if asked.quick else asked.streams.split(",")
    methods = asked.methods.split(",")
    labels, stretch = (streams.REQUESTED, QUICK_STRETCH) if asked.quick else (asked.labels, asked.stretch)
    jobs = [
        (known[name], structure, seed, labels, stretch, method)
        for name in chosen
        for structure in structures
        for seed in range(1 if asked.quick else asked.seeds)
        for method in methods
    ]
    rows, played = [], pool.map(streams.cell, jobs)
    while found := list(itertools.islice(played, len(methods))):  # told as they come
        rows += streams.compared(found)
        for row in found:
            print(_told(row), flush=True)
    used = [row["labels_per_swap"] for row in rows if row["labels_per_swap"] is not None]
    late = [row["late_records"] for row in rows if row["swaps"] and row["late_records"] is not None]
    return {
        "regret": 100 * float(np.mean([row["regret"] for row in rows])),
        "worst_window_below_source": 100 * max(0.0, *(row["below"] for row in rows)),
        "worst_2000_below_source": 100 * max(0.0, *(row["below_in_2000"] for row in rows)),
        "labels_per_promotion": float(np.mean(used)) if used else None,
        "labels_arrived": float(np.mean([row["labels_arrived"] for row in rows])),
        "late_records": float(np.median(late)) if late else None,
        "streams": rows,
    }


def run_delay(asked, pool):
    """Records from a shift to the certified swap."""
    known = streams.models()
    nets = [known[name] for name in known if name in (["fashion"] if asked.quick else asked.nets.split(","))]
    rows = []
    for row in pool.map(delays.delay_of, delays.cells(nets, quick=asked.quick, seeds=asked.seeds)):
        rows.append(row)
        when = "no swap" if row["records"] is None else f"swapped {row['records']} records after the shift"
        print(
            f"{row['model']} {row['shift']}, labels {row['rate']} after {row['delay']:,}, seed {row['seed']}: {when}"
            f", candidate {row['candidate']}, {row['labels']:,} labels",
            flush=True,
        )
    return delays.table(rows)


def _told(row):
    late = "" if row["late_records"] is None else f", the gain of {row['late_records']:.0f} records missed"
    return (
        f"{row['model']} {row['structure']} {row['seed']} {row['method']}: source {row['source']:.1%}, served "
        f"{row['served']:.1%}, always adapting {row['ungated']:.1%}, {row['swaps']} swaps, "
        f"{row['rollbacks']} taken back, {row['followed']} moves with the domain; below {row['below']:.1%} of 500, "
        f"{row['below_in_2000']:.1%} of 2,000; {row['labels_arrived']:,} labels came{late}"
    )


def run_keeps(asked, pool):
    """Many seeds of each case that this machine has the data for."""
    known = streams.models()
    jobs = [
        (known[net], structure, method, adapt, seed, 0.3)
        for net, structure, method, adapt in streams.HARMFUL
        for seed in range(0 if asked.quick else SEEDS)
        if net in known
    ]
    rows = []
    for row in pool.map(streams.kept, jobs):
        rows.append(row)
        mine = [other for other in rows if other["case"] == row["case"]]
        if len(mine) == SEEDS:
            print(_fates(row["case"], mine), flush=True)
    return {"keeps": rows} if rows else {}


def _fates(case, rows):
    known = {k: [row[k] for row in rows if row[k] is not None] for k in ("source", "served", "ungated")}
    fates = ", ".join(f"{fate} {n}" for fate, n in Counter(row["fate"] for row in rows).items())
    return f"{case}: {', '.join(f'{k} {np.mean(v):.1%}' for k, v in known.items())}; {fates}"


def run_skewed(asked, pool):
    """Promotions by kind of candidate, on streams of two classes."""
    return skewed.summary(pool, asked.quick)


def run_replay(asked, pool):
    """Whether a replay decides the same again."""
    return {"replay_identical": again.is_identical(streams.models()["fashion"], pool)}


def run_rehearsed(asked, pool):
    """The small table of benchmarks/rehearsed.py."""
    import rehearsed

    return {"rehearsed": rehearsed.summary(quick=asked.quick)}


def _labels(text):
    return text if text == streams.REQUESTED else float(text)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer runs, the small net: five minutes")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument(
        "--streams", default=",".join(streams.GRID), help=f"of {', '.join(streams.STRUCTURES)}"
    )
    parser.add_argument("--nets", default="fashion,cifar,zeropad", help="of the streams")
    parser.add_argument("--seeds", type=int, default=1, help="of the streams")
    parser.add_argument("--stretch", type=int, default=1, help="how many times longer their domains last")
    parser.add_argument("--methods", default="norm,tent", help="of the streams")
    parser.add_argument(
        "--labels", type=_labels, default=0.3,
        help=f"share of records whose label comes, of the streams; or {streams.REQUESTED}",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 2))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    parts: dict[str, Callable] = {
        name: globals()[f"run_{name}"] for name in PARTS if name in asked.parts.split(",")
    }
    torch.set_num_threads(1)
    found, began_s = {}, time.monotonic()
    with ProcessPoolExecutor(asked.workers, multiprocessing.get_context("spawn")) as pool:
        for name, part in parts.items():
            print(f"-- {name}, {time.monotonic() - began_s:.0f} s", flush=True)
            found |= part(asked, pool)
    found["seconds"] = round(time.monotonic() - began_s, 1)
    text = json.dumps(found, indent=1)
    asked.json.write_text(text + "\n") if asked.json else print(text)


if __name__ == "__main__":
    main()
