"""A real browser without a window, spoken to over two pipes in Chrome's DevTools protocol: no driver."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
LIMIT_S = 60.0  # for one answer; only a hang reaches it
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
# Chrome reads fd 3 and writes fd 4: a child puts them there and becomes the browser
BECOME = (
    "import os, sys; r, w, *command = sys.argv[1:]; os.dup2(int(r), 3); os.dup2(int(w), 4);"
    "os.execvp(command[0], command)"
)


def unavailable() -> str | None:
    """Why there is no browser here."""
    return None if program() else f"none of {', '.join(NAMES)} is on the PATH"


def program() -> str | None:
    """The browser; PARTS_BROWSER names another one."""
    found = map(shutil.which, filter(None, (os.environ.get("PARTS_BROWSER"), *NAMES)))
    return next((path for path in found if path), None)


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """One that keeps its profile in `folder`."""
    to_read, to_write = _pipe(), _pipe()
    name = program()
    assert name is not None
    command = [name, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
    theirs = (to_read[0], to_write[1])
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", BECOME, str(to_read[0]), str(to_write[1]), *command],
        pass_fds=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for end in theirs:
        os.close(end)
    try:
        yield Browser(to_write[0], to_read[1])
    finally:
        process.terminate()
        process.wait(LIMIT_S)
        os.close(to_read[1])
        os.close(to_write[0])


def _pipe() -> tuple[int, int]:
    """Both ends above the numbers that the browser's own ends will have."""
    low = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low]
    for end in low:
        os.close(end)
    return high[0], high[1]


class Browser:
    """Opens pages; one thread owns it."""

    def __init__(self, answers: int, commands: int) -> None:
        self._answers, self._commands = answers, commands
        self._numbers = itertools.count(1)
        self._rest = b""
        self.events: list[dict[str, Any]] = []

    def open(self, file: Path, *, width: int, dark: bool = False) -> Page:
        """The file in a window of this width in pixels, when it has loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1,
                  mobile=width < 600)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.call("Page.navigate", url=file.resolve().as_uri())
        self.until(lambda: any(event["method"] == "Page.loadEventFired" for event in page.events()))
        return page

    def call(self, method: str, session: str | None = None, **given: object) -> dict[str, Any]:
        """One command and its answer; raises RuntimeError where the browser refuses."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": given}
        message |= {"sessionId": session} if session else {}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    def until(self, done: Any) -> None:
        """Read events until it is so."""
        while not done():
            self._read()

    def _read(self) -> dict[str, Any]:
        deadline_s = time.monotonic() + LIMIT_S
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], max(deadline_s - time.monotonic(), 0.0))
            more = os.read(self._answers, 1 << 20) if ready else b""
            if not more:
                raise RuntimeError("the browser has " + ("ended" if ready else "said nothing for a minute"))
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, **given: object) -> dict[str, Any]:
        """A command to this tab."""
        return self._browser.call(method, self._session, **given)

    def events(self) -> list[dict[str, Any]]:
        """All that happened in this tab."""
        return [event for event in self._browser.events if event.get("sessionId") == self._session]

    def value(self, script: str) -> Any:
        """What a JavaScript expression is."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def complaints(self) -> list[str]:
        """What the console shows: messages, errors that nobody caught, what the browser itself dislikes."""
        telling = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        self.value("0")  # what was said until now is read
        return [json.dumps(event["params"]) for event in self.events() if event["method"] in telling]

    def requests(self) -> list[str]:
        """Everything that was asked for, the file itself first."""
        sent = [event for event in self.events() if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def too_wide(self) -> list[str]:
        """What reaches beyond the window to the right and is not inside something that scrolls by itself."""
        return list(self.value(TOO_WIDE))


TOO_WIDE = """[...document.querySelectorAll("body, body *")].filter(e => {
  if (e.closest("svg") && e.tagName !== "svg") return false;
  if (e.getBoundingClientRect().right <= document.documentElement.clientWidth + 1) return false;
  for (let p = e.parentElement; p && p !== document.body; p = p.parentElement)
    if (["auto", "scroll", "hidden"].includes(getComputedStyle(p).overflowX)) return false;
  return true;
}).map(e => e.tagName + " " + e.className + " " + e.textContent.slice(0, 40))
  .concat(document.documentElement.scrollWidth > innerWidth ? ["the page scrolls"] : [])"""
