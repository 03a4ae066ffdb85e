"""Platforms that bring a model into service when a custom resource names another `storageUri`.

`Api` is a small API server for one resource. `Controller` plays the platform's controller on it, or on a real one:
it opens what the resource names, lets it answer, and writes the status as KServe and Seldon document it.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tta_agent.core.errors import GraphError
from tta_agent.models.ort_sessions import HotSwapSession, open_session

TOKEN = "token-of-the-agent"
Resource = dict[str, Any]


def account(folder: Path, namespace: str = "models", token: str = TOKEN) -> Path:
    """The folder of a service account, as Kubernetes mounts it."""
    folder.mkdir(exist_ok=True)
    (folder / "namespace").write_text(namespace)
    (folder / "token").write_text(token)
    return folder


def inference_service(uri: str) -> Resource:
    """KServe's, as its users write it."""
    model = {"modelFormat": {"name": "onnx"}, "storageUri": uri}
    return {
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
        "metadata": {"name": "tiny"}, "spec": {"predictor": {"model": model}},
    }  # fmt: skip


def seldon_model(uri: str) -> Resource:
    """Seldon Core 2's."""
    return {
        "apiVersion": "mlops.seldon.io/v1alpha1", "kind": "Model",
        "metadata": {"name": "tiny"}, "spec": {"storageUri": uri, "requirements": ["onnx"]},
    }  # fmt: skip


class Api:
    """API server of one resource: get, merge patch, generations; forbids what `may` does not name."""

    def __init__(
        self, resource: Resource, plural: str, may: tuple[str, ...] = ("GET", "PATCH"), name: str = "tiny"
    ) -> None:
        self.resource, self.may = {**resource, "status": {}}, may
        self.resource["metadata"] = {**resource["metadata"], "name": name, "generation": 1}
        self.patches: list[Mapping[str, Any]] = []
        group = resource["apiVersion"]
        self._path = f"/apis/{group}/namespaces/models/{plural}/{{name}}"

    def app(self) -> Starlette:
        """As an ASGI application."""
        return Starlette(routes=[Route(self._path, self._answer, methods=["GET", "PATCH"])])

    async def _answer(self, request: Request) -> Response:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return JSONResponse({"message": "Unauthorized"}, 401)
        if request.method not in self.may:
            return JSONResponse({"message": f"cannot {request.method.lower()} resource"}, 403)
        if request.path_params["name"] != self.resource["metadata"]["name"]:
            return JSONResponse({"message": "not found"}, 404)
        if request.method == "PATCH":
            assert request.headers["content-type"] == "application/merge-patch+json"
            if "dryRun" not in request.query_params:
                self.patch(await request.json())
        return JSONResponse(self.resource)

    def get(self) -> Resource:
        """The resource as it is."""
        return copy.deepcopy(self.resource)

    def patch(self, change: Mapping[str, Any]) -> None:
        """Merge, and count a generation where the specification has changed."""
        self.patches.append(change)
        before = copy.deepcopy(self.resource.get("spec"))
        self.resource = _merged(self.resource, change)
        if self.resource.get("spec") != before:
            self.resource["metadata"]["generation"] += 1

    def report(self, status: Mapping[str, Any]) -> None:
        """Replace the status."""
        self.resource = {**self.resource, "status": dict(status)}


class Controller:
    """The platform: follows a resource in a thread of its own.

    Args:
        uri_of: the storageUri of a resource.
        status_of: status for (generation, None), or (generation, words of a failure).
        prefix: of URIs, which stands for `folder`.
    """

    def __init__(
        self, get: Callable[[], Resource], report: Callable[[Mapping[str, Any]], None],
        uri_of: Callable[[Resource], str], status_of: Callable[[int, str | None], Mapping[str, Any]],
        folder: Path, prefix: str,
    ) -> None:  # fmt: skip
        self._get, self._report, self._uri_of, self._status_of = get, report, uri_of, status_of
        self._folder, self._prefix = folder, prefix
        self.pair = HotSwapSession(0, open_session(self._file(uri_of(get()))))
        self._served, self._count, self._stop = uri_of(get()), 0, threading.Event()

    def __enter__(self) -> Controller:
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)

    def _follow(self) -> None:
        seen = -1
        while not self._stop.wait(0.05):
            resource = self._get()
            generation = resource["metadata"]["generation"]
            if generation != seen:
                seen = generation
                self._report(self._status_of(generation, self._serve(self._uri_of(resource))))

    def _serve(self, uri: str) -> str | None:
        if uri == self._served:
            return None
        try:
            session = open_session(self._file(uri))
        except (GraphError, OSError) as error:
            return str(error)
        self._count += 1
        self.pair.stage(self._count, session)
        self.pair.switch(self._count)
        self._served = uri
        return None

    def _file(self, uri: str) -> Path:
        return self._folder / uri.removeprefix(self._prefix) / "model.onnx"


def kserve_status(generation: int, failure: str | None) -> Mapping[str, Any]:
    """What KServe writes."""
    ready = {"type": "Ready", "status": "False" if failure else "True"}
    info = {"lastFailureInfo": {"reason": "ModelLoadFailed", "message": failure}} if failure else {}
    state = {"transitionStatus": "BlockedByFailedLoad" if failure else "UpToDate", **info}
    return {"observedGeneration": generation, "conditions": [ready], "modelStatus": state}


def seldon_status(generation: int, failure: str | None) -> Mapping[str, Any]:
    """What Seldon Core 2 writes: without a generation, and with the state as the message."""
    words = {"message": "ModelFailed", "reason": failure} if failure else {"message": "ModelAvailable"}
    return {
        "conditions": [{"type": "ModelReady", "status": "False" if failure else "True", **words}],
        "replicas": 1,
    }


def _merged(one: Any, other: Mapping[str, Any]) -> Any:
    """JSON merge patch."""
    found = dict(one) if isinstance(one, dict) else {}
    for name, value in other.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = _merged(found.get(name), value) if isinstance(value, dict) else value
    return found
