"""The containers of a rendered pod as local processes: their commands, variables, user, mounts and read-only root.

In place of an image each container has this machine's files, and the project's virtual environment on its PATH;
PARTS_IMAGE names the folder of an image's files instead. Each has a root, devices, process ids and capabilities of
its own (overlay, unshare, setpriv); they share volumes and the network.

`python -m tests.parts.kube.pod` says whether this machine can: it needs root, and the right to mount.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.parts.kafka.broker import REPOSITORY

Manifest = Mapping[str, Any]
NEEDED = ("unshare", "nsenter", "setpriv", "chroot", "mount")
BIN = Path(sys.executable).parent
ASSETS, SAMPLES = REPOSITORY / "tta_agent" / "samples" / "assets", "/opt/tta-agent/samples"
IMAGE = os.environ.get("PARTS_IMAGE", "/")
PATH = f"{BIN}:/usr/local/bin:/usr/bin:/bin" if IMAGE == "/" else "/opt/venv/bin:/usr/local/bin:/usr/bin:/bin"
TRIAL: Manifest = {
    "name": "trial", "command": ["python", "-c", "import tta_agent"], "env": [], "volumeMounts": [],
    "securityContext": {
        "runAsUser": 1000, "runAsGroup": 1000, "capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
    },
}  # fmt: skip
FIELDS = {"metadata.name": "agent-0", "metadata.namespace": "tta"}
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
# The upper layer is on a tmpfs: it may not be on an overlay, as the root of a container of CI's is.
ENTER = """
set -e
ROOT="$PLACE/root"
mount -t tmpfs -o mode=755 tmpfs "$PLACE"
mkdir "$PLACE/upper" "$PLACE/work" "$ROOT"
mount -t overlay overlay -o "lowerdir=$IMAGE,upperdir=$PLACE/upper,workdir=$PLACE/work" "$ROOT"
$FILES
mount -t proc proc "$ROOT/proc"
mount -t tmpfs -o mode=755 tmpfs "$ROOT/dev"
mkdir -m 1777 "$ROOT/dev/shm"
ln -s /proc/self/fd "$ROOT/dev/fd"
for name in $DEVICES; do touch "$ROOT/dev/$name" && mount --bind "/dev/$name" "$ROOT/dev/$name"; done
$MOUNTS
$READ_ONLY
cd "$ROOT"
exec chroot "$ROOT" $BECOME env -i $VARIABLES $COMMAND
"""


def unavailable() -> str | None:
    """Why no pod runs here, or None; asked for by name, since pods take minutes."""
    return (
        _impossible()
        if "pod" in os.environ.get("PARTS_REQUIRED", "")
        else "runs where PARTS_REQUIRED names pod"
    )


def _impossible() -> str | None:
    """Why no container can be made of this machine's files, or None: one is tried."""
    if os.geteuid() != 0:
        return "needs root, for mount namespaces"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)} on the PATH"
    if Path(sys.prefix).is_relative_to("/tmp"):
        return "needs a checkout outside /tmp, over which pods mount"
    with tempfile.TemporaryDirectory() as folder:
        tried = Container(TRIAL, {"spec": {}}, Path(folder), {})
        tried.start()
        assert tried.process is not None
        failed = tried.process.wait(60)
        return f"cannot make a container: {tried.log.read_text()[-300:].strip()}" if failed else None


@dataclass
class Container:
    """One container; `start` and `stop` do as the kubelet does.

    Attributes:
        network: beginning of a command line that enters another network than this machine's.
    """

    manifest: Manifest
    pod: Manifest
    folder: Path
    volumes: Mapping[str, Path]
    network: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """All that it has printed."""
        return self.folder / "log"

    @property
    def message(self) -> Path:
        """Its termination message."""
        return self.folder / "termination-log"

    def start(self) -> None:
        """Start it, or start it again, on an empty root."""
        (self.folder / "place").mkdir(exist_ok=True)
        self.message.write_text("")
        self.message.chmod(0o666)
        unshare = ["unshare", "--mount", "--pid", "--fork", "/bin/sh", "-c", self._script()]
        command = [*self.network, *unshare]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def _script(self) -> str:
        words = {
            "IMAGE": IMAGE, "PLACE": self.folder / "place", "DEVICES": " ".join(DEVICES),
            "FILES": "\n".join(_image()) if IMAGE == "/" else "",
            "MOUNTS": "\n".join(self._mounts()), "BECOME": shlex.join(self.become()),
            "READ_ONLY": 'mount -o remount,ro "$ROOT"' if self._context()["readOnlyRootFilesystem"] else "",
            "VARIABLES": shlex.join(f"{name}={value}" for name, value in self.variables().items()),
            "COMMAND": shlex.join([*self.manifest["command"], *self.manifest.get("args", ())]),
        }  # fmt: skip
        pattern = re.compile(rf"\$({'|'.join(words)})\b")
        return pattern.sub(lambda found: str(words[found[1]]), ENTER)

    def _mounts(self) -> Iterator[str]:
        yield from _bind(self.message, "/dev/termination-log")
        for mount in self.manifest["volumeMounts"]:
            source = self.volumes[mount["name"]]
            yield from _bind(source, mount["mountPath"], mount.get("readOnly", False))

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
            # With process 1 all others end. unshare's --kill-child has no power over one that became another user.
            os.kill(self.first(), signal.SIGKILL)
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


def _bind(source: Path, at: str, read_only: bool = False) -> Iterator[str]:
    """Lines that mount a folder or a file."""
    inside, folder = _inside(at), at if source.is_dir() else str(Path(at).parent)
    yield f"mkdir -p {_inside(folder)}"
    if not source.is_dir():
        yield f"touch {inside}"
    yield f"mount --rbind {shlex.quote(str(source))} {inside}"
    if read_only:
        yield f"mount -o remount,bind,ro {inside}"


def _inside(path: str) -> str:
    """A path of the container, as a word of the shell out here."""
    return f'"$ROOT"{shlex.quote(path)}'


def _image() -> Iterator[str]:
    """What an image has and this machine has not: an interpreter that all may enter, the samples in their place."""
    programs = (BIN / "python", (BIN / "python").resolve(), REPOSITORY / "tta_agent")
    for place in {_mount_point(program) for program in programs} - {Path("/")}:
        yield from _bind(place, str(place), read_only=True)
    for folder in {str(folder) for program in programs for folder in program.parents}:
        yield f"chmod a+rx {_inside(folder)} || :"  # of a mount that is read-only they stay
    yield f"mkdir -p {_inside(str(Path(SAMPLES).parent))}"
    yield f"ln -s {shlex.quote(str(ASSETS))} {_inside(SAMPLES)}"


def _mount_point(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.is_mount())


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


if __name__ == "__main__":
    reason = _impossible()
    print(f"pods run here: {reason or 'yes'}")
    sys.exit(reason is not None)
