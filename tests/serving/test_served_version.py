"""TTA_MODEL__SERVED_VERSION: drivers and stream count alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.parts import serving
from tta_agent.core.types import FOREIGN, ServerInfo
from tta_agent.registry.names import VersionNames
from tta_agent.serving import drivers
from tta_agent.serving.clients.version_folder import VersionFolder
from tta_agent.settings.env import load


class Keeping:
    """A driver that keeps what it is built with."""

    def __init__(self, server: ServerInfo) -> None:
        self.server = server


@pytest.mark.parametrize(("named", "source"), [(None, 0), ("0", 0), ("3", 3), ("v1.2", 0)])
def test_a_version_has_the_same_number_in_the_server_and_in_the_log(
    named: str | None, source: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTA_SWAP__DRIVER", f"{__name__}:Keeping")
    if named is not None:
        monkeypatch.setenv("TTA_MODEL__SERVED_VERSION", named)
    settings = load()
    driver: Any = drivers.open_driver(settings)
    assert driver.server.source == source
    folder = VersionFolder(tmp_path, "model.onnx", driver.server.source)
    number = folder.number_of(serving.GraphFolder(tmp_path).add(2))
    nothing: Any = None
    names = VersionNames(nothing, settings.model.served_version)
    assert names(str(number)) == 2
    assert names(named or "0") == 0
    assert source == 0 or names(str(source - 1)) == FOREIGN
