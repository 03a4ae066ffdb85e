"""The containers of a rendered pod as local processes: their commands, variables, user, mounts and read-only root.

In place of an image each container has this machine's files, and the project's virtual environment on its PATH;
PARTS_IMAGE names the folder of an image's files instead. Each has a root, process ids and capabilities of its own
(overlay, unshare, setpriv); they share volumes and the network.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.parts.kafka.broker import REPOSITORY

Manifest = Mapping[str, Any]
NEEDED = ("unshare", "nsenter", "setpriv", "chroot", "mount")
BIN = Path(sys.executable).parent
ASSETS = REPOSITORY / "tta_agent" / "samples" / "assets"
IMAGE = os.environ.get("PARTS_IMAGE", "/")
PATH = f"{BIN}:/usr/local/bin:/usr/bin:/bin" if IMAGE == "/" else "/opt/venv/bin:/usr/local/bin:/usr/bin:/bin"
FIELDS = {"metadata.name": "agent-0", "metadata.namespace": "tta"}
ENTER = """
set -e
mount -t overlay overlay -o "lowerdir=$IMAGE,upperdir=$UPPER,workdir=$WORK" "$ROOT"
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
$MOUNTS
$READ_ONLY
cd "$ROOT"
exec chroot "$ROOT" $BECOME env -i $VARIABLES $COMMAND
"""


def unavailable() -> str | None:
    """Why no container can be made of this machine's files, or None; asked for by name, since pods take minutes."""
    if "pod" not in os.environ.get("PARTS_REQUIRED", ""):
        return "runs where PARTS_REQUIRED names pod"
    if os.geteuid() != 0:
        return "needs root, for mount namespaces"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)} on the PATH"
    done = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False)
    return None if done.returncode == 0 else "needs the right to make namespaces"


