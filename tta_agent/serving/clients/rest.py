"""Open Inference Protocol v2 over HTTP, with the model repository extension, as a client asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import numpy as np

from tta_agent.core.errors import DecodeError, SwapError, WrongAnswer, nearest
from tta_agent.core.redact import without_user
from tta_agent.core.types import Array, ServerInfo
from tta_agent.models.input_types import as_type
from tta_agent.serving.clients import twice
from tta_agent.stream.codecs import checks, oip
from tta_agent.stream.codecs.datatypes import numpy_dtype
from tta_agent.telemetry.spans import current_traceparent

_PROBE = {"tta-probe": "1"}  # keeps our questions out of the log of inferences


class OipClient:
    """Client of one model in a model server; connects at the first call only.

    Args:
        server: base address, model and longest wait for one answer; a load may take long.
        headers: sent with each request, beside the bearer token.
    """

    def __init__(self, server: ServerInfo, headers: Mapping[str, str] | None = None) -> None:
        url = server.url.rstrip("/")
        self.url, self.model = without_user(url), server.model  # the address is for messages
        self._output = server.output
        self._inputs: dict[str, tuple[str, np.dtype[Any]]] = {}
        self._binary: bool | None = None
        bearer = {"authorization": f"Bearer {server.token}"} if server.token and headers is None else {}
        # A sidecar speaks to its own pod: a proxy of the environment would only be in the way.
        self._http = httpx.Client(
            base_url=url, timeout=server.timeout_s, trust_env=False,
            headers={"accept-encoding": "identity", **bearer, **(headers or {})},
        )  # fmt: skip

    def extensions(self) -> Sequence[str]:
        """Extensions that the server names."""
        about = self.ask("GET", "/v2")
        found = about.get("extensions") if isinstance(about, dict) else None
        return [str(name) for name in found or []]

    def has_repository(self) -> bool:
        """Whether models can be loaded: the server says so, or has an index without saying so."""
        if any(name.startswith("model_repository") for name in self.extensions()):
            return True
        try:
            return bool(self.index())
        except SwapError:
            return False

    def index(self) -> Sequence[Mapping[str, Any]]:
        """Entries of the repository index: `name`, and where the server knows them `version`, `state`, `reason`."""
        entries = self.ask("POST", "/v2/repository/index", {})
        return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []

    def check_known(self) -> None:
        """Raise SwapError unless the index names the model."""
        known = self._models()
        if self.model not in known:
            hint = nearest(self.model, known)
            raise SwapError(f"{self.url} does not know the model {self.model}: {hint}")

    def _models(self) -> set[str]:
        """Names of the models: of the index, or where a server has none, of its list."""
        try:
            return {str(entry.get("name")) for entry in self.index()}
        except SwapError as error:
            try:
                return {str(name) for name in self.ask("GET", "/v2/models")["models"]}
            except (SwapError, LookupError, TypeError):
                raise error from None

    def load(self, parameters: Mapping[str, Any] | None = None, model: str | None = None) -> None:
        """Load the model, or another one, or load it anew; returns when the server has done so."""
        body = {"parameters": dict(parameters)} if parameters else {}
        self.send("POST", f"/v2/repository/models/{model or self.model}/load", json=body)

    def infer(self, x: Array, path: str = "", model: str | None = None) -> tuple[str | None, Array]:
        """Version that answered, in the server's words, and its answer as it is served.

        Args:
            x: samples [N, ...].
            path: `/versions/N` for the answer of one version.
            model: another one of the server.

        Raises:
            WrongAnswer: the server fails inside, or answers otherwise than the protocol says.
            SwapError: it could not be asked.
        """
        url = f"/v2/models/{model or self.model}{path}/infer"
        response = self._posted(url, model or self.model, x)
        given = response.headers.get(oip.HEAD_LENGTH)
        try:
            answer = oip.decode(response.content, None if given is None else int(given))
            return answer.version, checks.answer(answer.outputs, self._output)
        except (DecodeError, ValueError) as error:
            told = f"{self.url}{url} answers what is no inference of a version"
            raise WrongAnswer(f"{told}: {error}") from error

    def _posted(self, url: str, model: str, x: Array) -> httpx.Response:
        if self._binary is None:
            self._binary = self._takes_binary()
        parameters = {"binary_data_output": True} if self._binary else {}
        name, dtype = self._input(model)
        question = oip.Body({name: as_type(x, dtype)}, parameters=parameters)
        body, length = oip.encode(question, binary=self._binary)
        kind = {"content-type": "application/json" if length is None else "application/octet-stream"}
        head = {} if length is None else {oip.HEAD_LENGTH: str(length)}
        return self.send("POST", url, content=body, headers={**_PROBE, **kind, **head})

    def _takes_binary(self) -> bool:
        try:
            return "binary_tensor_data" in self.extensions()
        except SwapError:  # it does not say what it is
            return True

    def _input(self, model: str) -> tuple[str, np.dtype[Any]]:
        """Name and type of numbers of the model's input, by the server's metadata."""
        if model not in self._inputs:
            metadata = self.ask("GET", f"/v2/models/{model}")
            try:
                about = metadata["inputs"][0]
                name = str(about["name"])
            except (LookupError, TypeError) as error:
                raise SwapError(f"{self.url} does not name the input of {model}") from error
            self._inputs[model] = name, _dtype(about.get("datatype") or "FP32", f"{model} at {self.url}")
        return self._inputs[model]

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """The JSON that the server answers.

        Raises:
            SwapError: no answer, a refusal with the server's own words, or no JSON.
            WrongAnswer: the server fails inside.
        """
        response = self.send(method, path, json=body)
        try:
            return response.json()
        except ValueError as error:
            raise SwapError(
                f"{self.url}{path} answers what is not JSON: is a model server behind it?"
            ) from error

    def send(self, method: str, path: str, **content: Any) -> httpx.Response:
        """A successful response; raises as `ask` does."""
        try:
            response = self._sent(method, path, **content)
        except httpx.HTTPError as error:
            raise SwapError(
                f"{self.url} does not answer ({type(error).__name__}: {error}).\n"
                "Is the model server running there, and is its REST port the one in TTA_SWAP__URL?"
            ) from error
        if response.is_success:
            return response
        hint = "\nIts TTA_SERVE__TOKEN belongs into TTA_SWAP__TOKEN." if response.status_code == 401 else ""
        kind = WrongAnswer if response.status_code == httpx.codes.INTERNAL_SERVER_ERROR else SwapError
        raise kind(f"{method} {self.url}{path} answers {response.status_code}: {_reason(response)}{hint}")

    def _sent(self, method: str, path: str, **content: Any) -> httpx.Response:
        if trace := current_traceparent():  # of the swap: the server's part of it belongs to it
            content["headers"] = {"traceparent": trace, **content.get("headers", {})}
        return twice.send(self._http, method, path, **content)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def _dtype(datatype: object, who: str) -> np.dtype[Any]:
    if datatype in ("BYTES", "BOOL"):
        raise SwapError(
            f"{who} takes {datatype}; golden batches are numbers: FP32, FP16, UINT8, INT64 and the like"
        )
    try:
        return numpy_dtype("input", datatype)
    except DecodeError as error:
        raise SwapError(f"{who}: {error}") from error


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200] or "(empty)"
