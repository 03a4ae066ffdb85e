"""ONNX graph of the source: export with every tensor under its torch name, patch by name, prove parity.

A swap changes tensors, not structure. So the source is exported once, normalisation unfused (ONNX Runtime
fuses when it loads), and each candidate is that graph with other initializers: milliseconds, no tracing.
The map from names to initializers is proved at start by the answers of a perturbed copy. Where it cannot be
made (an exporter that merged or renamed tensors), each candidate is exported anew. A model that was built from
the served file brings the file's own graph, which is then patched instead of an export.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import onnx
import onnx.numpy_helper
import torch
from torch import Tensor, nn

from tta_agent.core.errors import GraphError
from tta_agent.core.task import differs
from tta_agent.core.types import Array
from tta_agent.models import message_size, tracer
from tta_agent.models.data_files import DataFiles
from tta_agent.models.message_size import serialised
from tta_agent.models.ort_sessions import open_session, raw_answer
from tta_agent.models.perturbed import perturbed, portions
from tta_agent.models.probe_inputs import random_inputs
from tta_agent.models.probing import SINGLE, output_of, pick, raw
from tta_agent.models.python_module import SERVED_FILE
from tta_agent.models.weight_delta import put
from tta_agent.models.whole_numbers import as_taken

INPUT, OUTPUT = "input", SINGLE
SMALLER = "name the served file with its weights in a file beside it: TTA_MODEL__ONNX"
TOLERANCE = 1e-3
FIXED = 16
log = logging.getLogger(__name__)


class Served(Protocol):
    """The graph of the served file, and the places of the module's tensors in it."""

    @property
    def slots(self) -> Mapping[str, Any]:
        """Place of each tensor by its name in the module's state dict."""

    @property
    def tolerance(self) -> float:
        """Largest difference of logits from torch, in units of the largest, that its type of numbers explains."""

    @property
    def data(self) -> DataFiles | None:
        """Files in which large tensors stay, where they are too many for one message."""

    def patched(self, tensors: Mapping[str, Tensor]) -> bytes:
        """The graph with these tensors, serialised."""


