"""Where the scenes go: a live view in a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live

from tta_agent.demo.view import Scene, event_line, line, render

LINE_EVERY_S = 5.0


@contextlib.contextmanager
def screen() -> Iterator[Callable[[Scene], None]]:
    """A function that shows a scene."""
    console = Console()
    if not console.is_terminal:
        yield _Lines().show
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda scene: live.update(render(scene), refresh=True)


class _Lines:
    """One line every few seconds, and one a decision."""

    def __init__(self) -> None:
        self._told = 0
        self._last_s = -LINE_EVERY_S

    def show(self, scene: Scene) -> None:
        for event in scene.events[self._told :]:
            print(event_line(event, event["time"] - event["t"]), flush=True)
        self._told = len(scene.events)
        if scene.elapsed_s - self._last_s >= LINE_EVERY_S:
            self._last_s = scene.elapsed_s
            print(line(scene), flush=True)
