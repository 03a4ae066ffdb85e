"""Recognition of the wire format of each record: `TTA_STREAM__CODEC=auto`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from tta_agent.core.errors import DecodeError
from tta_agent.core.exchange import Item
from tta_agent.core.stream_protocols import Codec
from tta_agent.core.types import RawRecord, Shape
from tta_agent.stream.codecs.datatypes import show

log = logging.getLogger(__name__)


class AutoCodec:
    """Codec that has each record read by the first installed codec that recognises it.

    Codecs that go by headers (`by_headers = True`) are asked first, then those that look into the value; by name
    within each. Each format is logged once, with the first record that was read.

    Args:
        codecs: by name.

    Attributes:
        seen: names of the formats that were read, in the order of their first record.
    """

    by_headers = True

    def __init__(self, codecs: Mapping[str, Codec]) -> None:
        by_value = {name: not getattr(codec, "by_headers", False) for name, codec in codecs.items()}
        self._codecs = {
            name: codecs[name] for name in sorted(codecs, key=lambda name: (by_value[name], name))
        }
        self.seen: list[str] = []

    @property
    def names(self) -> list[str]:
        """Names of the codecs in the order in which they are asked."""
        return list(self._codecs)

    def recognises(self, raw: RawRecord) -> bool:
        """Whether any of the codecs does."""
        return self._name(raw) is not None

    def decode(self, raw: RawRecord, shape: Shape | None, classes: int | None) -> Sequence[Item]:
        """Samples or labels, by the codec that recognises the record; see `Codec`."""
        name = self._name(raw)
        if name is None:
            raise _unknown(raw, self.names)
        found = self._codecs[name].decode(raw, shape, classes)
        if name not in self.seen:
            self.seen.append(name)
            log.info("records of %s are read as %s", raw.topic, name)
        return found

    def _name(self, raw: RawRecord) -> str | None:
        return next((name for name, codec in self._codecs.items() if codec.recognises(raw)), None)


def _unknown(raw: RawRecord, names: Sequence[str]) -> DecodeError:
    if not raw.value:
        return DecodeError("empty", "the record has no value; expected an inference or a label")
    headers = show([name for name, _ in raw.headers])
    return DecodeError(
        "unknown_format",
        f"no wire format recognises the record (headers: {headers}; it begins {raw.value[:20]!r}); "
        f"tried: {', '.join(names)}",
    )
