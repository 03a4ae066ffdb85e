"""Module of the served file, proved by its answers, and patching of the file's graph."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx.external_data_helper import uses_external_data
from torch import Tensor, nn

from tta_agent.core.errors import ConfigError, GraphError, nearest
from tta_agent.core.types import Array
from tta_agent.models import external_data, weight_delta
from tta_agent.models.data_files import DataFiles
from tta_agent.models.message_size import serialised
from tta_agent.models.onnx_export import answers
from tta_agent.models.onnx_import.builder import build, refuse_unknown
from tta_agent.models.onnx_import.dtypes import TOLERANCE, as_stored
from tta_agent.models.onnx_import.naming import Slot
from tta_agent.models.onnx_import.quantised import FLOAT_FILE, Codes, put
from tta_agent.models.onnx_import.reading import INSTEAD, File, read
from tta_agent.models.onnx_import.sites import plausible
from tta_agent.models.ort_sessions import Session, open_session, raw_answer, session_output
from tta_agent.models.outputs import ONE_OF, ModelOutput, described
from tta_agent.models.probe_inputs import random_inputs
from tta_agent.models.probing import refuse_absurd_sample

log = logging.getLogger(__name__)
MOST_BATCH = 4096
_SAMPLES = 5  # neither of the batch sizes that the module was built from


@dataclass(frozen=True, slots=True)
class Graph:
    """The file's own graph: same inputs and outputs, same operators, other tensors.

    Attributes:
        data: files in which large tensors stay, where they are too many for one message.
    """

    proto: onnx.ModelProto
    slots: Mapping[str, Slot]
    tolerance: float = TOLERANCE
    codes: Mapping[str, Codes] = field(default_factory=dict)
    data: DataFiles | None = None

    def patched(self, tensors: Mapping[str, Tensor]) -> bytes:
        """The graph with these tensors of the module's state dict, serialised.

        Raises:
            GraphError: a name that the module does not have, another shape, or more than one message holds.
        """
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        items = {item.name: item for item in proto.graph.initializer}
        coded = {}
        for name, tensor in tensors.items():
            if name not in self.slots:
                raise GraphError(f"tensor {name!r} is not in the served graph")
            slot = self.slots[name]
            codes = self.codes.get(slot.initializer)
            item = items[codes.codes if codes else slot.initializer]
            value = (tensor.t() if slot.transposed else tensor).detach().cpu().numpy()
            if value.size != math.prod(item.dims):
                raise GraphError(
                    f"tensor {name!r} has shape {list(tensor.shape)}, the graph has {list(item.dims)}"
                )
            value = value.reshape(tuple(item.dims))
            if codes:
                coded[slot.initializer] = np.ascontiguousarray(value)
            elif not self._kept(item, value):
                weight_delta.put(item, np.ascontiguousarray(as_stored(value, item)))
        put(coded, self.codes, items)
        return serialised(
            proto, "the tensors that have changed have", "choose a method that moves fewer, tent"
        )

    def _kept(self, item: onnx.TensorProto, value: Array) -> bool:
        """Whether a tensor stands in a file, and is as it was."""
        if self.data is None or not uses_external_data(item):
            return False
        return external_data.holds(item, value, lambda part: as_stored(part, item), self.data.folder)


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A module that answers as the file does.

    Attributes:
        module: inference mode, on the CPU.
        shape: of one sample.
        graph: the file's graph, to be patched.
        folded: number of layers into which a BatchNorm seems to have been folded at export.
        output: name of the output that is the answer; None where the file has a single one.
    """

    module: nn.Module
    shape: tuple[int, ...]
    graph: Graph
    folded: int
    output: str | None = None


