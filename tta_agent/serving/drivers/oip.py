"""Open Inference Protocol v2 over HTTP with the model repository extension, as `tta-agent serve` implements it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np

from tta_agent.core.errors import DecodeError, SwapError, WrongAnswer, nearest
from tta_agent.core.redact import without_user
from tta_agent.core.types import Array, Golden, ServerInfo, Version
from tta_agent.serving.drivers import TOLERANCE, check_golden
from tta_agent.stream.codecs import checks, oip

_PROBE = {"tta-probe": "1"}  # keeps our questions out of the log of inferences


class OipDriver:
    """A `ServerDriver` over a model server's REST API.

    Args:
        server: base address, model and longest wait for one answer; a load may take long.
        tolerance: largest difference of a logit from the golden batch.
    """

    def __init__(self, server: ServerInfo, *, tolerance: float = TOLERANCE) -> None:
        """Connects at the first call only."""
        url, self._model = server.url.rstrip("/"), server.model
        self._url = without_user(url)  # for messages
        self._input: str | None = None
        self._output = server.output
        self._tolerance = tolerance
        self._published: tuple[int, Golden] | None = None
        # A sidecar speaks to its own pod: a proxy of the environment would only be in the way.
        headers = {"authorization": f"Bearer {server.token}"} if server.token else {}
        self._http = httpx.Client(base_url=url, timeout=server.timeout_s, trust_env=False, headers=headers)

    def probe(self) -> None:
        """Raise SwapError, with what to do, unless the server has the extension and the model."""
        about = self._ask("GET", "/v2")
        extensions = about.get("extensions") if isinstance(about, dict) else None
        if "model_repository" not in (extensions or []):
            found = ", ".join(map(str, extensions or [])) or "none"
            raise SwapError(
                f"{self._url} has no model_repository extension (it has: {found}).\n"
                "Serve the model with `tta-agent serve`, or choose another TTA_SWAP__DRIVER."
            )
        known = {str(entry.get("name")) for entry in self._index()}
        if self._model not in known:
            hint = nearest(self._model, known)
            raise SwapError(f"{self._url} does not know the model {self._model}: {hint}")

    def publish(self, version: Version, golden: Golden) -> None:
        """Load the version beside the live one; its first answer warms it and is checked."""
        self._published = None
        if version.number != self.live():
            self._load(version.number, activate=False, sha256=version.sha256)
        _, answer = self._infer(f"/versions/{version.number}", golden.x)
        check_golden(answer, golden, f"version {version.number}", self._tolerance)
        self._published = version.number, golden

    def activate(self, version: Version) -> None:
        """Switch to the published version and see that it is the one that answers."""
        if self._published is None or self._published[0] != version.number:
            raise SwapError(f"version {version.number} was not published and checked: publish it first")
        before = self.live()
        try:
            self._load(version.number, activate=True, sha256=version.sha256)
            number, _ = self._infer("", self._published[1].x[:1])
            if number != version.number:
                raise SwapError(f"version {number} answers after the switch; expected {version.number}")
        except SwapError as error:
            raise SwapError(f"{error}\n{self._restore(before)}") from error

    def verify(self, golden: Golden) -> None:
        """Compare the answer of the unversioned URL with the golden batch."""
        number, answer = self._infer("", golden.x)
        check_golden(answer, golden, f"version {number}", self._tolerance)

    def live(self) -> int:
        """The version that the server's index calls live."""
        number = self._marked("live")
        if number is None:
            raise SwapError(f"{self._url} does not say which version of {self._model} is live")
        return number

    def rollback(self) -> None:
        """Load the version that the server's index calls previous; it may still be loaded."""
        number = self._marked("previous")
        if number is None:
            raise SwapError("no version served before the live one: publish and activate one instead")
        self._load(number, activate=True)
        if self.live() != number:
            raise SwapError(f"version {self.live()} is live after the rollback; expected {number}")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _restore(self, number: int) -> str:
        """Undo a switch of which we do not know how far it came."""
        try:
            if self.live() != number:
                self._load(number, activate=True)
            return f"version {number} is live"
        except SwapError as error:
            return f"version {number} could not be made live again: {error}"

    def _load(self, number: int, *, activate: bool, sha256: str | None = None) -> None:
        parameters = {"version": str(number), "activate": activate}
        if sha256 is not None:
            parameters["sha256"] = sha256
        self._ask("POST", f"/v2/repository/models/{self._model}/load", {"parameters": parameters})

    def _index(self) -> list[Mapping[str, Any]]:
        entries = self._ask("POST", "/v2/repository/index", {})
        return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []

    def _marked(self, mark: str) -> int | None:
        """The version of our model whose `reason` in the index is the mark."""
        marked = (e for e in self._index() if e.get("name") == self._model and e.get("reason") == mark)
        versions = (str(entry.get("version")) for entry in marked)
        return next((int(version) for version in versions if version.isdecimal()), None)

    def _input_name(self) -> str:
        if self._input is None:
            metadata = self._ask("GET", f"/v2/models/{self._model}")
            try:
                self._input = str(metadata["inputs"][0]["name"])
            except (LookupError, TypeError) as error:
                raise SwapError(f"{self._url} does not name the input of {self._model}") from error
        return self._input

    def _infer(self, path: str, x: Array) -> tuple[int, Array]:
        """Version that answered, and its answer as it is served."""
        question = oip.Body(
            {self._input_name(): np.asarray(x, np.float32)}, parameters={"binary_data_output": True}
        )
        body, length = oip.encode(question)
        headers = {**_PROBE, oip.HEAD_LENGTH: str(length), "content-type": "application/octet-stream"}
        response = self._answer(
            "POST", f"/v2/models/{self._model}{path}/infer", content=body, headers=headers
        )
        given = response.headers.get(oip.HEAD_LENGTH)
        try:
            answer = oip.decode(response.content, None if given is None else int(given))
            return int(answer.version or ""), checks.answer(answer.outputs, self._output)
        except (DecodeError, ValueError) as error:
            told = (
                f"{self._url}/v2/models/{self._model}{path}/infer answers what is no inference of a version"
            )
            raise WrongAnswer(f"{told}: {error}") from error

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        """The JSON that the server answers."""
        response = self._answer(method, path, json=body)
        try:
            return response.json()
        except ValueError as error:
            raise SwapError(
                f"{self._url}{path} answers what is not JSON: is a model server behind it?"
            ) from error

    def _answer(self, method: str, path: str, **content: Any) -> httpx.Response:
        """A successful response, or SwapError with the server's own words; WrongAnswer where it fails inside."""
        try:
            response = self._http.request(method, path, **content)
        except httpx.HTTPError as error:
            raise SwapError(
                f"{self._url} does not answer ({type(error).__name__}: {error}).\n"
                "Is the model server running there, and is its REST port the one in TTA_SWAP__URL?"
            ) from error
        if response.is_success:
            return response
        hint = "\nIts TTA_SERVE__TOKEN belongs into TTA_SWAP__TOKEN." if response.status_code == 401 else ""
        kind = WrongAnswer if response.status_code == httpx.codes.INTERNAL_SERVER_ERROR else SwapError
        raise kind(f"{method} {self._url}{path} answers {response.status_code}: {_reason(response)}{hint}")


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200] or "(empty)"
