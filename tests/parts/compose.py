"""Services of deploy/compose.yaml as local processes: their commands, variables, user, mounts and host names.

In place of Docker's network the services share one of their own, in which each name of the file is a loopback address
and every port is free: nothing outside reaches it, and of a service that listens on localhost alone its name is not
answered. In place of the image they have this machine's files (`kube/pod.py`), and in place of Kafka's the broker's
jars (`kafka/broker.py`).
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.parts.kafka import broker
from tests.parts.kafka.broker import REPOSITORY
from tests.parts.kube import pod
from tests.parts.kube.pod import Container

DEPLOY = REPOSITORY / "deploy"
FILE = DEPLOY / "compose.yaml"
COLLECTOR = Path(__file__).parent / "servers" / "spans.py"
# Of its image's command
PROMETHEUS = ("--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/tmp/prometheus")
NO_MORE = "no-new-privileges:true"
ASK = "import sys, urllib.request as u; sys.stdout.write(u.urlopen(sys.argv[1], timeout=5).read().decode())"
Service = Mapping[str, Any]


def unavailable() -> str | None:
    """Why no service can be started here, or None."""
    missing = None if shutil.which("ip") else "needs ip (iproute2) on the PATH"
    return pod.unavailable() or missing or broker.unavailable()


def read() -> dict[str, Any]:
    """The file, with the defaults of its ${NAME:-default}."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", FILE.read_text())
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def properties(service: Service) -> dict[str, str]:
    """Options of the broker, as Kafka's image reads them from its variables."""
    given = {name: text for name, text in service["environment"].items() if name.startswith("KAFKA_")}
    return {name.removeprefix("KAFKA_").lower().replace("_", "."): text for name, text in given.items()}


@dataclass
class Project:
    """Services that run in one network, and their volumes; all of it is ended with the block of `project`."""

    folder: Path
    network: subprocess.Popen[bytes]
    services: dict[str, Service]
    containers: dict[str, Container] = field(default_factory=dict)
    volumes: dict[str, Path] = field(default_factory=dict)
    others: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def enter(self) -> list[str]:
        """Beginning of a command line that runs in the network."""
        return ["nsenter", f"--net=/proc/{self.network.pid}/ns/net"]

    def start_broker(self) -> None:
        """Kafka, by the variables of its service."""
        work = self.folder / "kafka"
        work.mkdir()
        told = {**properties(self.services["kafka"]), "log.dirs": str(work / "data")}
        (work / "server.properties").write_text("".join(f"{name}={text}\n" for name, text in told.items()))
        broker.fetch()
        broker.format_storage(work / "server.properties", work)
        command = self._inside(*broker.java(256, "kafka.Kafka", str(work / "server.properties")))
        with (work / "broker.log").open("wb") as log:
            self.others.append(subprocess.Popen(command, stdout=log, stderr=log))

    @property
    def spans(self) -> Path:
        """A file for each request that came to the collector."""
        return self.folder / "spans"

    def start_collector(self) -> None:
        """What keeps the spans that are sent to Jaeger's port."""
        self.spans.mkdir()
        command = self._inside(sys.executable, str(COLLECTOR), "4318", str(self.spans))
        self.others.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))

    def _inside(self, *command: str) -> list[str]:
        """A command line that runs in the network and knows its names."""
        names = f'mount --bind {shlex.quote(str(self.folder / "hosts"))} /etc/hosts && exec "$@"'
        return [*self.enter, "unshare", "--mount", "/bin/sh", "-c", names, "sh", *command]

    def start(self, name: str, *program: str) -> Container:
        """A service whose image starts that program; its command follows."""
        place = self.folder / name
        place.mkdir(exist_ok=True)
        made = Container(self._manifest(name, program), {"spec": {}}, place, self.volumes, self.enter)
        self.containers[name] = made
        made.start()
        return made

    def _manifest(self, name: str, program: Sequence[str]) -> dict[str, Any]:
        service = self.services[name]
        user, _, group = str(service.get("user", "65534:65534")).partition(":")
        context = {
            "runAsUser": int(user), "runAsGroup": int(group),
            "capabilities": {"drop": service.get("cap_drop", ["ALL"])},
            "readOnlyRootFilesystem": service.get("read_only", False),
            "allowPrivilegeEscalation": NO_MORE not in service.get("security_opt", [NO_MORE]),
        }  # fmt: skip
        variables = {**image_variables(), **service.get("environment", {})}
        return {
            "name": name, "command": [*program], "args": [str(each) for each in service.get("command", ())],
            "env": [{"name": each, "value": text} for each, text in variables.items()],
            "volumeMounts": [*self._mounts(name, service)], "securityContext": context,
        }  # fmt: skip

    def _mounts(self, name: str, service: Service) -> Iterator[dict[str, Any]]:
        self.volumes["hosts"] = self.folder / "hosts"
        yield {"name": "hosts", "mountPath": "/etc/hosts", "readOnly": True}
        for at in service.get("tmpfs", ()):
            yield {"name": self._volume(f"{name}{at.replace('/', '-')}"), "mountPath": at}
        for mount in service.get("volumes", ()):
            source, at, *more = mount.split(":")
            yield {"name": self._volume(source), "mountPath": at, "readOnly": more == ["ro"]}

    def _volume(self, source: str) -> str:
        """A named volume, empty at first, or a file beside the compose file."""
        if (DEPLOY / source).is_file():
            self.volumes[source] = (DEPLOY / source).resolve()
        else:
            self.volumes[source] = self.folder / "volumes" / source
            self.volumes[source].mkdir(parents=True, exist_ok=True)
            self.volumes[source].chmod(0o777)
        return source

    def get(self, url: str) -> str | None:
        """What answers at an address in the network; None where nothing does, or not with 200."""
        done = subprocess.run(
            self._inside(sys.executable, "-c", ASK, url), capture_output=True, text=True, check=False
        )
        return None if done.returncode else done.stdout

    def restart_failed(self) -> None:
        """Start again the services that ask for it (`restart: on-failure`) and have failed."""
        for name, each in self.containers.items():
            if each.process is not None and each.process.poll() and self.services[name].get("restart"):
                each.start()


def image_variables() -> dict[str, str]:
    """Variables that the image sets, its PATH aside."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").rpartition("\nFROM ")[2]
    (told,) = re.findall(r"^ENV (.*)$", text, re.MULTILINE)
    found = dict(word.split("=", 1) for word in told.split())
    found.pop("PATH")
    return found


@contextmanager
def project(folder: Path) -> Iterator[Project]:
    """The project of the file, nothing started yet."""
    services = read()["services"]
    names = enumerate(("localhost", *services), start=1)
    (folder / "hosts").write_text("".join(f"127.0.0.{number} {name}\n" for number, name in names))
    command = ["unshare", "--net", "/bin/sh", "-c", "ip link set lo up && echo up && exec sleep infinity"]
    network = subprocess.Popen(command, stdout=subprocess.PIPE)
    found = Project(folder, network, services)
    assert network.stdout is not None
    try:
        assert network.stdout.readline() == b"up\n"
        yield found
    finally:
        for each in found.containers.values():
            each.kill()
        for process in (*found.others, network):
            process.kill()
            process.wait(30)
        network.stdout.close()
