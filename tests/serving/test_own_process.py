"""Servers of one's own: the guide's reader of the folder, and sessions that requests take without a lock."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

from tests.parts import serving
from tta_agent.core.types import ServerInfo
from tta_agent.models.ort_sessions import HotSwapSession, open_session, raw_answer
from tta_agent.serving.drivers.files import FilesDriver
from tta_agent.serving.swap import bring_up

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "own-server.md"


def test_the_guides_reader_follows_the_link(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.S)
    code = next(block for block in blocks if "def newest" in block)
    names: dict[str, Any] = {"Path": Path, "open_session": open_session}
    exec(code.replace("/models", str(tmp_path / "models")), names)
    (tmp_path / "models" / "m").mkdir(parents=True)
    driver = FilesDriver(ServerInfo("", "m", 10, source=1), repository=str(tmp_path / "models"))
    graphs, held = serving.GraphFolder(tmp_path), (1, None)
    assert names["newest"](held) is held  # no swap yet
    for number in (2, 0, 1):
        bring_up(driver, graphs.add(number), serving.golden(number))
        held = names["newest"](held)
        assert held[0] == number + 1 and names["newest"](held) is held
        found = raw_answer(held[1], serving.samples(2))
        assert abs(found - serving.answers(serving.samples(2), number)).max() < 1e-3


def test_a_request_goes_on_while_a_swap_holds_the_pair(tmp_path: Path) -> None:
    pair = HotSwapSession(0, open_session(serving.GraphFolder(tmp_path).add(0).path))
    answered = threading.Event()

    def request() -> None:
        raw_answer(pair.current()[1], serving.samples(1))
        answered.set()

    with pair._writing:  # as a swap does
        threading.Thread(target=request, daemon=True).start()
        assert answered.wait(10)
