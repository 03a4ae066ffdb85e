"""Output of the running demo: a live view in a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live

from tta_agent.demo.view import DemoState, event_line, line, render

LINE_EVERY_S = 5.0


@contextlib.contextmanager
def screen() -> Iterator[Callable[[DemoState], None]]:
    """A function that shows a state."""
    console = Console()
    if not console.is_terminal:
        yield _Lines().show
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda state: live.update(render(state), refresh=True)


class _Lines:
    """One line every few seconds, and one a decision."""

    def __init__(self) -> None:
        self._told = 0
        self._last_s = -LINE_EVERY_S

    def show(self, state: DemoState) -> None:
        for event in state.events[self._told :]:
            print(event_line(event, event["time"] - event["t"]), flush=True)
        self._told = len(state.events)
        if state.elapsed_s - self._last_s >= LINE_EVERY_S:
            self._last_s = state.elapsed_s
            print(line(state), flush=True)
