"""The driver of OpenVINO Model Server, against a server that keeps to its documented protocol."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.parts import serving
from tests.parts.load import Load
from tests.parts.ovms import Ovms
from tta_agent.core.errors import SwapError
from tta_agent.core.types import ServerInfo
from tta_agent.serving.drivers.ovms import OvmsDriver
from tta_agent.serving.swap import bring_up


@contextmanager
def driving(
    folder: Path, *, source: int = 1, model: str = "tiny", timeout_s: float = 10, **server: Any
) -> Iterator[tuple[OvmsDriver, Ovms]]:
    """A server with version 1, and its driver."""
    home = folder / "models" / "tiny"
    (home / "1").mkdir(parents=True)
    (home / "1" / "model.onnx").write_bytes(serving.graph_bytes(0))
    there = Ovms("tiny", home, **server)
    with serving.running(there.app()) as url:
        (folder / "models" / model).mkdir(exist_ok=True)
        info = ServerInfo(url, model, timeout_s, source=source)
        driver = OvmsDriver(info, repository=str(folder / "models"))
        yield driver, there
        driver.close()


def test_swaps_under_load_fail_no_request(tmp_path: Path) -> None:
    graphs = serving.GraphFolder(tmp_path)
    with driving(tmp_path) as (driver, there):
        driver.probe()
        load = Load(driver._client.url, "tiny", lambda told: int(told) - 1, input="pixels")
        with load:
            for number in range(1, 6):
                bring_up(driver, graphs.add(number), serving.golden(number))
                assert driver.live() == number
                load.await_version(number)
        assert load.failed == [] and load.wrong == [] and load.requests > 0
        kept = sorted(path.name for path in there.base.iterdir() if path.name.isdecimal())
    assert kept == [
        "1",
        "4",
        "5",
        "6",
    ]  # source, live one and the one before; what was before that goes next time


def test_a_server_that_polls_needs_no_reload_call(tmp_path: Path) -> None:
    graphs = serving.GraphFolder(tmp_path)
    with driving(tmp_path, poll_s=0.05, reloads=False) as (driver, _):
        bring_up(driver, graphs.add(1), serving.golden(1))
        assert driver.live() == 1
        driver.rollback()
        assert driver.live() == 0
        driver.verify(serving.golden(0))


def test_a_server_that_does_not_look_again_is_named_and_serves_on(tmp_path: Path) -> None:
    graphs = serving.GraphFolder(tmp_path)
    with driving(tmp_path, reloads=False, timeout_s=0.5) as (driver, there):
        driver.publish(graphs.add(1), serving.golden(1))
        with pytest.raises(
            SwapError, match=r"(?s)not 2.*base_path of tiny.*Configuration file not found"
        ) as caught:
            driver.activate(graphs.find(1))
        assert "version 1 of the server is live" in str(caught.value)
        assert driver.live() == 0 and there.loaded.keys() == {1}
        assert not (there.base / "2").exists()  # a server that restarts finds the version that serves


def test_a_version_that_the_server_does_not_load_is_taken_back(tmp_path: Path) -> None:
    graphs = serving.GraphFolder(tmp_path)
    with driving(tmp_path) as (driver, there):
        driver.publish(graphs.add(1), serving.golden(1))
        staged = there.base / ".tta" / "2"
        (staged / "second.onnx").write_bytes(b"")  # our own check has passed; the server finds two
        with pytest.raises(SwapError, match="does not load version 2 of tiny") as caught:
            driver.activate(graphs.find(1))
        assert "version 1 of the server is live" in str(caught.value)
        driver.verify(serving.golden(0))


def test_the_preflight_says_what_is_wrong(tmp_path: Path) -> None:
    with driving(tmp_path / "a", source=0) as (driver, _), pytest.raises(SwapError, match="from 1"):
        driver.probe()
    words = r"as version 1, not 4:\n.*SERVED_VERSION=1"
    with driving(tmp_path / "b", source=4) as (driver, _), pytest.raises(SwapError, match=words):
        driver.probe()
    with (
        driving(tmp_path / "c", model="tinny") as (driver, _),
        pytest.raises(SwapError, match="did you mean tiny"),
    ):
        driver.probe()
