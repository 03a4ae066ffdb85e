"""Peers of the benchmark: TENT, EATA and DeYO of torch-ttt, run on the same model and batches.

https://github.com/nikitadurasov/torch-ttt, MIT. Run as kindly as its interface allows: one Adam step a batch on the
engine itself (by default it copies the model for each batch, takes three steps at 1e-2 and forgets them), batch
statistics in BatchNorm (`engine.eval()`, which its examples call, would put the source's back), margins for C
classes (its own are those of 1,000). It answers from a further forward after the step; that is its interface.
Its `compute_fishers` cannot run (it calls its own methods with wrong arguments), so its EATA has no anchor.

Fisher anchors, resets and averages apart, these are the same three methods, so the times are of the same work.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tta_agent.bench.cost import Counter
from tta_agent.bench.protocol import Tick, own_copy
from tta_agent.bench.streams import Stream
from tta_agent.bench.tally import Tally, mean
from tta_agent.core import plugins
from tta_agent.core.errors import CannotAdapt
from tta_agent.core.task import decide
from tta_agent.core.types import Array
from tta_agent.models.loader import DeployedModel

PACKAGE = "torch_ttt"
NEEDS = (PACKAGE, "einops", "torchvision")
LEARNING_RATE = 1e-3  # what all three papers' CIFAR settings have, and ours

Peer = Callable[[Array], Array]


def missing() -> str | None:
    """Reason why no peer can run here, in one line; None where they can."""
    lost = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    return f"no peers: {' and '.join(lost)} not installed (pip install torch-ttt einops)" if lost else None


def names() -> tuple[str, ...]:
    """Names of the methods that have a peer here."""
    return () if missing() else tuple(_OPTIONS)


def make(name: str, source: DeployedModel) -> Peer:
    """Make a peer: a function of batches [B, ...] to logits [B, C] that learns as it answers.

    Args:
        name: one of `names()`.
        source: its module is adapted in place.

    Raises:
        CannotAdapt: it finds nothing to adapt in this model.
    """
    path, options = _OPTIONS[name]
    optimisation = {"optimizer_name": "adam", "num_steps": 1, "lr": LEARNING_RATE, "copy_model": False}
    engine = plugins.import_path(path)(source.module, optimisation, **options(math.log(source.classes)))
    if not any(parameter.requires_grad for parameter in engine.parameters()):
        raise CannotAdapt(f"torch-ttt's {name} finds nothing to adapt in this model")
    engine.eval()  # "adapt as you answer", in its terms
    engine.model.train()  # and with the statistics of the batch

    def answers(x: Array) -> Array:
        logits, _loss = engine(torch.from_numpy(x).to(source.device))
        return np.asarray(logits.detach().cpu().numpy())

    return answers


def measure(name: str, source: DeployedModel, stream: Stream, tick: Tick) -> dict[str, Any]:
    """Measure online accuracy and passes of a peer over the stream once.

    Raises:
        CannotAdapt: it finds nothing to adapt in this model.
    """
    torch.manual_seed(stream.spec.order)
    hooked = own_copy(source)
    counter = Counter(hooked.module, source.classes)
    peer, tally = make(name, hooked), Tally()
    for batch in stream.batches():
        with counter.counting() as passes:
            logits = peer(batch.x)
        tally.add(batch, decide(logits), passes.forwards, passes.backwards)
        tick(len(batch.labels))
    labels = tally.column("labels")
    forwards, backwards = tally.per_batch()
    online = mean(tally.online() == labels, labels >= 0)
    return {"records": len(labels), "online": online, "forwards": forwards, "backwards": backwards}


_OPTIONS: dict[str, tuple[str, Callable[[float], dict[str, float]]]] = {
    "tent": (f"{PACKAGE}.engine.tent_engine:TentEngine", lambda ln_c: {}),
    "eata": (
        f"{PACKAGE}.engine.eata_engine:EataEngine",
        lambda ln_c: {"e_margin": 0.4 * ln_c, "d_margin": 0.4},  # EATA's values for ten classes
    ),
    "deyo": (
        f"{PACKAGE}.engine.deyo_engine:DeYOEngine",
        lambda ln_c: {"e_margin": 0.5 * ln_c, "ent_norm": 0.4 * ln_c, "plpd_thresh": 0.2},
    ),
}
