"""TeSLA's refinement of pseudo-labels: the nearest among remembered samples vote.

One queue per class holds the features and probabilities of the last samples that were given to it. The batch goes
in first, so a sample is its own nearest neighbour. (The authors' queues may overrun once, by what is left of the
batch that fills them, and keep the first of a batch that is larger than the queue; these keep the newest.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tta_agent.core.task import decide

NAMES = ("features", "probabilities", "filled")


def empty(classes: int, length: int, features: int, device: torch.device) -> dict[str, Tensor]:
    """C queues of `length` places; the newest stands last, and `filled` [C] says how many places are taken."""
    return {
        "features": torch.zeros(classes, length, features, device=device),
        "probabilities": torch.zeros(classes, length, classes, device=device),
        "filled": torch.zeros(classes, dtype=torch.int64, device=device),
    }


def push(queues: dict[str, Tensor], features: Tensor, probabilities: Tensor) -> None:
    """Let samples in, features [n, F] and probabilities [n, C], each into the queue of its likeliest class."""
    length = queues["features"].shape[1]
    label = decide(probabilities)
    for one in sorted(set(label.tolist())):
        new = (label == one).nonzero().flatten()[-length:]
        for name, values in (("features", features), ("probabilities", probabilities)):
            queue = queues[name]
            queue[one] = torch.cat((queue[one, len(new) :], values[new].to(queue.dtype)))
        queues["filled"][one] = (queues["filled"][one] + len(new)).clamp(max=length)


def vote(queues: dict[str, Tensor], features: Tensor, neighbours: int) -> Tensor:
    """[n, F] -> [n, C]: mean probabilities of the `neighbours` of largest cosine (or of all there are)."""
    length = queues["features"].shape[1]
    taken = torch.arange(length, device=features.device) >= length - queues["filled"][:, None]
    known, probabilities = queues["features"][taken], queues["probabilities"][taken]
    cosine = F.normalize(features.to(known.dtype)) @ F.normalize(known).T
    nearest = cosine.topk(min(neighbours, len(known)), dim=1).indices
    return probabilities[nearest].mean(1)
