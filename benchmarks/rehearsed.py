"""Promoting without a label: rehearsed on some images, tried on others, each shift by a model that never saw it.

    python benchmarks/rehearsed.py --nets cifar10_resnet20 --adapters tent --budget-worlds 120

Rehearsed on `cifar10_source.npz` (nothing else is read then), tried on `cifar10_test.npz`: for every family that
arrives, all rehearsed rows in which it had any part are left out before anything is fitted. Printed for each rule:
share of worlds promoted, share harmed (promoted although accuracy falls), the worst promoted, the share promoted of
those with 5 and 3 points to gain, and how often the lower bound holds. `strangers` are streams on which the word gain
means little (noise, digits, clothes): all must be inconclusive. Finished groups are kept in --work.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from tta_agent import corruptions
from tta_agent.bench import subjects
from tta_agent.core import process
from tta_agent.evaluation.anchor_set import stratified
from tta_agent.evaluation.rehearsed import regress, store
from tta_agent.evaluation.rehearsed.proof import ALPHAS
from tta_agent.evaluation.rehearsed.support import HONEST, Support
from tta_agent.evaluation.rehearsed.table import EvidenceTable
from tta_agent.rehearsal import run, scenarios
from tta_agent.rehearsal.failures import KINDS
from tta_agent.samples import dataset as images
from tta_agent.settings import env

AETTA_RATE = 0.4  # as in the paper for ten classes
SEED = 50  # of the trial: other draws than while rehearsing


def settings(args, net, adapter):
    model = subjects.model_flags("resnet20", subjects.find(f"{net}.safetensors"), None, subjects.CIFAR_SHAPE)
    home = {"path": args.work / "store"}
    return env.load(model=model, mode="shadow", adapt={"method": adapter}, store=home)


def anchor_file(args, count):
    """The first `count` images of the source file, evenly from the classes."""
    path = args.work / f"anchor-{count}.npz"
    if not path.is_file():
        with np.load(subjects.find(subjects.CIFAR_SOURCE)) as data:
            rows = stratified(data["labels"], count, 0)
            np.savez(path, inputs=data["inputs"][rows], labels=data["labels"][rows])
    return path


def coloured(images):
    """Grey images of any size as colour images of 32 x 32."""
    x = torch.from_numpy(np.asarray(images, np.float32)).reshape(len(images), 1, *images.shape[-2:])
    x = F.interpolate(x, size=(32, 32), mode="bilinear", align_corners=False)
    return x.clamp(0, 255).round().to(torch.uint8).expand(-1, 3, -1, -1).numpy().copy()


def stranger_files(args):
    """Streams of another kind, by name."""
    random = np.random.default_rng(0)
    digits = load_digits()
    clothes = subjects.strangers(subjects.CIFAR_SHAPE)
    made = {
        "noise": (random.integers(0, 256, (1500, 3, 32, 32), dtype=np.uint8), np.arange(1500) % 10),
        "digits": (coloured(digits.images * 16), digits.target),
        "clothes": (coloured(clothes.inputs[:1500]), clothes.labels[:1500]),
    }
    for name, (inputs, labels) in made.items():
        if not (args.work / f"{name}.npz").is_file():
            np.savez(args.work / f"{name}.npz", inputs=inputs, labels=labels)
    return {name: args.work / f"{name}.npz" for name in made}


def played(args, config, groups, name):
    """Rows of the groups, from disk or played now."""
    saved = store.RehearsalStore(args.work, name)
    run.carry_out(
        config, groups, saved, workers=args.workers, seconds=1e9,
        on_finished=lambda done, total, group: print(f"  {name}: {done}/{total} {group.family}", flush=True),
    )  # fmt: skip
    return EvidenceTable.of(saved.rows({config.name(group) for group in groups}))


def judged(train, trial):
    """By family left out: lower bounds by alpha [R], guesses [R], and whether evidence is supported [R]."""
    inner = regress.left_out(train)
    value, families = regress.scores(inner, train.gains), np.array([row.family for row in train.rows])
    lower = {alpha: np.zeros(len(trial)) for alpha in ALPHAS}
    guess, inside = np.zeros(len(trial)), np.zeros(len(trial), bool)
    for family in trial.families:
        mine, others = trial.of_family(family), train.without(family)
        part = train.part(others)
        ensemble = regress.GainEnsemble(part)
        support = Support(part)
        found = ensemble.guess(trial.evidence[mine])
        guess[mine] = found.gain
        inside[mine] = [support.outside(e) is None for e in trial.evidence[mine]]
        for alpha in ALPHAS:
            lower[alpha][mine] = regress.bound(
                found, regress.quantile(value[others], families[others], alpha)
            )
    return lower, guess, inside


def rules(trial, lower, inside):
    """By name: what is promoted [R], and the lower bound that it was promoted by, or None."""

    def seen(name):
        return trial.evidence[:, trial.names.index(name)]

    aetta = np.array([row.beside.get("aetta", np.nan) for row in trial.rows])
    return {
        "always adapt": (np.ones(len(trial), bool), None),
        "lower mean entropy": (seen("entropy_gained") < 0, None),
        "higher histogram entropy": (seen("spread_gained") > 0, None),
        "ATC higher": (seen("atc_gained") > 0, None),
        "DoC higher": (seen("doc_gained") > 0, None),
        "AETTA higher (not on broken answers)": (aetta > 0, None),
        "guarded, disagreement < 3 %": (seen("disagreement") < 0.03, None),
        **{f"rehearsed, alpha {a:.2f}": ((low > 0) & inside, low) for a, low in lower.items()},
    }  # fmt: skip


def figures(gains, promoted, low, inside):
    def power(least):
        there = gains >= least
        return float(promoted[there].mean()) if there.any() else None

    return {
        "worlds": len(gains),
        "promoted": float(promoted.mean()),
        "harmful": float((promoted & (gains < 0)).mean()),
        "worst": float(gains[promoted].min()) if promoted.any() else None,
        "power_at_5_points": power(0.05),
        "power_at_3_points": power(0.03),
        "coverage": None if low is None else float((gains >= low)[inside].mean()),
        "supported": None if low is None else float(inside.mean()),
    }


def table(rows):
    def cell(value, form):
        return "" if value is None else form.format(value)

    lines = ["| rule | promoted | harmful | worst | at 5 points | at 3 points | coverage | supported |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, f in rows.items():
        cells = [cell(f["promoted"], "{:.2f}"), cell(f["harmful"], "{:.3f}"),
                 cell(None if f["worst"] is None else 100 * f["worst"], "{:+.1f}"),
                 *(cell(f[k], "{:.2f}") for k in ("power_at_5_points", "power_at_3_points")),
                 *(cell(f[k], "{:.3f}") for k in ("coverage", "supported"))]  # fmt: skip
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def measure(args, net, adapter, anchor_images):
    """One cell of the table: everything for one net, adapter and size of anchor."""
    anchor, configured = anchor_file(args, anchor_images), settings(args, net, adapter)
    name = f"{net}-{adapter}-{anchor_images}"
    groups = -(-args.budget_worlds // 9)
    train = played(
        args,
        run.PlayerConfig(configured, anchor),
        scenarios.bank(failures=KINDS)[:groups],
        f"{name}-rehearsal",
    )
    strangers = stranger_files(args)
    config = run.PlayerConfig(
        configured, anchor, subjects.find(subjects.CIFAR_TEST), strangers["clothes"], AETTA_RATE
    )
    bank = scenarios.bank(corruptions.NAMES, args.severities, (SEED,), args.structures, KINDS)
    trial = played(args, config, bank[: -(-args.trial_worlds // 9)], f"{name}-trial")
    lower, guess, inside = judged(train, trial)
    real = np.array([row.kind in HONEST for row in trial.rows])
    found = {}
    for group, which in (("all", np.ones(len(trial), bool)), ("adapter", real), ("injected", ~real)):
        found[group] = {
            rule: figures(
                trial.gains[which], promoted[which], None if low is None else low[which], inside[which]
            )
            for rule, (promoted, low) in rules(trial, lower, inside).items()
        }
    error = float(np.abs(guess - trial.gains).mean())
    found.update(
        rehearsed_worlds=len(train), error=error, strangers=outside(args, configured, anchor, name, train)
    )
    print(f"\n## {net}, {adapter}, anchor of {anchor_images} images ({len(train)} rehearsed worlds)\n")
    for group in ("all", "adapter", "injected"):
        print(f"{group}: {found[group]['always adapt']['worlds']} worlds\n\n{table(found[group])}\n")
    print(
        f"mean absolute error {100 * error:.1f} points; not conclusive on strangers: {found['strangers']}\n",
        flush=True,
    )
    return found


def outside(args, configured, anchor, name, train):
    """Share of worlds on strange streams that are not supported, by stream; 1 is wanted."""
    support = Support(train)
    orders = ("iid", "correlated")
    groups = [
        scenarios.ScenarioGroup(("clean",), 1, SEED + k, structures=orders) for k in range(args.strangers)
    ]
    shares = {}
    for kind, path in stranger_files(args).items() if groups else ():
        trial = played(args, run.PlayerConfig(configured, anchor, path), groups, f"{name}-{kind}")
        mine = [
            e for e, row in zip(trial.evidence, trial.rows, strict=True) if row.kind in ("adapted", "stale")
        ]
        shares[kind] = float(np.mean([support.outside(e) is not None for e in mine]))
    return shares


def summary(quick, workers=2):
    """The figures of `benchmarks/gate.py`: the packaged net and images, TENT; half of them rehearsed on, half tried.

    Args:
        quick: fewer groups.
    """
    groups, tried = (36, 18) if quick else (100, 50)
    with tempfile.TemporaryDirectory(prefix="rehearsed-") as work:
        args = argparse.Namespace(work=Path(work), workers=workers)
        files = {name: args.work / f"{name}.npz" for name in ("anchor", "arriving")}
        some = images.read_npz(images.ASSETS / images.SHIPPED)
        half = len(some.labels) // 2
        for file, part in zip(files.values(), (slice(half, None), slice(half)), strict=True):
            np.savez(file, inputs=some.inputs[part], labels=some.labels[part])
        configured = fashion(args)
        train = played(
            args,
            run.PlayerConfig(configured, files["anchor"]),
            scenarios.bank(failures=KINDS)[:groups],
            "rehearsal",
        )
        bank = scenarios.bank(corruptions.NAMES, seeds=(SEED,), failures=KINDS)[:tried]
        trial = played(args, run.PlayerConfig(configured, files["arriving"]), bank, "trial")
    lower, _, inside = judged(train, trial)
    alpha = ALPHAS[1]
    found = figures(trial.gains, (lower[alpha] > 0) & inside, lower[alpha], inside)
    return {**found, "nominal": 1 - alpha, "rehearsed_worlds": len(train)}


def fashion(args):
    """Settings of the packaged net."""
    model = {
        "factory": "tta_agent.samples.nets:fashion_net", "weights": str(images.ASSETS / images.WEIGHTS),
        "input_shape": [1, 28, 28],
    }  # fmt: skip
    return env.load(model=model, mode="shadow", adapt={"method": "tent"}, store={"path": args.work / "store"})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nets", default="cifar10_resnet20,cifar10_resnet20_zeropad")
    parser.add_argument("--adapters", default="norm,tent,deyo,roid")
    parser.add_argument("--severities", default="1,3,5")
    parser.add_argument("--structures", default=",".join(scenarios.STRUCTURES))
    parser.add_argument("--anchor-images", default="5000", help="of the rehearsal: 500,1000,5000")
    parser.add_argument("--budget-worlds", type=int, default=650, help="rehearsed for each net and adapter")
    parser.add_argument("--trial-worlds", type=int, default=500, help="tried")
    parser.add_argument("--strangers", type=int, default=2, help="scenes for each stream of another kind")
    parser.add_argument("--workers", type=int, default=2, choices=(0, 1, 2))
    parser.add_argument("--work", type=Path, default=Path("bench-rehearsed"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    process.budget(1)
    args.severities = tuple(int(s) for s in args.severities.split(","))
    args.structures = tuple(args.structures.split(","))
    args.work.mkdir(parents=True, exist_ok=True)
    results = {
        f"{net}/{adapter}/{count}": measure(args, net, adapter, int(count))
        for net in args.nets.split(",")
        for adapter in args.adapters.split(",")
        for count in args.anchor_images.split(",")
    }
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
