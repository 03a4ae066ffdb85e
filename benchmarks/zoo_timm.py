"""Which families of timm and torchvision adapt by name?

python -m benchmarks.zoo_timm [--quick] [--only NAME,NAME] [--seconds 400] [--json OUT]

Each net has random weights and is loaded by name from a file of them. Then: a round of `tent`, a frozen copy,
the export, a version patched from it, and its parity in ONNX Runtime in units of the largest logit. Each runs in a
process of its own with a time limit. *ok*: all of it, patched by name, and parity of 1e-4 or better.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from safetensors.torch import save_file

from tta_agent import testing
from tta_agent.core import plugins
from tta_agent.models import loader, onnx_export
from tta_agent.models.batchnorm import census
from tta_agent.models.inspection import apart
from tta_agent.models.ort_sessions import open_session, raw_answer
from tta_agent.models.probing import raw

FAMILIES = {  # name: side of an image
    "resnet18": 64, "resnetv2_18": 64, "res2net50_26w_4s": 64, "seresnet18": 64, "skresnet18": 64, "resnest14d": 64,
    "cspresnet50": 64, "regnety_002": 64, "vgg11_bn": 64, "densenet121": 64, "dla46_c": 64, "hrnet_w18_small": 64,
    "inception_v3": 160, "torchvision.models:googlenet": 96, "xception41": 96, "repvgg_a0": 64, "mobileone_s0": 64,
    "efficientnet_b0": 64, "mobilenetv3_small_100": 64, "mobilenetv4_conv_small": 64, "ghostnet_100": 64,
    "rexnet_100": 64, "starnet_s1": 64, "convnext_atto": 64, "poolformer_s12": 64, "edgenext_xx_small": 64,
    "mobilevit_xxs": 64, "fastvit_t8": 64, "vit_tiny_patch16_224": 224, "deit_tiny_patch16_224": 224,
    "mixer_s32_224": 224, "levit_128s": 224, "xcit_nano_12_p16_224": 224, "hiera_tiny_224": 224,
    "swin_tiny_patch4_window7_224": 224, "swinv2_tiny_window8_256": 256, "maxvit_rmlp_pico_rw_256": 256,
    "pvt_v2_b0": 224, "crossvit_9_240": 240, "nf_regnet_b0": 64,
}  # fmt: skip
QUICK = (
    "resnetv2_18",
    "dla46_c",
    "fastvit_t8",
    "convnext_atto",
    "torchvision.models:googlenet",
    "nf_regnet_b0",
)
REFUSED = "refused: "
TOLERANCE = 1e-4
SAMPLES = 8


def examined(name, side, folder):
    """Findings of one net."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logging.disable(logging.WARNING)
    began = time.perf_counter()
    x = torch.randn(SAMPLES, 3, side, side)
    source = loaded(name, tuple(x.shape[1:]), Path(folder))
    row = {"layers": census(source.module), "parameters": sum(p.numel() for p in source.module.parameters())}
    try:
        adapter = plugins.make("adapters", "tent", {}, source.module)
    except Exception as error:  # which one is told
        return row | {"ok": False, "why": f"{REFUSED}{error}".partition(";")[0]}
    report = adapter.step(x, adapter.forward(x).float(), testing.everyone(x))
    served, template = adapter.servable(), onnx_export.GraphTemplate(source.module, source.shape)
    session = open_session(template.compose(served), output=source.output)
    with torch.no_grad():
        expected = raw(served)(x).numpy()
    moved = float(np.abs(expected - onnx_export.raw_answers(raw(source.module), x.numpy(), None)).max())
    row |= {"parity": apart(expected, raw_answer(session, x.numpy())), "patched": template.patchable}
    row |= {"moved": moved, "loss": report.loss, "seconds": round(time.perf_counter() - began, 1)}
    return row | {"ok": template.patchable and row["parity"] <= TOLERANCE and moved > 0}


def loaded(name, shape, folder):
    """The deployed model, from a file of random weights; none is 0, which an exporter would drop."""
    way = (None, name) if ":" in name else (name, None)
    if way[0]:
        import timm

        net, classes = timm.create_model(name, num_classes=10), 10
    else:
        net, classes = plugins.import_path(name)(), None
    for tensor in onnx_export.floats(net).values():
        tensor.add_(0.04 * (torch.rand(tensor.shape) - 0.5) * (1 + tensor.abs()))
    settle(net, torch.randn(SAMPLES, *shape))
    weights = folder / "weights.safetensors"
    save_file({key: tensor.contiguous().clone() for key, tensor in net.state_dict().items()}, weights)
    return loader.load(*way, weights, shape=shape, classes=classes, device="cpu")


@torch.no_grad()
def settle(net, x):
    """Give BatchNorms the statistics of some inputs: those of random weights make numbers of any size."""
    for layer in net.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.momentum = 1.0
    net.train()(x)
    net.eval()


def _child(pipe, *task):
    try:
        pipe.send(examined(*task))
    except Exception as error:  # a row of the table
        pipe.send({"ok": False, "why": f"{type(error).__name__}: {error}".partition("\n")[0][:200]})


def families(quick=False, only=None, seconds=400):
    """`timm`, `timm_ok` and the rows by name; each net in a process of its own."""
    names = [
        name for name in FAMILIES if (only and name in only) or (not only and (not quick or name in QUICK))
    ]
    context, rows = multiprocessing.get_context("spawn"), {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            mine, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(theirs, name, FAMILIES[name], folder))
            process.start()
            theirs.close()
            try:
                rows[name] = (
                    mine.recv() if mine.poll(seconds) else {"ok": False, "why": f"more than {seconds} s"}
                )
            except EOFError:
                rows[name] = {"ok": False, "why": "the process died"}
            process.kill()
            process.join()
        print(name, rows[name], flush=True)
    return {"timm": len(rows), "timm_ok": sum(row["ok"] for row in rows.values()), "timm_rows": rows}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", type=lambda text: text.split(","))
    parser.add_argument("--seconds", type=int, default=400)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = families(args.quick, args.only, args.seconds)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    print(found["timm_ok"], "of", found["timm"])


if __name__ == "__main__":
    main()
