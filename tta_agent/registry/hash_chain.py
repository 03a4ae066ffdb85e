"""Hash chain of the versions: each manifest holds the hash of its parent's manifest and verdict.

A verdict is written after its manifest, so that it cannot be in there; the children vouch for it. The newest versions
have no children yet: for them only graph and manifest are compared with each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tta_agent.core import json_text
from tta_agent.core.errors import RegistryError, StoreError
from tta_agent.registry.cache import digest
from tta_agent.registry.storage import MANIFEST, Storage, home

VERDICT = "verdict.json"
NEEDED = {MANIFEST: ("sha256", "parent"), VERDICT: ("outcome", "proof", "findings")}


def document(storage: Storage, number: int, name: str) -> dict[str, Any]:
    """Content of a JSON file of a version.

    Raises:
        RegistryError: it is missing or damaged.
    """
    try:
        found = json_text.parse_object(storage.read(f"{home(number)}/{name}"))
        if missing := [key for key in NEEDED.get(name, ()) if key not in found]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        return found
    except StoreError:
        raise
    except (OSError, ValueError) as error:
        told = f"version {number} is damaged: {storage.where}/{home(number)}/{name} cannot be read: {error}"
        raise RegistryError(told) from None


def links(storage: Storage, parent: int) -> dict[str, str | None]:
    """Links from a child's manifest to its parent."""
    return {
        f"parent_{name.split('.')[0]}_sha256": _hash(storage, parent, name) for name in (MANIFEST, VERDICT)
    }


def prove(storage: Storage, number: int, manifest: Mapping[str, Any]) -> None:
    """Compare what the manifest says of the parent with the parent.

    A parent that was still under test when its child was made (promoted by force) had no verdict to vouch for.

    Raises:
        RegistryError: they differ. The message names the parent, whose files are not what they were.
    """
    parent = manifest.get("parent")
    if parent is None:
        return
    for name, found in links(storage, parent).items():
        if manifest.get(name) not in (None, found):
            what = "manifest" if "manifest" in name else "verdict"
            raise RegistryError(
                f"version {parent} is damaged: version {number} was made when its {what} was another one"
            )


def _hash(storage: Storage, number: int, name: str) -> str | None:
    try:
        return digest(storage.read(f"{home(number)}/{name}"))
    except FileNotFoundError:
        return None
