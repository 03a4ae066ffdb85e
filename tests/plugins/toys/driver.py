"""A driver whose server is a folder: `served.onnx` is the graph that serves, `calls.txt` all that was asked."""

from __future__ import annotations

import shutil
from pathlib import Path

from tta_agent.core.errors import SwapError
from tta_agent.core.types import Golden, ServerInfo, Version


class OneFolder:
    """Needs the option `folder`."""

    def __init__(self, server: ServerInfo, *, folder: str) -> None:
        self._folder, self._model = Path(folder), server.model

    def probe(self) -> None:
        self._say(f"probe {self._model}")
        if not self._folder.is_dir():
            raise SwapError(f"{self._folder} is no folder")

    def publish(self, version: Version, golden: Golden) -> None:
        self._say(f"publish {version.number}")
        shutil.copyfile(version.path, self._folder / f"{version.number}.onnx")

    def activate(self, version: Version) -> None:
        self._say(f"activate {version.number}")
        self._serve(version.number)

    def verify(self, golden: Golden) -> None:
        self._say(f"verify {self.live()}")

    def live(self) -> int:
        live = self._folder / "live"
        return int(live.read_text()) if live.exists() else 0

    def rollback(self) -> None:
        self._say("rollback")
        self._serve(int((self._folder / "before").read_text()))

    def close(self) -> None:
        self._say("close")

    def _serve(self, number: int) -> None:
        (self._folder / "before").write_text(str(self.live()))
        shutil.copyfile(self._folder / f"{number}.onnx", self._folder / "served.onnx")
        (self._folder / "live").write_text(str(number))

    def _say(self, what: str) -> None:
        with (self._folder / "calls.txt").open("a") as file:
            file.write(what + "\n")
