"""The way of a driver from one version to another, and back."""

from __future__ import annotations

import pytest

from tta_agent.core.errors import SwapError, WrongAnswer
from tta_agent.serving.clients.switch import NONE_BEFORE, Switch


class Server:
    """Turns to what it is told, unless it is broken."""

    def __init__(self) -> None:
        self.live, self.broken = 1, dict[int, SwapError]()

    def turn(self, number: int) -> None:
        if number in self.broken:
            raise self.broken[number]
        self.live = number


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def switch(server: Server) -> Switch[int]:
    return Switch(server.turn, "version {} of the server is live")


def test_there_and_back_once(server: Server, switch: Switch[int]) -> None:
    switch.to(2, server.live)
    assert (server.live, switch.before) == (2, 1)
    switch.back()
    assert (server.live, switch.before) == (1, None)
    with pytest.raises(SwapError, match=NONE_BEFORE):
        switch.back()


def test_the_same_version_again_leaves_the_one_before(server: Server, switch: Switch[int]) -> None:
    switch.to(2, server.live)
    switch.to(2, server.live)
    assert switch.before == 1


@pytest.mark.parametrize("kind", [SwapError, WrongAnswer])
def test_a_turn_that_fails_is_undone(server: Server, switch: Switch[int], kind: type[SwapError]) -> None:
    server.broken[2] = kind("no")
    with pytest.raises(kind, match="no\nversion 1 of the server is live") as caught:
        switch.to(2, server.live)
    assert type(caught.value) is kind and switch.before is None


def test_an_undo_that_fails_is_told(server: Server, switch: Switch[int]) -> None:
    server.broken = {2: SwapError("no"), 1: SwapError("nor that")}
    with pytest.raises(SwapError, match="no\n1 could not be made live again: nor that"):
        switch.to(2, server.live)


def test_a_way_back_that_fails_can_be_tried_again(server: Server, switch: Switch[int]) -> None:
    switch.to(2, server.live)
    server.broken[1] = SwapError("not now")
    with pytest.raises(SwapError, match="not now"):
        switch.back()
    server.broken.clear()
    switch.back()
    assert server.live == 1
