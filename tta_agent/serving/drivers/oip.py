"""Open Inference Protocol v2 over HTTP: `tta-agent serve`, MLServer, KServe's Python server, and others like them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tta_agent.core.errors import SwapError
from tta_agent.core.types import Array, Golden, ServerInfo, Version
from tta_agent.serving.clients.pointed_folder import PointedFolder
from tta_agent.serving.clients.pointer import Undo
from tta_agent.serving.clients.rest import OipClient
from tta_agent.serving.clients.switch import NONE_BEFORE
from tta_agent.serving.drivers import TOLERANCE, check_golden


class _Way(Protocol):
    """How versions come into the server."""

    def check(self) -> None: ...
    def publish(self, version: Version, golden: Golden) -> None: ...
    def activate(self, version: Version) -> None: ...
    def live(self) -> int: ...
    def rollback(self) -> None: ...
    def confirmed(self, golden: Golden) -> tuple[str | None, Array] | None: ...


class OipDriver:
    """A `ServerDriver` over a model server's REST API.

    The server takes a version in one of two ways. By its number, where its load call takes one and its index says
    which version is live: it shares the registry with the agent, and loads a version beside the live one. Else from
    a folder that both see (`repository`): the version is written there whole, opened and checked, the pointer in it
    is moved (MLServer's model-settings.json, else the link `current`), and the load call has the server look again.

    Args:
        server: base address, model and longest wait for one answer; a load may take long.
        repository: model repository, as the agent sees it; None: the server takes versions by number.
        file: name of the graph in a version's folder.
        tolerance: largest difference of a logit from the golden batch.
    """

    def __init__(
        self,
        server: ServerInfo,
        *,
        repository: str | None = None,
        file: str = "model.onnx",
        tolerance: float = TOLERANCE,
    ) -> None:
        """Connects at the first call only."""
        self._client, self._tolerance = OipClient(server), tolerance
        self._way: _Way = _ByNumber(self._client, server.source, tolerance)
        if repository is not None:
            folder = PointedFolder(Path(repository), server, file, tolerance)
            self._way = _ByFolder(self._client, folder)

    def probe(self) -> None:
        """Raise SwapError, with what to do, unless the server knows the model and takes versions of it."""
        self._way.check()

    def publish(self, version: Version, golden: Golden) -> None:
        """Have the version ready, checked on the golden batch: beside the live one, or in the folder."""
        self._way.publish(version, golden)

    def activate(self, version: Version) -> None:
        """Switch to the published version and see that it is the one that answers."""
        self._way.activate(version)

    def verify(self, golden: Golden) -> None:
        """Compare the answer of the unversioned URL with the golden batch."""
        number, answer = self._way.confirmed(golden) or self._client.infer(golden.x)
        check_golden(answer, golden, f"version {number}", self._tolerance)

    def live(self) -> int:
        """The version that answers, in the registry's numbers."""
        return self._way.live()

    def rollback(self) -> None:
        """Make the version that served before answer again."""
        self._way.rollback()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class _ByNumber:
    """A server that loads the registry's versions by their numbers, as `tta-agent serve` does."""

    def __init__(self, client: OipClient, source: int, tolerance: float) -> None:
        self._client, self._source, self._tolerance = client, source, tolerance
        self._published: tuple[int, Golden] | None = None
        self._confirmed: tuple[Golden, str | None, Array] | None = None

    def check(self) -> None:
        client = self._client
        if not client.has_repository():
            raise SwapError(
                f"{client.url} has no model_repository extension (it has:"
                f" {', '.join(client.extensions()) or 'none'}).\n"
                "Serve the model with `tta-agent serve`, or choose another TTA_SWAP__DRIVER."
            )
        client.check_known()
        if not self._tells():
            options = '{"oip": {"repository": "/models"}}'
            raise SwapError(
                f"{client.url} does not say which version of {client.model} is live: it takes no version by number.\n"
                f"Name its repository, as it is mounted here: TTA_SWAP__OPTIONS='{options}' (Triton: driver triton)."
            )
        if self._source:
            raise SwapError(
                f"{client.url} loads versions by the registry's numbers, in which the source is 0: set"
                f" TTA_MODEL__SERVED_VERSION=0, not {self._source}"
            )

    def publish(self, version: Version, golden: Golden) -> None:
        self._published = self._confirmed = None
        if version.number != self.live():
            self._load(version.number, activate=False, sha256=version.sha256)
        _, answer = self._client.infer(golden.x, f"/versions/{version.number}")
        check_golden(answer, golden, f"version {version.number}", self._tolerance)
        self._published = version.number, golden

    def activate(self, version: Version) -> None:
        if self._published is None or self._published[0] != version.number:
            raise SwapError(f"version {version.number} was not published and checked: publish it first")
        before = self.live()
        try:
            self._load(version.number, activate=True, sha256=version.sha256)
            golden = self._published[1]
            number, answer = self._client.infer(golden.x)
            if number != str(version.number):
                raise SwapError(f"version {number} answers after the switch; expected {version.number}")
        except SwapError as error:
            raise SwapError(f"{error}\n{self._restore(before)}") from error
        self._confirmed = golden, number, answer

    def confirmed(self, golden: Golden) -> tuple[str | None, Array] | None:
        """Answer to this golden batch since the last switch, once: a large model is not asked the same twice."""
        found, self._confirmed = self._confirmed, None
        return found[1:] if found is not None and found[0] is golden else None

    def live(self) -> int:
        number = self._marked("live")
        if number is None:
            raise SwapError(f"{self._client.url} does not say which version of {self._client.model} is live")
        return number

    def rollback(self) -> None:
        """Load the version that the server's index calls previous; it may still be loaded."""
        number, self._confirmed = self._marked("previous"), None
        if number is None:
            raise SwapError(NONE_BEFORE)
        self._load(number, activate=True)
        if self.live() != number:
            raise SwapError(f"version {self.live()} is live after the rollback; expected {number}")

    def _tells(self) -> bool:
        try:
            return self._marked("live") is not None
        except SwapError:  # it has no index
            return False

    def _restore(self, number: int) -> str:
        """Undo a switch of which we do not know how far it came."""
        try:
            if self.live() != number:
                self._load(number, activate=True)
            return f"version {number} is live"
        except SwapError as error:
            return f"version {number} could not be made live again: {error}"

    def _load(self, number: int, *, activate: bool, sha256: str | None = None) -> None:
        expected = {} if sha256 is None else {"sha256": sha256}
        self._client.load({"version": str(number), "activate": activate, **expected})

    def _marked(self, mark: str) -> int | None:
        """The version of our model whose `reason` in the index is the mark."""
        entries = (e for e in self._client.index() if e.get("name") == self._client.model)
        versions = (str(entry.get("version")) for entry in entries if entry.get("reason") == mark)
        return next((int(version) for version in versions if version.isdecimal()), None)


class _ByFolder:
    """A server that loads what the pointer in its folder names, when it is told to."""

    def __init__(self, client: OipClient, folder: PointedFolder) -> None:
        self._client, self._folder = client, folder
        self._sample: Array | None = None
        self._undo: Undo | None = None

    def check(self) -> None:
        self._client.check_known()
        self._folder.check()

    def publish(self, version: Version, golden: Golden) -> None:
        self._sample = golden.x[:1]
        self._folder.publish(version, golden)

    def activate(self, version: Version) -> None:
        moves = self._folder.pointed() != self._folder.number_of(version)
        undo = self._folder.point(version)
        try:
            self._load(self._folder.number_of(version))
        except SwapError as error:
            raise type(error)(f"{error}\n{self._restore(undo)}") from error
        self._undo = undo if moves else self._undo

    def live(self) -> int:
        """As the server's answers say; as the pointer says, where no sample to ask with has been seen yet."""
        number = self._folder.pointed() if self._sample is None else self._answering(self._sample)
        return number - self._folder.source

    def rollback(self) -> None:
        if self._undo is None:
            raise SwapError(NONE_BEFORE)
        self._undo()
        self._undo = None
        self._load(self._folder.pointed())

    def confirmed(self, golden: Golden) -> tuple[str | None, Array] | None:
        """None: each verification asks."""
        return None

    def _load(self, number: int) -> None:
        self._client.load()
        if self._sample is not None and (found := self._answering(self._sample)) != number:
            raise SwapError(
                f"version {found} of {self._client.model} answers after the load; expected {number}.\n"
                "Does the server's model class load what the pointer in its folder names, and from this folder?"
            )

    def _answering(self, sample: Array) -> int:
        version, _ = self._client.infer(sample)
        if version is None or not version.isdecimal():
            raise SwapError(
                f"{self._client.url} answers with model_version {version!r}; expected a number.\n"
                "Let its model class say which version it has loaded: the agent and the log of inferences need it."
            )
        return int(version)

    def _restore(self, undo: Undo) -> str:
        """Undo a switch of which we do not know how far it came."""
        try:
            undo()
            self._load(self._folder.pointed())
            return f"version {self._folder.pointed()} of the server is live"
        except (SwapError, OSError) as error:
            return f"the version before could not be made live again: {error}"