def load(path: Path, shape: tuple[int, ...] | None = None, output: str | None = None) -> OnnxModel:
    """Load the module of a served file.

    Args:
        path: of the file.
        shape: of one sample; needed where the file leaves a size open.
        output: name of the output that is the answer; where None, the only one of its form.

    Raises:
        ConfigError: the file cannot be read, has operators that are not supported or no output or several that may
            be the answer, insists on its batch size, or the module answers otherwise than the file.
    """
    if not path.is_file():
        raise ConfigError(f"TTA_MODEL__ONNX={path}: no such file")
    file = read(path)
    shape = _shape(file, shape, path)
    refuse_absurd_sample(shape, f"TTA_MODEL__ONNX={path}")
    try:
        served = _open(file, output, path)
        if name := session_output(served).name:
            file = file.ending_in(name)
        module, slots = build(file, shape)
        if next(module.parameters(), None) is None:
            raise GraphError(
                "it has no weights, nothing that could adapt;\nname the file of the model itself"
            )
        names = external_data.files(file.proto)
        data = DataFiles(path.parent, names) if names else None
        graph = Graph(file.proto, slots, file.tolerance, file.codes, data)
        _prove(served, file, module, graph, shape)
    except GraphError as error:
        raise ConfigError(f"TTA_MODEL__ONNX={path}: {error}") from error
    except ConfigError:
        raise
    except Exception as error:  # what a file makes torch and numpy raise is not ours to foresee
        told = str(error).partition("\n")[0][:200] or type(error).__name__
        raise ConfigError(f"TTA_MODEL__ONNX={path} cannot be read into torch: {told};\n{INSTEAD}") from error
    return OnnxModel(module, shape, graph, len(plausible(module, slots)), session_output(served).name)


def _open(file: File, wanted: str | None, path: Path) -> Session:
    names = [value.name for value in file.proto.graph.output]
    if wanted is not None and wanted not in names:
        raise ConfigError(
            f"TTA_MODEL__OUTPUT={wanted}: {path.name} has no such output; {nearest(wanted, names)}"
        )
    try:
        served = open_session(path, output=ModelOutput(wanted))
    except GraphError:
        refuse_unknown(file)  # tells more, where it is that
        raise
    if wanted is None and len(names) > 1:
        shapes = {node.name: node.shape for node in served.get_outputs()}
        log.info(ONE_OF, described(shapes), session_output(served).name)
    return served


def _shape(file: File, given: tuple[int, ...] | None, path: Path) -> tuple[int, ...]:
    sizes = tuple(n for n in file.shape if n)
    fits = given is not None and len(given) == len(file.shape)
    if given is None and len(sizes) == len(file.shape):
        return sizes
    if given is not None and fits and all(n in (None, m) for n, m in zip(file.shape, given, strict=True)):
        return given
    says = [n or "?" for n in file.shape]
    raise ConfigError(
        f"TTA_MODEL__INPUT_SHAPE={list(given) if given else 'not given'}: "
        f"{path.name} takes samples of shape {says}"
    )


def _prove(served: Session, file: File, module: nn.Module, graph: Graph, shape: tuple[int, ...]) -> None:
    if file.batch is not None and not 0 < file.batch <= MOST_BATCH:
        raise GraphError(f"it insists on batches of {file.batch}; export it with a dynamic batch axis")
    batch = file.batch or _SAMPLES
    calls = 1 if file.batch is None else max(2, -(-_SAMPLES // batch))
    x = random_inputs(module, calls * batch, shape)
    expected = np.concatenate([raw_answer(served, part) for part in np.split(x, calls)])
    if not np.isfinite(expected).all():
        raise GraphError("its answers to random inputs are not finite: nothing can be compared")
    try:
        patched = open_session(graph.patched({}), output=session_output(served), data=graph.data)
        got = {"the module": answers(module, x), "the graph": raw_answer(patched, x)}
    except (RuntimeError, TypeError, ValueError, IndexError, GraphError) as error:
        raise GraphError(file.stuck if file.batch else f"the module fails: {error}") from error
    for what, values in got.items():
        apart = _apart(expected, values)
        if not apart <= file.tolerance:
            remedy = FLOAT_FILE if graph.codes else INSTEAD
            otherwise = f"{what} built from it answers otherwise: logits differ by {apart:.2g};\n{remedy}"
            raise GraphError(file.stuck if file.batch else otherwise)


def _apart(expected: Array, got: Array) -> float:
    """Largest difference of logits, relative to the largest logit where that is above 1."""
    if expected.shape != got.shape:
        return float("inf")
    return float(np.abs(expected - got).max() / max(1.0, float(np.abs(expected).max())))