class GraphTemplate:
    """The source's graph, from which every version is composed.

    Args:
        source: the deployed module, inference mode.
        shape: of one sample.
        served: the served file's graph, where the source was built from it.

    Raises:
        GraphError: it cannot be exported, or answers otherwise than torch.
    """

    def __init__(self, source: nn.Module, shape: tuple[int, ...], served: Served | None = None) -> None:
        self.fixed = _fixed(source, shape, served)
        self._source, self._output = raw(source).cpu().eval(), output_of(source)
        self._served = served
        self.data = served.data if served else None
        self._idle: frozenset[str] = (
            frozenset()
        )  # tensors without a part in the answer: heads that only training uses
        if served is None:
            self._proto = export(self._source, torch.from_numpy(self.fixed[:2]))
            self._slots = {item.name: item for item in self._proto.graph.initializer}
            for item in self._proto.graph.initializer:  # one form, which `put` keeps
                item.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(item), item.name))
        graph = served.patched({}) if served else serialised(self._proto, "its export has", SMALLER)
        self._check(self._source, graph, "the source's graph")
        self.patchable = self._prove_map()

    def compose(self, module: nn.Module) -> bytes:
        """The graph with the tensors of `module`, serialised."""
        if not self.patchable:
            module = raw(module).cpu()
            return serialised(export(module, torch.from_numpy(self.fixed[:2])), "its export has", SMALLER)
        if self._served is not None:
            return self._served.patched(floats(module))
        for name, tensor in floats(module).items():
            if name not in self._idle:
                put(self._slots[name], np.ascontiguousarray(tensor.cpu().numpy()))
        return serialised(self._proto, "its export has", SMALLER)

    def _prove_map(self) -> bool:
        missing = floats(self._source).keys() - (self._served.slots if self._served else self._slots).keys()
        if missing and not self._served and not self._answers_by(missing):
            self._idle, missing = frozenset(missing), set()
        if missing:
            log.warning(
                "%s is not in the graph under its name: each candidate is exported anew", min(missing)
            )
            return False
        self.patchable = True
        try:
            for names in portions(self._source, message_size.LARGEST // 2 if self.data else None):
                other = perturbed(self._source, names)
                self._check(other, self.compose(other), "a patched copy")
        except GraphError as error:
            log.warning("the graph cannot be patched by name (%s): each candidate is exported anew", error)
            return False
        return True

    def _answers_by(self, names: Collection[str]) -> bool:
        """Whether the source's answers depend on these tensors."""
        other = copy.deepcopy(self._source)
        for name, tensor in floats(other).items():
            if name in names:
                tensor.add_(1)
        before, after = (raw_answers(m, self.fixed, self._output.name) for m in (self._source, other))
        return not np.array_equal(before, after)

    def _check(self, module: nn.Module, graph: bytes, what: str) -> None:
        session = open_session(graph, output=self._output, data=self.data)
        expected, got = raw_answers(module, self.fixed, self._output.name), raw_answer(session, self.fixed)
        with np.errstate(invalid="ignore"):  # infinity on both sides is no agreement
            apart = float(np.abs(expected - got).max() / max(1.0, float(np.abs(expected).max())))
        if not apart <= (self._served.tolerance if self._served else TOLERANCE):
            raise GraphError(
                f"{what} answers otherwise in ONNX Runtime than in torch: logits differ by {apart:.2g} of the largest"
            )


def _fixed(source: nn.Module, shape: tuple[int, ...], served: Served | None) -> Array:
    """Inputs of all comparisons; for a graph in half precision those whose class its rounding does not decide."""
    if served is None or served.tolerance <= TOLERANCE:
        return random_inputs(source, FIXED, shape)
    x = random_inputs(source, 4 * FIXED, shape)
    two = np.sort(answers(source, x), axis=1)[:, -2:]
    margin = (two[:, -1] - two[:, 0]).reshape(len(x), -1).min(1)  # of label sets, that of the closest label
    return np.asarray(x[np.sort((-margin).argsort(kind="stable")[:FIXED])])


def export(module: nn.Module, example: Tensor) -> onnx.ModelProto:
    """Export a module: unfused, every tensor under its torch name, batch axis dynamic.

    Raises:
        GraphError: the module cannot be traced.
    """
    example = as_taken(module, example)
    with _quiet():
        try:
            return tracer.traced(module, example, INPUT)
        except Exception as error:  # the exporter raises many kinds
            plain = tracer.with_plain_attention(module)
            try:
                if plain is not None:
                    return tracer.traced(plain, example, INPUT)
            except Exception:
                pass  # the first error says more
            raise GraphError(
                f"the model cannot be exported to ONNX: {tracer.cause(error)}; {SERVED_FILE}"
            ) from error


def floats(module: nn.Module) -> dict[str, Tensor]:
    """Floating-point tensors of a module by name, all of which a graph of it must hold."""
    return {name: t.detach() for name, t in module.state_dict().items() if t.is_floating_point()}


def answers(module: nn.Module, x: Array) -> Array:
    """Logits of a module on numpy inputs, [B, ...] -> [B, C]."""
    return raw_answers(module, x, None)


@torch.no_grad()
def raw_answers(module: nn.Module, x: Array, output: str | None) -> Array:
    """One output of a module on numpy inputs; `output` is its name where there are several."""
    device = next(module.parameters()).device
    return np.asarray(pick(module(torch.from_numpy(x).to(device)), output).float().cpu().numpy())


def parity(expected: Array, got: Array) -> tuple[float, float]:
    """Share of rows with the same answer, and the largest absolute difference of the logits."""
    return float((~differs(expected, got)).mean()), float(np.abs(expected - got).max())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            noisy.setLevel(level)
