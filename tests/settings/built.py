"""What is built from settings, and a search for the objects in it."""

from __future__ import annotations

import functools
import importlib
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
from torch import Tensor, nn

from tta_agent.assembly import build
from tta_agent.core.types import Golden, ServerInfo, Version
from tta_agent.models.loader import DeployedModel
from tta_agent.models.onnx_export import GraphTemplate
from tta_agent.settings import env
from tta_agent.settings.schema import Settings
from tta_agent.stream import factory
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.testing import tiny_net

T = TypeVar("T")
OURS = ("tta_agent", "tta_adapters", "tta_policies", "tests")
HERE = "tests.settings.built"


class Net(nn.Sequential):
    """For TTA_MODEL__FACTORY: knows its shape, as no other model here does."""

    def __init__(self) -> None:
        super().__init__(*tiny_net("batch"))
        self.eval()


class TwoAnswers(Net):
    """A model with two outputs of the same form."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        answer = super().forward(x)
        return {"first": answer, "second": answer.flip(1)}


class Learner:
    """An adapter that learns nothing and keeps what it was built with."""

    def __init__(self, model: nn.Module, *, speed: float = 1.0) -> None:
        self.speed = speed


class Driver:
    """A server that has always answered with the source."""

    def __init__(self, server: ServerInfo, *, folder: str = "") -> None:
        self.server, self.folder = server, folder

    def probe(self) -> None:
        pass

    def live(self) -> int:
        return 0

    def publish(self, version: Version, golden: Golden) -> None:
        pass

    def close(self) -> None:
        pass


class Format(CloudEvents):
    """A wire format with an option."""

    def __init__(self, *, registry: str = "") -> None:
        self.registry = registry


class Detector:
    """A drift detector that sees none."""

    def __init__(self, *, patience: int = 1) -> None:
        self.patience = patience


class Told(Exception):
    """Ends a call in which a fake has been told what was asked for."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(given, named)
        self.given, self.named = given, named


class Built:
    """Everything that is built from the environment as it is, at the first question.

    Args:
        master: graph of the model, which takes seconds to export.
    """

    def __init__(self, folder: Path, master: GraphTemplate, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.master, self.patch = folder, master, patch
        self.variable = ""  # of the row that is being looked at
        self._ends = ExitStack()

    @functools.cached_property
    def settings(self) -> Settings:
        return env.load()

    @functools.cached_property
    def source(self) -> DeployedModel:
        return build.load_source(self.settings)

    @functools.cached_property
    def agent(self) -> Any:
        self.patch.setattr(build, "GraphTemplate", lambda *_: self.master)
        agent = build.agent(self.settings, self.source)
        self._ends.callback(agent.telemetry.shutdown)
        self._ends.callback(agent.close)
        return agent

    def interface(self) -> Any:
        agent = self.agent
        return build.open_interface(self.settings, agent.rollout.served.registry, agent.journal.now)

    def registry(self) -> Any:
        return build.open_registry(self.settings, self.source, self.master)

    def one(self, kind: type[T]) -> T:
        """The object of a class that the agent holds, wherever that is."""
        found = {id(thing): thing for thing in reachable(self.agent) if type(thing) is kind}
        assert len(found) == 1, f"{len(found)} of {kind.__name__}"
        return next(iter(found.values()))

    def of_each(self, kind: type, value: Any) -> bool:
        """Whether each object of a class that the agent holds has an attribute of that value."""
        found = [thing for thing in reachable(self.agent) if type(thing) is kind]
        return bool(found) and all(value in attributes(thing).values() for thing in found)

    def kinds(self) -> set[str]:
        """Names of the classes of all objects that the agent holds."""
        return {type(thing).__name__ for thing in reachable(self.agent)}

    def raised(self, call: Callable[[], Any]) -> Told:
        """What a fake was told within a call."""
        with pytest.raises(Told) as told:
            call()
        return told.value

    def fake(self, place: Any, name: str) -> None:
        """Put something in the place of a function or class that only says what it is called with."""

        def tell(*given: Any, **named: Any) -> None:
            raise Told(*given, **named)

        self.patch.setattr(place, name, tell)

    def messages(self, topic: str) -> list[Any]:
        """All that stands in a topic of the embedded log."""
        stream = self.settings.stream.model_copy(update={"start": "earliest"})
        settings = self.settings.model_copy(update={"stream": stream})
        reader = factory.open_source(settings, [topic], group="reader")
        self._ends.callback(reader.close)
        return list(reader.poll(2.0))

    def close(self) -> None:
        self._ends.close()


def module(path: str) -> types.ModuleType:
    """By its dotted name."""
    return importlib.import_module(path)


def reachable(start: Any) -> Iterator[Any]:
    """Objects of ours that one holds, itself included: by attributes, containers, bound methods and closures."""
    seen: set[int] = set()
    waiting = [start]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, type | types.ModuleType | Settings):
            continue
        seen.add(id(thing))
        if type(thing).__module__.startswith(OURS):
            yield thing
        waiting += _parts(thing)


def _parts(thing: Any) -> list[Any]:
    if isinstance(thing, dict):
        return list(thing.values())
    if isinstance(thing, list | tuple | set | frozenset):
        return list(thing)
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, types.MethodType):
        return [thing.__self__]
    if isinstance(thing, types.FunctionType):
        return [cell.cell_contents for cell in thing.__closure__ or ()]
    return list(attributes(thing).values()) if type(thing).__module__.startswith(OURS) else []


def attributes(thing: Any) -> dict[str, Any]:
    """Of one object, those in slots among them."""
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    found = {name: getattr(thing, name) for name in slots if hasattr(thing, name)}
    return {**found, **getattr(thing, "__dict__", {})}
