"""Small trained nets that are no classifiers of images with several logits, and streams on which they err."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tta_agent.core.types import Answer

LENGTH, TOKENS, WORDS, STRANGE = 32, 12, 24, 4


@dataclass(frozen=True)
class Subject:
    """A net, its stream, and what the agent should say of it.

    Attributes:
        make: the trained net.
        draw: inputs [n, ...] and truths; clean ones, or shifted.
        method: adapter, with options.
    """

    make: Callable[[], nn.Module]
    draw: Callable[[int, int, bool], tuple[np.ndarray, list[Answer]]]
    shape: tuple[int, ...]
    task: str
    method: str
    options: str = "{}"


class Signal(nn.Module):
    """[B, 2, LENGTH] -> [B, outputs], with BatchNorm1d."""

    def __init__(self, outputs: int, end: Callable[[Tensor], Tensor] = lambda z: z) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(2, 16, 5, padding=2), nn.BatchNorm1d(16), nn.ReLU(),
            nn.Conv1d(16, 16, 5, padding=2), nn.BatchNorm1d(16), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(16, outputs)
        self.end = end

    def logits(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.logits(x))


class Text(nn.Module):
    """Ids [B, TOKENS] -> [B, 3]: a transformer encoder of one block, with LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS + STRANGE, 16)
        self.first, self.second, self.last = nn.LayerNorm(16), nn.LayerNorm(16), nn.LayerNorm(16)
        self.keys, self.mix = nn.Linear(16, 48), nn.Linear(16, 16)
        self.wide, self.narrow = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 3)

    def logits(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        q, k, v = self.keys(self.first(x)).chunk(3, -1)
        x = x + self.mix((q @ k.transpose(1, 2) / 4).softmax(-1) @ v)
        x = x + self.narrow(F.gelu(self.wide(self.second(x))))
        return self.head(self.last(x.mean(1)))

    forward = logits


def fresh(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """The same net at every call, trained once."""
    once = functools.cache(make)
    return lambda: copy.deepcopy(once())


def trained(net: nn.Module, x: np.ndarray, loss: Callable[[Tensor], Tensor], steps: int = 150) -> nn.Module:
    """The net after some steps on its own logits, in inference mode."""
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    inputs = torch.from_numpy(x)
    inputs = inputs.long() if isinstance(net, Text) else inputs
    for i in range(steps):
        rows = torch.arange(i * 64, i * 64 + 64) % len(inputs)
        optimizer.zero_grad()
        loss(net.logits(inputs[rows]), rows).backward()
        optimizer.step()
    return net.eval()


def waves(n: int, seed: int, shifted: bool, present: np.ndarray) -> np.ndarray:
    """[n, 2, LENGTH]: the waves that are present [n, K], in noise; shifted: louder noise, another gain and offset."""
    random = np.random.default_rng(seed)
    time = np.arange(LENGTH) / LENGTH
    pitch = np.array([2, 5, 9, 13])[: present.shape[1]]
    phase = random.uniform(0, 2 * np.pi, (n, 2, present.shape[1], 1))
    tones = np.sin(2 * np.pi * pitch[:, None] * time + phase) * present[:, None, :, None]
    x = tones.sum(2) + 0.4 * random.standard_normal((n, 2, LENGTH))
    x = 0.5 * x + np.array([[0.6], [-0.8]]) if shifted else x
    return x.astype(np.float32)


def signals(n: int, seed: int, shifted: bool) -> tuple[np.ndarray, list[Answer]]:
    labels = np.random.default_rng(seed + 1).integers(4, size=n)
    return waves(n, seed, shifted, np.eye(4)[labels]), labels.tolist()


def halves(n: int, seed: int, shifted: bool) -> tuple[np.ndarray, list[Answer]]:
    x, labels = signals(n, seed, shifted)
    return x, [int(label >= 2) for label in labels]


def chords(n: int, seed: int, shifted: bool) -> tuple[np.ndarray, list[Answer]]:
    present = np.random.default_rng(seed + 1).random((n, 4)) < 0.4
    sets: list[Answer] = [tuple(np.flatnonzero(row).tolist()) for row in present]
    return waves(n, seed, shifted, present.astype(float)), sets


def texts(n: int, seed: int, shifted: bool) -> tuple[np.ndarray, list[Answer]]:
    """Ids of words of which most are of one topic; shifted: a third of the words are ones never seen before."""
    random = np.random.default_rng(seed)
    topics = random.integers(3, size=n)
    of_topic = random.integers(WORDS // 3, size=(n, TOKENS)) + topics[:, None] * (WORDS // 3)
    ids = np.where(random.random((n, TOKENS)) < 0.45, of_topic, random.integers(WORDS, size=(n, TOKENS)))
    strange = random.integers(WORDS, WORDS + STRANGE, size=(n, TOKENS))
    ids = np.where(random.random((n, TOKENS)) < 0.4, strange, ids) if shifted else ids
    return ids.astype(np.float32), topics.tolist()


@fresh
def signal_net() -> nn.Module:
    x, labels = signals(3000, 0, False)
    truth = torch.tensor(labels)
    torch.manual_seed(0)
    return trained(Signal(4), x, lambda z, rows: F.cross_entropy(z, truth[rows]))


@fresh
def binary_net() -> nn.Module:
    x, labels = halves(3000, 0, False)
    truth = torch.tensor(labels, dtype=torch.float32)[:, None]
    torch.manual_seed(0)
    return trained(Signal(1), x, lambda z, rows: F.binary_cross_entropy_with_logits(z, truth[rows]))


@fresh
def label_set_net() -> nn.Module:
    x, sets = chords(3000, 0, False)
    truth = torch.tensor([[float(i in one) for i in range(4)] for one in sets])
    torch.manual_seed(0)
    net = Signal(4, torch.sigmoid)
    return trained(net, x, lambda z, rows: F.binary_cross_entropy_with_logits(z, truth[rows]), 200)


@fresh
def text_net() -> nn.Module:
    x, labels = texts(3000, 0, False)
    truth = torch.tensor(labels)
    torch.manual_seed(0)
    return trained(Text(), x, lambda z, rows: F.cross_entropy(z, truth[rows]))


SUBJECTS = {
    "signal": Subject(signal_net, signals, (2, LENGTH), "multiclass", "norm"),
    "binary": Subject(binary_net, halves, (2, LENGTH), "binary", "tent"),
    "label sets": Subject(label_set_net, chords, (2, LENGTH), "multilabel", "tent"),
    "text": Subject(
        text_net, texts, (TOKENS,), "multiclass", "tent", '{"tent": {"marginal": 1.0, "lr": 0.01}}'
    ),
}
