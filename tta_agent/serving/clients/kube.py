"""One custom resource through the API server of Kubernetes, with the service account of the pod."""

from __future__ import annotations

import ssl
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tta_agent.core.errors import SwapError
from tta_agent.serving.clients import twice

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
API = "https://kubernetes.default.svc"
_MERGE = {"content-type": "application/merge-patch+json"}
_MANAGER = {"fieldManager": "tta-agent"}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of custom resources: `InferenceService` is `inferenceservices` of `serving.kserve.io/v1beta1`."""

    name: str
    group: str
    version: str
    plural: str


class _Token(httpx.Auth):
    """Bearer token of a file, read at each request: Kubernetes replaces it every hour."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["authorization"] = f"Bearer {self._path.read_text().strip()}"
        yield request


class KubeResource:
    """A custom resource; connects at the first call only.

    Args:
        namespace: None: that of the pod.
        api: address of the API server.
        account: folder with `token`, `ca.crt` and `namespace` of the service account.
    """

    def __init__(
        self, kind: Kind, name: str, *, namespace: str | None = None, api: str = API, account: str = ACCOUNT,
        timeout_s: float = 30.0,
    ) -> None:  # fmt: skip
        self.kind, self.name, self._account = kind, name, Path(account)
        self._namespace, self._api, self._timeout_s = namespace, api, timeout_s
        self._http: httpx.Client | None = None

    def __str__(self) -> str:
        return f"{self.kind.name} {self.name}"

    def get(self) -> dict[str, Any]:
        """The resource as it is.

        Raises:
            SwapError: there is none, it may not be read, or the API server does not answer.
        """
        return self._ask("GET")

    def patch(self, change: Mapping[str, Any], *, dry: bool = False) -> dict[str, Any]:
        """Merge a change into the resource, which is returned; with `dry` only ask whether that may be done."""
        parameters = {**_MANAGER, **({"dryRun": "All"} if dry else {})}
        return self._ask("PATCH", params=parameters, json=dict(change), headers=_MERGE)

    def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            self._http.close()

    def _ask(self, method: str, **content: Any) -> dict[str, Any]:
        try:
            response = twice.send(self._client(), method, self._path(), **content)
        except httpx.HTTPError as error:
            told = f"the API server at {self._api} does not answer ({type(error).__name__}: {error})"
            raise SwapError(f"{told}; {self} cannot be reached") from error
        except OSError as error:
            raise SwapError(
                f"no service account is mounted at {self._account} ({error.strerror}): set the chart's"
                " rbac.create=true, or automountServiceAccountToken: true in a pod of your own"
            ) from error
        if response.is_success:
            return dict(response.json())
        raise SwapError(self._refusal(method, response))

    def _path(self) -> str:
        kind, namespace = self.kind, self._namespace or (self._account / "namespace").read_text().strip()
        return f"/apis/{kind.group}/{kind.version}/namespaces/{namespace}/{kind.plural}/{self.name}"

    def _client(self) -> httpx.Client:
        if self._http is None:
            ca = self._account / "ca.crt"
            trusted = ssl.create_default_context(cafile=str(ca)) if self._api.startswith("https") else True
            self._http = httpx.Client(
                base_url=self._api, verify=trusted, timeout=self._timeout_s, trust_env=False,
                auth=_Token(self._account / "token"),
            )  # fmt: skip
        return self._http

    def _refusal(self, method: str, response: httpx.Response) -> str:
        try:
            told = str(response.json()["message"])
        except (ValueError, KeyError, TypeError):
            told = response.text[:200] or "(empty)"
        hint = {
            401: "is the token of the service account of this cluster?",
            403: f"give it a Role with the verbs get and patch on {self.kind.plural} (the chart's rbac.create=true)",
            404: f"set the driver's options name and namespace to those of your {self.kind.name}",
        }.get(response.status_code, "")
        lines = f"{method} of {self} is answered {response.status_code}: {told[:300]}"
        return f"{lines}\n{hint}" if hint else lines
