"""Nets of timm with weights that know something: trained here, since no pretrained ones are at hand.

9,000 images of Fashion-MNIST, enlarged; the 1,000 others are the streams. The weights stay in the folder.
"""

from __future__ import annotations

import numpy as np
import onnx
import timm
import torch
from torch import nn

from benchmarks.zoo_corpus import torchscript
from tta_agent.models import onnx_export
from tta_agent.samples import dataset

NETS = ("resnet18", 32), ("mobilenetv3_small_100", 64), ("efficientnet_b0", 64)  # and pixels of an edge
TRAINED, EPOCHS, BATCH = 9000, 6, 64


def subjects(folder):
    """Name: net with BatchNorms as a file, its folded export, images of the streams, labels, source images."""
    some = dataset.load()
    for name, edge in NETS:
        x, net = enlarged(some.inputs, edge), trained(folder, name, edge)
        kept, example = folder / f"{name}.onnx", torch.rand(2, *x.shape[1:])
        onnx.save(onnx_export.export(net, example), kept)
        files = kept, torchscript(net, example, folder / f"{name}_folded.onnx")
        source = x[:TRAINED][::9].numpy()
        yield (
            name,
            files,
            x[TRAINED:],
            some.labels[TRAINED:],
            source[np.random.default_rng(0).permutation(1000)],
        )


def enlarged(inputs, edge):
    """Images [n, 1, edge, edge] in 0 .. 1."""
    pixels = torch.from_numpy(inputs).float() / 255
    return nn.functional.interpolate(pixels, (edge, edge), mode="bilinear", align_corners=False)


def trained(folder, name, edge, epochs=EPOCHS):
    """The net in inference mode; trained unless its weights are in the folder."""
    torch.manual_seed(0)
    net, path = timm.create_model(name, num_classes=10, in_chans=1), folder / f"{name}_{edge}.pt"
    if path.is_file():
        net.load_state_dict(torch.load(path, weights_only=True))
        return net.eval()
    some = dataset.load()
    x, y = some.inputs[:TRAINED], torch.from_numpy(some.labels[:TRAINED])
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.02)
    steps = epochs * -(-len(x) // BATCH)
    pace = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    for epoch in range(epochs):
        rows = torch.randperm(len(x)).split(BATCH)
        losses = [_step(net, enlarged(x[i.numpy()], edge), y[i], optimizer, pace) for i in rows]
        print(f"{name}: epoch {epoch + 1} of {epochs}, loss {np.mean(losses):.3f}", flush=True)
    torch.save(net.state_dict(), path)
    return net.eval()


def _step(net, x, y, optimizer, pace):
    loss = nn.functional.cross_entropy(net.train()(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    pace.step()
    return loss.item()
