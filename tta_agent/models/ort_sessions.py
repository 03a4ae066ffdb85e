"""ONNX Runtime sessions, and the pair of them between which a swap moves one reference."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped,unused-ignore]

from tta_agent.core.errors import ConfigError, GraphError, SwapError
from tta_agent.core.types import Array, Version
from tta_agent.models.data_files import DataFiles
from tta_agent.models.heap import trim_after
from tta_agent.models.input_types import FLOATS, TAKEN, as_type
from tta_agent.models.ort_options import options, provider
from tta_agent.models.outputs import LOGITS, ModelOutput, choose
from tta_agent.models.patched_graph import PatchedGraph


class GraphPort(Protocol):
    """An input or output of a graph."""

    name: str
    type: str
    shape: Sequence[int | str | None]


class Session(Protocol):
    """Part of onnxruntime.InferenceSession that is used here."""

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Array]) -> Sequence[Array]:
        """Outputs for the feeds."""

    def get_inputs(self) -> Sequence[GraphPort]:
        """Inputs of the graph."""

    def get_outputs(self) -> Sequence[GraphPort]:
        """Outputs of the graph."""


class _OutputSession(ort.InferenceSession):  # type: ignore[misc,unused-ignore]
    """A session that knows which output is the answer."""

    output: ModelOutput


def open_session(
    graph: Path | bytes | PatchedGraph,
    *,
    threads: int = 1,
    device: str = "cpu",
    output: ModelOutput = LOGITS,
    data: DataFiles | None = None,
) -> Session:
    """Open a session on exactly the device that was asked for.

    Args:
        graph: a path where there is one: a session from bytes keeps them for its life.
        threads: of one call; they sleep rather than spin between calls.
        device: `cpu`, `cuda` or `cuda:N`.
        output: the answer; where several outputs are there and it has no name, the only one of its form.
        data: files with large tensors of a graph in bytes; those of a file are beside it.

    Raises:
        GraphError: the graph cannot be loaded, is not [N, ...] -> [N, C] in floats, or the device cannot be had.
    """
    if data is not None and isinstance(graph, bytes):
        graph = PatchedGraph(graph, data.folder, {})
    name, chosen = _named(graph), provider(device)
    settings = options(threads, quiet=device == "cpu")
    try:
        session = _OutputSession(
            graph.apply(settings) if isinstance(graph, PatchedGraph) else graph,
            settings,
            providers=[chosen],
            enable_fallback=0,  # or a failing device silently becomes the CPU
        )
    except Exception as error:  # onnxruntime's errors have no common base
        raise GraphError(f"{name} cannot be loaded on {device}: {_told(error)}") from error
    if session.get_providers()[0] != chosen[0]:
        raise GraphError(
            f"{name} was to run on {device}, but {chosen[0]} does not start here.\n"
            "Set the device to cpu, or install the driver and CUDA libraries that onnxruntime-gpu asks for."
        )
    _check_input(session, name)
    session.output = _chosen(session, output, name)
    trim_after(session)
    return session  # type: ignore[no-any-return,unused-ignore]


def _named(graph: Path | bytes | PatchedGraph) -> str:
    content = graph.model if isinstance(graph, PatchedGraph) else graph
    return content.name if isinstance(content, Path) else f"graph of {len(content)} bytes"


def open_version(version: Version, open: Callable[[Path], Session]) -> Session:
    """The session of a version whose file is what the registry says."""
    try:
        with version.path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise GraphError(f"version {version.number} cannot be read: {error}") from error
    if found != version.sha256:
        expected = f"expected {version.sha256[:12] or 'one'}"
        raise GraphError(f"version {version.number}: {version.path.name} has sha256 {found[:12]}; {expected}")
    return open(version.path)


def run(session: Session, x: Array) -> Array:
    """Logits [N, C], float32, of samples [N, ...].

    Raises:
        GraphError: the graph refuses the samples or fails.
    """
    return np.asarray(session_output(session).logits(raw_answer(session, x)))


def raw_answer(session: Session, x: Array) -> Array:
    """The answer as the graph gives it and as it is served, float32; logits or probabilities, [N, C] mostly.

    Raises:
        GraphError: the graph refuses the samples or fails.
    """
    name, node = session_output(session).name, session.get_inputs()[0]
    feed = as_type(x, TAKEN[node.type])
    try:
        found = session.run(None if name is None else [name], {node.name: feed})[0]
    except Exception as error:  # as above
        raise GraphError(f"inference on input {list(x.shape)} failed: {_told(error)}") from error
    return np.asarray(found, dtype=np.float32)


def session_output(session: Session) -> ModelOutput:
    """The output that is the session's answer."""
    found: ModelOutput = getattr(session, "output", LOGITS)
    return found