@dataclass
class Container:
    """One container; `start` and `stop` do as the kubelet does."""

    manifest: Manifest
    pod: Manifest
    folder: Path
    volumes: Mapping[str, Path]
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """All that it has printed."""
        return self.folder / "log"

    def start(self) -> None:
        """Start it, or start it again, on an empty root."""
        for name in ("upper", "work", "root"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir(parents=True)
        if IMAGE == "/":
            _image(self.folder / "upper")
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", self._script()]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def _script(self) -> str:
        words = {
            "IMAGE": IMAGE,
            "UPPER": self.folder / "upper", "WORK": self.folder / "work", "ROOT": self.folder / "root",
            "MOUNTS": "\n".join(self._mounts()), "BECOME": shlex.join(self.become()),
            "READ_ONLY": 'mount -o remount,ro "$ROOT"' if self._context()["readOnlyRootFilesystem"] else "",
            "VARIABLES": shlex.join(f"{name}={value}" for name, value in self.variables().items()),
            "COMMAND": shlex.join([*self.manifest["command"], *self.manifest.get("args", ())]),
        }  # fmt: skip
        plain = ENTER
        for name in (
            "READ_ONLY",
            "MOUNTS",
            "BECOME",
            "VARIABLES",
            "COMMAND",
            "IMAGE",
            "UPPER",
            "WORK",
            "ROOT",
        ):
            plain = plain.replace(f"${name}", str(words[name]))
        return plain

    def _mounts(self) -> Iterator[str]:
        for mount in self.manifest["volumeMounts"]:
            source, at = self.volumes[mount["name"]], f'"$ROOT{mount["mountPath"]}"'
            yield f"mkdir -p {at}\nmount --bind {source} {at}"
            if mount.get("readOnly"):
                yield f"mount -o remount,bind,ro {at}"

    def _context(self) -> dict[str, Any]:
        return {**self.pod["spec"].get("securityContext", {}), **self.manifest["securityContext"]}

    def become(self) -> list[str]:
        """Command line that takes on user, group and no capabilities, as the security context says."""
        context = self._context()
        assert context["capabilities"] == {"drop": ["ALL"]} and not context["allowPrivilegeEscalation"]
        user, group = context["runAsUser"], context["runAsGroup"]
        return [
            "setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs",
            "--inh-caps=-all", "--bounding-set=-all",
        ]  # fmt: skip

    def variables(self) -> dict[str, str]:
        """Variables of the image and of the manifest, with $(NAME) put in as the kubelet does."""
        found = {"PATH": PATH}
        for each in self.manifest["env"]:
            text = each["value"] if "value" in each else FIELDS[each["valueFrom"]["fieldRef"]["fieldPath"]]
            found[each["name"]] = _expanded(text, found)
        return found

    def first(self) -> int:
        """Process 1 of the container, by its id out here."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        deadline_s = time.monotonic() + 10
        while not children.read_text().split():
            assert time.monotonic() < deadline_s, self.log.read_text()
            time.sleep(0.01)
        return int(children.read_text().split()[0])

    def run(self, *command: str, **more: Any) -> subprocess.Popen[bytes]:
        """Start a command in the running container, as `kubectl exec` does."""
        inside = ["nsenter", "--target", str(self.first()), "--mount", "--pid", "--root", "--wd"]
        given = [f"{name}={value}" for name, value in self.variables().items()]
        return subprocess.Popen([*inside, *self.become(), "env", "-i", *given, *command], **more)

    def peak_mib(self) -> float:
        """Most memory that process 1 has held until now."""
        (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.first()}/status").read_text())
        return int(kib) / 1024

    def limit_mib(self) -> float:
        """Its memory limit."""
        text = self.manifest["resources"]["limits"]["memory"]
        return float(text[:-2]) * {"Mi": 1, "Gi": 1024}[text[-2:]]

    def ready(self) -> bool:
        """Whether its readiness probe says so; only a command is known."""
        command = self.manifest["readinessProbe"]["exec"]["command"]
        with self.log.open("ab") as log:
            return self.run(*command, stdout=log, stderr=log).wait() == 0

    def pre_stop(self) -> None:
        """Run the hook that the kubelet runs at the beginning of the pod's end."""
        hook = self.manifest.get("lifecycle", {}).get("preStop")
        if hook:
            self.run(*hook["exec"]["command"]).wait()

    def terminate(self) -> None:
        """Send SIGTERM to process 1, unless it has ended."""
        if self.process is not None and self.process.poll() is None:
            os.kill(self.first(), signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()  # --kill-child ends process 1, and that the others
            self.process.wait(30)


@dataclass
class Pod:
    """Containers of a pod by name, on volumes that outlive them."""

    manifest: Manifest
    folder: Path
    containers: dict[str, Container] = field(default_factory=dict)
    volumes: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the volumes, all empty, and the containers."""
        spec = self.manifest["spec"]
        for volume in spec["volumes"]:
            self.volumes[volume["name"]] = path = self.folder / "volumes" / volume["name"]
            path.mkdir(parents=True)
            path.chmod(0o777)  # as an emptyDir is
        for each in (*spec.get("initContainers", ()), *spec["containers"]):
            place = self.folder / each["name"]
            place.mkdir()
            self.containers[each["name"]] = Container(each, self.manifest, place, self.volumes)

    def start(self) -> None:
        """Start all, in the order of the manifest; an init container that does not restart has to end first."""
        for name, each in self.containers.items():
            each.start()
            if name in self._init() and each.manifest.get("restartPolicy") != "Always":
                assert each.process is not None
                assert each.process.wait(300) == 0, each.log.read_text()

    def _init(self) -> set[str]:
        return {each["name"] for each in self.manifest["spec"].get("initContainers", ())}

    def stop(self) -> dict[str, int | None]:
        """End all as the kubelet does, within the grace period: hooks, SIGTERM to containers, then to sidecars.

        Returns:
            The exit status of each; None where it had to be killed.
        """
        grace_s = self.manifest["spec"]["terminationGracePeriodSeconds"]
        deadline_s = time.monotonic() + grace_s
        running = [each for each in self.containers.values() if each.process and each.process.poll() is None]
        for each in running:
            each.pre_stop()
        sidecars = [each for each in running if each.manifest["name"] in self._init()]
        for group in ([each for each in running if each not in sidecars], sidecars):
            for each in group:
                each.terminate()
            for each in group:
                _wait(each, deadline_s)
        return {name: _status(each) for name, each in self.containers.items()}


def _image(upper: Path) -> None:
    """What an image has and this machine has not: the samples in their place, an interpreter that all may enter."""
    for program in (BIN / "python", (BIN / "python").resolve()):
        for folder in reversed(program.parents):
            inside = upper / folder.relative_to("/")
            inside.mkdir(exist_ok=True)
            inside.chmod(0o755)
    (upper / "opt" / "tta-agent").mkdir(parents=True)
    (upper / "opt" / "tta-agent" / "samples").symlink_to(ASSETS)


def _wait(container: Container, deadline_s: float) -> None:
    assert container.process is not None
    try:
        container.process.wait(max(deadline_s - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        container.kill()


def _status(container: Container) -> int | None:
    status = container.process.returncode if container.process else None
    return status if status is not None and status >= 0 else None


@contextmanager
def pod(workload: Manifest, folder: Path) -> Iterator[Pod]:
    """The pod of a workload, not started; whatever runs at the end is killed."""
    found = Pod(workload["spec"]["template"], folder)
    try:
        yield found
    finally:
        for each in found.containers.values():
            each.kill()


def _expanded(text: str, known: Mapping[str, str]) -> str:
    return re.sub(r"\$\$|\$\((\w+)\)", lambda m: "$" if m[1] is None else known.get(m[1], m[0]), text)
