"""Producer that posts records to an agent's receiver, one after the other."""

from __future__ import annotations

import httpx

from tta_agent.core.errors import MessageTooLarge, StreamError
from tta_agent.core.types import Done, Headers
from tta_agent.stream.http.messages import LABELS, to_http

TIMEOUT_S = 5.0


class HttpProducer:
    """Producer to the receiver; implements `Producer`. A record is acknowledged once it is queued there.

    Args:
        url: base address of the receiver.
        labels_topic: topic whose records go to `/labels`.
        token: bearer token that the receiver wants, or None.
        timeout_s: longest wait for an answer.
    """

    def __init__(
        self, url: str, labels_topic: str, token: str | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._url, self._labels_topic = url.rstrip("/"), labels_topic
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._http = httpx.Client(headers=headers, timeout=timeout_s, trust_env=False)

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        on_done: Done | None = None,
    ) -> None:
        """See `Producer`.

        Raises:
            MessageTooLarge: the receiver takes no record of that size.
            StreamError: it cannot be reached, or refuses the record, for instance since it is full.
        """
        path = LABELS if topic == self._labels_topic else "/"
        names = to_http(headers)
        if "ce-id" not in names and key:
            names["x-request-id"] = key.decode("latin-1")
        try:
            answer = self._http.post(self._url + path, content=value or b"", headers=names)
        except httpx.HTTPError as error:
            told = f"the receiver at {self._url} does not take records: {type(error).__name__}: {error}"
            raise StreamError(f"{told}\ncheck that the agent runs, and TTA_RECEIVER__URL") from error
        if answer.status_code == 413:
            raise MessageTooLarge(f"the receiver at {self._url}: {answer.text[:200]}")
        if not answer.is_success:
            raise StreamError(
                f"the receiver at {self._url} answers {answer.status_code}: {answer.text[:200]}"
            )
        if on_done is not None:
            on_done(None)

    def flush(self) -> None:
        """See `Producer`. Each record was acknowledged by `send`."""

    def close(self) -> None:
        """See `Producer`."""
        self._http.close()