def shapes(session: Session) -> tuple[tuple[int | None, ...], int | None]:
    """One sample's shape, and the values of its raw answer; None stands for any size."""
    sample = (n if isinstance(n, int) else None for n in session.get_inputs()[0].shape[1:])
    values = answer_shape(session)[:1] or (1,)
    return tuple(sample), values[0]


def answer_shape(session: Session) -> tuple[int | None, ...]:
    """Shape of the raw answer to one sample, [C] mostly; None stands for any size."""
    name = session_output(session).name
    node = next(node for node in session.get_outputs() if name in (None, node.name))
    return tuple(n if isinstance(n, int) else None for n in node.shape[1:])


@dataclass(frozen=True, slots=True)
class _State:
    """All of a pair: one reference to it moves, so that readers see either side of a change."""

    live: tuple[int, Session]
    standby: tuple[int, Session] | None = None
    previous: int | None = None


class HotSwapSession:
    """Pair of a live session and one standing by. Readers never wait; writers exclude each other.

    A call that began on a session ends on it: the caller holds it. After a switch the session that was live
    stands by, so that a step back is instant; the next `stage` drops it.
    """

    def __init__(self, number: int, session: Session) -> None:
        """Begin with one live version and none standing by."""
        self._state = _State((number, session))
        self._writing = threading.Lock()

    def current(self) -> tuple[int, Session]:
        """The live version and its session."""
        return self._state.live

    def get(self, number: int) -> Session | None:
        """The session of a version that is live or stands by."""
        state = self._state
        held = next((pair for pair in (state.live, state.standby) if pair and pair[0] == number), None)
        return held and held[1]

    @property
    def standby(self) -> int | None:
        """The version that stands by."""
        state = self._state
        return state.standby and state.standby[0]

    @property
    def previous(self) -> int | None:
        """The version that served before; None after a step back, so that going back twice cannot return."""
        return self._state.previous

    def stage(self, number: int, session: Session) -> None:
        """Put a session in stand-by, in place of the one there."""
        with self._writing:
            if number == self._state.live[0]:
                raise SwapError(f"version {number} is live already; expected another to stand by")
            self._state = replace(self._state, standby=(number, session))

    def drop(self, number: int) -> bool:
        """Let go of the version that stands by; False where it is another one."""
        with self._writing:
            held = self._state.standby is not None and self._state.standby[0] == number
            if held:
                self._state = replace(self._state, standby=None)
            return held

    def switch(self, number: int) -> None:
        """Make the version that stands by live; nothing changes where it is live already."""
        with self._writing:
            state = self._state
            if number == state.live[0]:
                return
            if state.standby is None or state.standby[0] != number:
                ready = "none" if state.standby is None else f"version {state.standby[0]}"
                raise SwapError(f"version {number} does not stand by ({ready} does): load it first")
            back = number == state.previous
            self._state = _State(state.standby, state.live, None if back else state.live[0])


def _told(error: Exception) -> str:
    """ONNX Runtime's words on one line."""
    return " ".join(str(error).split())[:300]


def _check_input(session: Session, name: str) -> None:
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in TAKEN or not inputs[0].shape:
        found = ", ".join(f"{node.name} {node.type}" for node in inputs)
        raise GraphError(
            f"{name} takes {found or 'nothing'}; expected one float input [N, ...], or one of whole numbers"
        )


def _chosen(session: Session, output: ModelOutput, name: str) -> ModelOutput:
    outputs = session.get_outputs()
    single = len(outputs) == 1
    floating = {node.name: node.shape for node in outputs if node.type in FLOATS}
    try:
        found = choose(floating, None if single else output.name, name)
    except ConfigError as error:
        raise GraphError(str(error)) from None
    return replace(output, name=None if single else found)
