"""Starts a real single-node Apache Kafka (KRaft) on loopback, from the jars that Maven fetches once.

The jars are kept in `.parts/kafka` under the repository root; PARTS_CACHE names another folder than `.parts`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import string
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
CLUSTER_ID = "dHRhLWFnZW50LXRlc3RzMQ"
FETCH_LIMIT_S = 600.0
START_LIMIT_S = 90.0


def unavailable() -> str | None:
    """One line that says why no broker can be started here, or None."""
    needed = ["java"] if jars().is_dir() else ["java", "mvn"]
    missing = [name for name in needed if shutil.which(name) is None]
    return f"needs {' and '.join(missing)} (Java 17, Maven) on the PATH" if missing else None


def jars() -> Path:
    """The folder in which the broker's jars are, or will be."""
    return Path(os.environ.get("PARTS_CACHE") or REPOSITORY / ".parts") / "kafka" / "libs"


@contextlib.contextmanager
def broker(
    work_dir: Path, more: str = "", *, clients: str = "PLAINTEXT", scram: str = "", **client_options: str
) -> Iterator[str]:
    """A broker with its data in `work_dir`; yields its bootstrap address and ends it by its process id.

    Args:
        more: lines for server.properties.
        clients: security protocol of the listener, and with it options that a client needs.
        scram: credentials of SCRAM, for instance SCRAM-SHA-512=[name=mia,password=secret].
    """
    fetch()
    client_port, controller_port = free_ports(2)
    settings = work_dir / "server.properties"
    values = {"client_port": client_port, "controller_port": controller_port, "data": work_dir / "data"}
    template = string.Template((HERE / "server.properties").read_text())
    settings.write_text(template.substitute(values, clients=clients) + more)
    format_storage(settings, work_dir, scram)
    process = start(settings, work_dir)
    try:
        await_metadata(f"127.0.0.1:{client_port}", process, work_dir / "broker.log", client_options)
        yield f"127.0.0.1:{client_port}"
    finally:
        stop(process)


def fetch() -> None:
    """Fetch the jars unless they are there. They appear all at once, also if two sessions fetch."""
    if jars().is_dir():
        return
    jars().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=jars().parent) as folder:
        part = Path(folder) / "libs"
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={part}"]
        command = ["mvn", "-B", "-q", "-ntp", "-f", str(HERE / "pom.xml"), *goal]
        subprocess.run(command, check=True, timeout=FETCH_LIMIT_S)
        with contextlib.suppress(OSError):
            part.rename(jars())


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listened on a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def java(heap_mb: int, *arguments: str) -> list[str]:
    """A command line for a small Java process."""
    lean = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Xmx{heap_mb}m"]
    return ["java", *lean, "-cp", f"{jars()}/*", *arguments]


def format_storage(settings: Path, work_dir: Path, scram: str = "") -> None:
    """Write the empty log folder's metadata, which KRaft wants before the first start."""
    command = java(128, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(settings))
    command += ["--add-scram", scram] if scram else []
    with (work_dir / "format.log").open("wb") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log, timeout=START_LIMIT_S)


def start(settings: Path, work_dir: Path) -> subprocess.Popen[bytes]:
    """Start the broker; what it says goes to broker.log."""
    logging = f"-Dlog4j2.configurationFile={HERE / 'log4j2.xml'}"
    with (work_dir / "broker.log").open("ab") as log:
        return subprocess.Popen(java(256, logging, "kafka.Kafka", str(settings)), stdout=log, stderr=log)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the broker: its data is thrown away, so there is nothing to wait for."""
    process.kill()
    process.wait(30)


def await_metadata(
    address: str, process: subprocess.Popen[bytes], log: Path, client_options: Mapping[str, str]
) -> None:
    """Return when the broker answers a metadata request."""
    from kafka import KafkaAdminClient  # slow to import, and most sessions start no broker
    from kafka.errors import KafkaError

    deadline_s = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        if listens(address):
            with contextlib.suppress(KafkaError):
                KafkaAdminClient(
                    bootstrap_servers=address, bootstrap_timeout_ms=5000, **client_options
                ).close()
                return
        time.sleep(0.2)
    raise RuntimeError(f"the broker does not answer on {address}; its log ends:\n{log.read_text()[-2000:]}")


def listens(address: str) -> bool:
    """Whether somebody accepts connections there."""
    host, port = address.rsplit(":", 1)
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False
