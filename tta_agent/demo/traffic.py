"""Simulated users: one request an image at a steady rate, a shift, and labels that come late."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import torch

from tta_agent import corruptions
from tta_agent.core.stream_protocols import Producer, WritingCodec
from tta_agent.core.task import decide
from tta_agent.core.types import Array
from tta_agent.models.ort_sessions import Session, run
from tta_agent.samples import dataset
from tta_agent.stream.codecs import oip

IN_FLIGHT = 64  # requests that may wait for an answer; later ones wait their turn, and the delay counts
TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class TrafficPlan:
    """Rate, shift and labels of the traffic. More than one family of `corruptions` is a mixture, one an image."""

    rate_per_s: float
    families: tuple[str, ...]
    severity: int
    label_rate: float
    label_delay_s: float
    seed: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Images [N, ...] as the model takes them, clean and shifted; labels [N]; whether the source is right [N]."""

    clean: Array
    shifted: Array
    labels: Array
    source_clean: Array
    source_shifted: Array


@dataclass(frozen=True, slots=True)
class ServedRequest:
    """One request and whether its answer was right; `version` is -1 where it failed."""

    t_s: float
    shifted: bool
    version: int
    correct: bool
    source_correct: bool
    latency_ms: float


def make_workload(images: dataset.LabelledImages, plan: TrafficPlan, source: Session) -> Workload:
    """Corrupt every image once, in the order of the seed, and predict all of them with the source."""
    order = np.random.default_rng(plan.seed).permutation(len(images.labels))
    clean = torch.from_numpy(images.inputs[order]).float() / 255
    shifted, _ = corruptions.mixture(clean, plan.families, plan.severity, plan.seed, "imagenet")
    labels = images.labels[order]
    right = [_answers(source, x.numpy()) == labels for x in (clean, shifted)]
    return Workload(clean.numpy(), shifted.numpy(), labels, right[0], right[1])


def _answers(session: Session, x: Array) -> Array:
    return np.concatenate([decide(run(session, x[i : i + 250])) for i in range(0, len(x), 250)])


class Traffic:
    """Sender of requests and labels, in a thread of its own until it is stopped.

    Args:
        url: base address of the server.
        model: name of the model there.
        producer, codec, labels_topic: where labels go, and their wire format.
    """

    def __init__(
        self,
        plan: TrafficPlan,
        workload: Workload,
        url: str,
        model: str,
        producer: Producer,
        codec: WritingCodec,
        labels_topic: str,
    ) -> None:
        self._plan, self._workload = plan, workload
        self._producer, self._codec, self._labels_topic = producer, codec, labels_topic
        self._path = f"{url}/v2/models/{model}/infer"
        self._random = np.random.default_rng(plan.seed + 1)
        self._stop = threading.Event()
        self._shifted = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="traffic", daemon=True)
        self.answers: list[ServedRequest] = []
        self.errors: Counter[str] = Counter()
        self.labels_sent = 0
        self.started_s = 0.0

    def start(self) -> None:
        """Start with clean images."""
        self.started_s = time.time()
        self._thread.start()

    def shift(self) -> None:
        """Send corrupted images from now on."""
        self._shifted.set()

    def stop(self) -> None:
        """Send no new request, and wait for the answers that are due."""
        self._stop.set()
        self._thread.join(TIMEOUT_S + 5)

    async def _run(self) -> None:
        # the client closes idle connections, long before any server would
        limits = httpx.Limits(
            max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT, keepalive_expiry=2.0
        )
        async with (
            httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits) as client,
            asyncio.TaskGroup() as tasks,
        ):
            began_s, i = time.perf_counter(), 0
            while not self._stop.is_set():
                due_s = began_s + i / self._plan.rate_per_s
                await asyncio.sleep(max(due_s - time.perf_counter(), 0))
                tasks.create_task(self._one(client, i, due_s))
                i += 1

    async def _one(self, client: httpx.AsyncClient, i: int, due_s: float) -> None:
        shifted, row, name = self._shifted.is_set(), i % len(self._workload.labels), f"demo-{i:07d}"
        x = (self._workload.shifted if shifted else self._workload.clean)[row : row + 1]
        try:
            version, answer = await self._ask(client, name, x)
        except Exception as error:  # whatever it is, a user did not get an answer
            self.errors[f"{type(error).__name__}: {error}"] += 1
            version, answer = -1, -1
        # measured from when it was due: a server that stalls cannot hide the requests that wait
        latency_ms = (time.perf_counter() - due_s) * 1000
        truth = int(self._workload.labels[row])
        source_right = (self._workload.source_shifted if shifted else self._workload.source_clean)[row]
        now_s = time.time() - self.started_s
        self.answers.append(
            ServedRequest(now_s, shifted, version, answer == truth, bool(source_right), latency_ms)
        )
        if version >= 0 and self._random.random() < self._plan.label_rate:
            await self._label(name, truth)

    async def _ask(self, client: httpx.AsyncClient, name: str, x: Array) -> tuple[int, int]:
        body, head = oip.encode(oip.Body({"input": x}, {}, name, None, None))
        headers = {"Inference-Header-Content-Length": str(head), "traceparent": self._traceparent()}
        response = await client.post(self._path, content=body, headers=headers)
        response.raise_for_status()
        length = response.headers.get("Inference-Header-Content-Length")
        answer = oip.decode(response.content, int(length) if length else None)
        return int(answer.version or -1), int(decide(answer.outputs["logits"])[0])

    async def _label(self, name: str, truth: int) -> None:
        await asyncio.sleep(self._plan.label_delay_s)
        label = self._codec.encode_label(name, truth, time.time())
        await asyncio.to_thread(self._producer.send, self._labels_topic, *label)  # a broker may make it wait
        self.labels_sent += 1

    def _traceparent(self) -> str:
        trace = self._random.bytes(24).hex()
        return f"00-{trace[:32]}-{trace[32:]}-01"


def window(answers: list[ServedRequest], since_s: float, until_s: float) -> dict[str, Any]:
    """Accuracies of the served answers and of the source on the same records, from `since_s` to `until_s`."""
    part = [a for a in answers if since_s <= a.t_s < until_s and a.version >= 0]
    n = len(part)
    return {
        "n": n,
        "served": sum(a.correct for a in part) / n if n else None,
        "source": sum(a.source_correct for a in part) / n if n else None,
    }
