"""Cause of a failed connection to Kafka: the client raises one timeout for every cause and only logs the real one."""

from __future__ import annotations

import logging
import re
from types import TracebackType

# "Connection lost: CAUSE", "Bootstrap connection to X failed: CAUSE (backoff 1 secs)" and
# "DNS lookup failed for X, CAUSE"
_CAUSE = re.compile(
    r"(?:failed|lost|failure)(?: for [^,]+,|:) (?P<cause>.+?)(?: \(backoff .*\))?$", re.DOTALL
)
# These say less than the line before them.
_EMPTY = ("Unable to bootstrap", "DNS Resolution failure", "Cancelled")

_ADVICE = (
    ("Name or service", "check the host name: it cannot be resolved from here"),
    ("gaierror", "check the host name: it cannot be resolved from here"),
    ("ECONNREFUSED", "check that the broker runs and that the port is its client listener"),
    ("Sasl", "check the SASL mechanism, user name and password"),
    (
        "CERTIFICATE",
        "check the certificate authority (ssl_cafile) and the host name in the broker's certificate",
    ),
    ("SSL", "check whether this listener speaks TLS, and the certificates"),
    (
        "timed out",
        "check firewalls, and whether this listener speaks TLS or SASL while security_protocol says not",
    ),
)
_GENERAL_ADVICE = "check the address, that the broker runs, and the security settings of its listener"


class LastCause(logging.Handler):
    """Handler that keeps the last cause that a `kafka.*` logger named, while it is entered."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Called by any thread of the client."""
        found = _CAUSE.search(record.getMessage())
        if found and not any(phrase in found["cause"] for phrase in _EMPTY):
            self.text = " ".join(found["cause"].split())[:300]

    def __enter__(self) -> LastCause:
        """Begin to listen."""
        logging.getLogger("kafka").addHandler(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Listen no longer."""
        logging.getLogger("kafka").removeHandler(self)


def unreachable(servers: str, cause: str, silent_s: float) -> str:
    """Message for people, in up to three lines."""
    advice = next((advice for sign, advice in _ADVICE if sign in cause), _GENERAL_ADVICE)
    lines = [f"Kafka at {servers} did not answer within {silent_s:.0f} s", cause, advice]
    return "\n".join(line for line in lines if line)
