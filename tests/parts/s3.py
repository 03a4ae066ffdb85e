"""Starts a real S3 server on loopback: versitygw, which serves a folder (each bucket is a folder in it).

Get it with Go: `go install github.com/versity/versitygw/cmd/versitygw@v1.8.0`. It is looked for on the PATH;
PARTS_S3_SERVER names it elsewhere.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.parts.kafka.broker import free_ports, listens

KEY, SECRET = "anna", "not so secret"
START_LIMIT_S = 20.0


def unavailable() -> str | None:
    """One line that says why the server cannot be used here, or None."""
    if importlib.util.find_spec("s3fs") is None:
        return "needs the package s3fs (pip install 'tta-agent[s3]')"
    if binary() is None:
        return (
            "needs versitygw on the PATH, or its path in PARTS_S3_SERVER (go install, see tests/parts/s3.py)"
        )
    return None


def binary() -> str | None:
    """The server's program."""
    return shutil.which(os.environ.get("PARTS_S3_SERVER") or "versitygw")


class Server:
    """One that can go away and come back at the same address, with the same data.

    Args:
        folder: for data and log.
    """

    def __init__(self, folder: Path) -> None:
        self.data, self._log = folder / "data", folder / "server.log"
        self.data.mkdir()
        self.address = f"127.0.0.1:{free_ports(1)[0]}"
        self._process: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        """What a client needs; nothing of the machine's own settings."""
        return {
            "AWS_ENDPOINT_URL": f"http://{self.address}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",  # the tests of a server that is away shall not wait
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def bucket(self, name: str) -> str:
        """A new, empty bucket, by its URL."""
        (self.data / name).mkdir()
        return f"s3://{name}"

    def requests(self) -> list[str]:
        """`METHOD path` of all it has answered."""
        lines = (line.split("|") for line in self._log.read_text().splitlines())
        return [f"{part[4].strip()} {part[5].strip()}" for part in lines if len(part) > 5]

    def start(self) -> None:
        """Return when it accepts connections."""
        command = [str(binary()), "--port", self.address, "posix", str(self.data)]
        keys = {"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **keys}, cwd=self.data.parent
            )
        deadline_s = time.monotonic() + START_LIMIT_S
        while not listens(self.address):
            if time.monotonic() > deadline_s or self._process.poll() is not None:
                raise RuntimeError(
                    f"no S3 server on {self.address}; its log ends:\n{self._log.read_text()[-2000:]}"
                )
            time.sleep(0.02)

    def kill(self) -> None:
        """Gone, without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
