"""Settings of earlier releases that are no longer read; a constant holds in their place."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)
RETIRED = {
    "TTA_GATE__CONSECUTIVE": "one positive judgement is enough",
    "TTA_GATE__ANCHOR_IMAGES": "each candidate answers 500 images of the anchor set",
    "TTA_SCHEDULE__COOLDOWN_MOST_S": "the cool-down doubles up to one day",
    "TTA_LABELS__HORIZON_RECORDS": "1,000,000 inferences at most wait for a label",
    "TTA_SERVE__TAP_BYTES": "the tap queues 32 MiB at most",
}


def without_retired(given: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Settings by group, less the retired ones, each of which is named once in a warning of one line."""
    return {group: _kept(f"{prefix}{group}__".upper(), values) for group, values in given.items()}


def _kept(prefix: str, values: Any) -> Any:
    if not isinstance(values, Mapping):
        return values
    names = {leaf: f"{prefix}{leaf}".upper() for leaf in values}
    for name in names.values():
        if name in RETIRED:
            _warn(name)
    return {leaf: value for leaf, value in values.items() if names[leaf] not in RETIRED}


@functools.cache  # settings are read several times in one process
def _warn(name: str) -> None:
    log.warning("%s is no longer read: %s", name, RETIRED[name])
