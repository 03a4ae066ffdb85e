"""Drivers that change the `storageUri` of a custom resource, and let the platform bring the version into service."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from tta_agent.core.errors import SwapError
from tta_agent.core.types import Golden, ServerInfo, Version
from tta_agent.serving.clients.kube import ACCOUNT, API, Kind, KubeResource
from tta_agent.serving.clients.local_check import LocalCheck
from tta_agent.serving.clients.rest import OipClient
from tta_agent.serving.clients.switch import Switch
from tta_agent.serving.clients.uri_store import UriStore
from tta_agent.serving.drivers import TOLERANCE, check_golden

SOURCE = "tta-agent/source-storage-uri"  # annotation: where the deployed model is
POLL_S = 0.5
STEADY = 3  # right answers in a row: pods of the version before may answer for a while
Resource = Mapping[str, Any]


class StorageUriDriver:
    """A `ServerDriver` over a custom resource with a `storageUri`. Each subclass is a platform.

    A version is written under a URL that the platform reads, and read back; nothing serves it before the resource
    names it. Then one patch changes the address, and the driver waits until the platform says that it is ready and
    the golden batch is answered rightly, several times in a row.

    Args:
        server: base address for inference, model, and longest wait for one answer.
        store: folder, or URL of any fsspec store, that the agent writes: STORE/MODEL/NUMBER is a version.
        uri: the same place as the platform reads it; None: as `store`.
        name: of the resource; None: as the model.
        namespace: of the resource; None: that of the pod.
        file: name of the graph under a version's folder.
        beside: folder whose files each version has beside its graph.
        wait_s: longest time until a version is ready: pods start, and copy it.
        headers: sent with each inference, `Host` of an ingress for instance.
        api, account: address of the API server, and folder of the service account.
        tolerance: largest difference of a logit from the golden batch.
    """

    KIND: ClassVar[Kind]
    READY: ClassVar[str]  # the condition to wait for

    def __init__(
        self,
        server: ServerInfo,
        *,
        store: str,
        uri: str | None = None,
        name: str | None = None,
        namespace: str | None = None,
        file: str = "model.onnx",
        beside: str | None = None,
        wait_s: float = 600.0,
        headers: Mapping[str, str] | None = None,
        api: str = API,
        account: str = ACCOUNT,
        tolerance: float = TOLERANCE,
    ) -> None:
        """Connects at the first call only."""
        bearer = {"authorization": f"Bearer {server.token}"} if server.token else {}
        self._client = OipClient(server, {**bearer, **self.routing(server.model), **(headers or {})})
        self._resource = KubeResource(
            self.KIND, name or server.model, namespace=namespace, api=api, account=account
        )
        self._store = UriStore(store, uri, server.model, file, beside)
        self._local, self._tolerance, self._wait_s = LocalCheck(server, tolerance), tolerance, wait_s
        self._published: tuple[int, Golden] | None = None
        self._answers: dict[str, Golden] = {}  # of the versions that were brought up here, by URI
        self._switch = Switch(self._turn_to, "it names {} again")

    @classmethod
    def routing(cls, model: str) -> Mapping[str, str]:
        """Headers by which the platform finds the model."""
        return {}

    @classmethod
    def place(cls, resource: Resource) -> Sequence[str] | None:
        """Names that lead to the storageUri; None where the resource has none."""
        raise NotImplementedError

    @classmethod
    def failure(cls, resource: Resource) -> str | None:
        """The platform's words, where it has given up on the version; None while there is hope."""
        raise NotImplementedError

    def probe(self) -> None:
        """Raise SwapError, with what to do, unless the resource may be changed and versions can be written."""
        self._uri(self._resource.get())
        self._resource.patch({"metadata": {"annotations": {}}}, dry=True)
        self._store.check()
        self._client.ask("GET", f"/v2/models/{self._client.model}")

    def publish(self, version: Version, golden: Golden) -> None:
        """Compare the version with the golden batch here, and write it where the platform reads it."""
        self._local.check(version, version.path, golden)
        if version.number:
            before = self._store.number(self._switch.before or "")
            self._store.prune({version.number, self.live(), before or 0})
            self._store.write(version)
        self._published = version.number, golden

    def activate(self, version: Version) -> None:
        """Name the version in the resource, and wait until it answers."""
        if self._published is None or self._published[0] != version.number:
            raise SwapError(f"version {version.number} was not published and checked: publish it first")
        resource, golden = self._resource.get(), self._published[1]
        before = self._uri(resource)
        target = self._uri_of(version.number, resource)
        self._answers = {uri: known for uri, known in self._answers.items() if uri == before} | {
            target: golden
        }
        self._switch.to(target, before)

    def verify(self, golden: Golden) -> None:
        """Compare the answer of the server's address with the golden batch."""
        _, answer = self._client.infer(golden.x)
        check_golden(answer, golden, f"the {self._resource}", self._tolerance)

    def live(self) -> int:
        """The version that the resource names."""
        uri = self._uri(self._resource.get())
        number = self._store.number(uri)
        return 0 if number is None else number

    def rollback(self) -> None:
        """Name the address that the resource had before."""
        self._switch.back()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._resource.close()

    def _turn_to(self, uri: str) -> None:
        """Patch the resource, and wait until the platform has followed."""
        before = self._resource.get()
        change: dict[str, Any] = {"storageUri": uri}
        for name in reversed(self._path(before)[:-1]):
            change = {name: change}
        changed = self._resource.patch(
            {"metadata": {"annotations": {SOURCE: self._source(before)}}, **change}
        )
        follows = functools.partial(
            self._follows, uri, int(changed["metadata"].get("generation") or 0), self.failure(before)
        )
        deadline_s = time.monotonic() + self._wait_s
        self._await_ready(follows, deadline_s, uri)
        if uri in self._answers:
            self._await_answers(self._answers[uri], follows, deadline_s)

    def _follows(self, uri: str, generation: int, former: str | None) -> bool:
        """Whether the platform calls the change ready.

        Raises:
            SwapError: it has given up.
        """
        resource = self._resource.get()
        told, ready = self.failure(resource), condition(resource, self.READY).get("status") == "True"
        observed = (resource.get("status") or {}).get("observedGeneration")
        if observed is not None and int(observed) < generation:
            return False
        if told and (
            observed is not None or told != former
        ):  # Seldon's status does not say of which change it is
            raise SwapError(f"{self._resource} does not come up with {uri}: {told}")
        return ready

    def _await_ready(self, follows: Callable[[], bool], deadline_s: float, uri: str) -> None:
        while not follows():
            if time.monotonic() > deadline_s:
                found = condition(self._resource.get(), self.READY) or "nothing"
                waited = f"{self._wait_s:g} s (option wait_s)"
                raise SwapError(f"{self._resource} is not {self.READY} with {uri} after {waited}: {found}")
            time.sleep(POLL_S)

    def _await_answers(self, golden: Golden, follows: Callable[[], bool], deadline_s: float) -> None:
        """Return when the golden batch was answered rightly several times in a row."""
        right = 0
        while right < STEADY:
            try:
                self.verify(golden)
                right += 1
            except SwapError:
                if time.monotonic() > deadline_s:
                    raise
                follows()
                right = 0
                time.sleep(POLL_S)

    def _path(self, resource: Resource) -> Sequence[str]:
        path = self.place(resource)
        if path is None:
            raise SwapError(
                f"{self._resource} has no storageUri: containers of your own are not told what to load;\n"
                "use the driver of their server"
            )
        return path

    def _uri(self, resource: Resource) -> str:
        found: Any = resource
        for name in self._path(resource):
            found = found[name]
        return str(found)

    def _source(self, resource: Resource) -> str:
        """Address of the deployed model: it was noted before the first change."""
        noted = (resource["metadata"].get("annotations") or {}).get(SOURCE)
        return str(noted or self._uri(resource))

    def _uri_of(self, number: int, resource: Resource) -> str:
        if number and not self._store.has(number):
            raise SwapError(f"version {number} is not at {self._store.uri(number)}: publish it first")
        return self._store.uri(number) if number else self._source(resource)


def condition(resource: Resource, kind: str) -> Mapping[str, Any]:
    """One of the conditions of the status; empty where the platform has said nothing yet."""
    conditions = (resource.get("status") or {}).get("conditions") or []
    return next((one for one in conditions if one.get("type") == kind), {})
