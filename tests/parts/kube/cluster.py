"""Starts a real Kubernetes API server on loopback, with etcd and, where it has been built, the controller manager.

Without nodes pods are admitted and stay pending. With nodes there are the scheduler and kwok, which says of each pod
that it runs: no container is started, no probe is asked. The programs come from `tests.parts.kube.tools`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.parts.kafka.broker import free_ports
from tests.parts.kube import helm, tools

NEEDED = ("kube-apiserver", "etcd", "kubectl", "helm")
STAGES = (
    "node/fast/node-initialize", "node/heartbeat-with-lease/node-heartbeat-with-lease", "pod/fast/pod-ready",
    "pod/fast/pod-delete",
)  # fmt: skip
NODES = ("kube-controller-manager", "kube-scheduler", "kwok")
START_LIMIT_S = 180.0
TOKEN = "admin-of-a-test"


def unavailable(nodes: bool = False) -> str | None:
    """Why no API server, or none with nodes, can be started here, or None."""
    return tools.unavailable(*NEEDED, *(NODES if nodes else ()))


@dataclass(frozen=True, slots=True)
class Cluster:
    """An API server that runs; `controllers`: whether Deployments get pods."""

    folder: Path
    controllers: bool

    @property
    def address(self) -> str:
        """Address of the API server."""
        config = yaml.safe_load((self.folder / "kubeconfig").read_text())
        return str(config["clusters"][0]["cluster"]["server"])

    def kubectl(self, *arguments: str, given: str | None = None) -> tuple[str, str]:
        """Output and warnings of kubectl.

        Raises:
            Refused: it has failed.
        """
        command = [str(tools.path("kubectl")), "--kubeconfig", str(self.folder / "kubeconfig"), *arguments]
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, check=False,
            env={"HOME": str(self.folder), "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        if done.returncode:
            raise helm.Refused(done.stderr + done.stdout)
        return done.stdout, done.stderr

    def get(self, *arguments: str) -> Any:
        """One object, or the items of a list."""
        found = json.loads(self.kubectl("get", "-o", "json", *arguments)[0])
        return found.get("items", found)

    def knows_definitions(self) -> bool:
        """Whether all custom resource definitions can be used (kubectl wait fails on one without a status yet)."""
        told = [one.get("status", {}).get("conditions") or [] for one in self.get("crd")]
        return all(("Established", "True") in {(c["type"], c["status"]) for c in each} for each in told)

    def helm(self, *arguments: str, program: str = "helm") -> str:
        """What Helm prints. Raises Refused where it has failed."""
        kubeconfig = str(self.folder / "kubeconfig")
        return helm.helm(*arguments, program=program, KUBECONFIG=kubeconfig, HOME=str(self.folder))

    def namespace(self, name: str) -> str:
        """A new namespace that admits restricted pods only, and warns of others."""
        labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
        about = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        self.kubectl("create", "-f", "-", given=yaml.safe_dump(about))
        return name


@contextlib.contextmanager
def cluster(folder: Path, nodes: int = 0) -> Iterator[Cluster]:
    """A cluster that keeps its data in `folder`; its processes are ended by their ids."""
    etcd, peer, port, kcm, scheduler = free_ports(5)
    controllers = tools.unavailable("kube-controller-manager") is None
    _keys(folder, port)
    processes = []
    try:
        processes.append(_start(folder, "etcd", *_etcd(folder, etcd, peer)))
        processes.append(_start(folder, "kube-apiserver", *_api_server(folder, etcd, port, controllers)))
        found = Cluster(folder, controllers)
        _await(found, processes)
        if controllers:
            processes.append(_start(folder, "kube-controller-manager", *_controllers(folder, kcm, nodes)))
        if nodes:
            found.kubectl("create", "-f", "-", given=yaml.safe_dump_all(map(_node, range(nodes))))
            processes.append(_start(folder, "kube-scheduler", *_scheduler(folder, scheduler)))
            processes.append(_start(folder, "kwok", *_kwok(folder)))
        yield found
    finally:
        for process in reversed(processes):
            process.kill()  # all of it is thrown away
            process.wait(30)


def _start(folder: Path, name: str, *flags: str) -> subprocess.Popen[bytes]:
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen([str(tools.path(name)), *flags], stdout=log, stderr=log, cwd=folder)


def _keys(folder: Path, port: int) -> None:
    """Signing key of service accounts, the administrator's token, and how clients find the server."""
    for command in (
        ("genrsa", "-out", "sa.key", "2048"),
        ("rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub"),
    ):
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    (folder / "tokens.csv").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
    server = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": server}],
        "users": [{"name": "test", "user": {"token": TOKEN}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }  # fmt: skip
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))


def _etcd(folder: Path, port: int, peer: int) -> list[str]:
    client, between = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
    return [
        "--data-dir", str(folder / "etcd"), "--listen-client-urls", client, "--advertise-client-urls", client,
        "--listen-peer-urls", between, "--initial-advertise-peer-urls", between,
        "--initial-cluster", f"default={between}", "--unsafe-no-fsync",
    ]  # fmt: skip


def _api_server(folder: Path, etcd: int, port: int, controllers: bool) -> list[str]:
    # a machine without a default route has no address to tell others
    address = ["--bind-address=127.0.0.1", "--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none"]
    # nobody makes the default service accounts where no controllers run
    off = [] if controllers else ["--disable-admission-plugins=ServiceAccount"]
    return [
        f"--etcd-servers=http://127.0.0.1:{etcd}", f"--secure-port={port}", *address, *off,
        f"--cert-dir={folder / 'certs'}", "--service-cluster-ip-range=10.0.0.0/24", "--authorization-mode=RBAC",
        f"--token-auth-file={folder / 'tokens.csv'}", "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={folder / 'sa.pub'}", f"--service-account-signing-key-file={folder / 'sa.key'}",
    ]  # fmt: skip


def _controllers(folder: Path, port: int, nodes: int) -> list[str]:
    # where there are no nodes, a pod that somebody runs is not one of a node that has gone
    off = [] if nodes else ["--controllers=*,-node-lifecycle-controller,-pod-garbage-collector-controller"]
    config = str(folder / "kubeconfig")
    return [
        f"--kubeconfig={config}", f"--authentication-kubeconfig={config}", f"--authorization-kubeconfig={config}",
        "--bind-address=127.0.0.1", f"--secure-port={port}", f"--cert-dir={folder / 'kcm'}", "--leader-elect=false",
        f"--service-account-private-key-file={folder / 'sa.key'}", f"--root-ca-file={folder}/certs/apiserver.crt",
        "--use-service-account-credentials=false", *off,
    ]  # fmt: skip


def _scheduler(folder: Path, port: int) -> list[str]:
    config = folder / "scheduler.yaml"
    about = {
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": str(folder / "kubeconfig")}, "leaderElection": {"leaderElect": False},
    }  # fmt: skip
    config.write_text(yaml.safe_dump(about))
    who = [f"--{of}-kubeconfig={folder / 'kubeconfig'}" for of in ("authentication", "authorization")]
    listen = ["--bind-address=127.0.0.1", f"--secure-port={port}", f"--cert-dir={folder / 'scheduler'}"]
    return [f"--config={config}", *who, *listen]


def _kwok(folder: Path) -> list[str]:
    """All pods are ready at once, and gone when they are told to end."""
    stages = tools.module_files("sigs.k8s.io/kwok", tools.TOOLS["kwok"].version) / "kustomize" / "stage"
    told = [f"--config={stages / each}.yaml" for each in STAGES]
    return [
        f"--kubeconfig={folder / 'kubeconfig'}",
        "--manage-all-nodes",
        "--node-lease-duration-seconds=40",
        *told,
    ]


def _node(number: int) -> dict[str, Any]:
    """A node with two GPUs, or with two replicas of one."""
    room = {"cpu": "32", "memory": "256Gi", "pods": "110", "nvidia.com/gpu": "2"}
    name = f"node-{number}"
    metadata = {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}}
    return {
        "apiVersion": "v1", "kind": "Node", "metadata": metadata,
        "status": {"allocatable": room, "capacity": room},
    }  # fmt: skip


def _await(found: Cluster, processes: list[subprocess.Popen[bytes]]) -> None:
    deadline_s = time.monotonic() + START_LIMIT_S
    while True:
        with contextlib.suppress(helm.Refused):
            found.kubectl("get", "--raw", "/readyz")
            return
        if time.monotonic() > deadline_s or any(process.poll() is not None for process in processes):
            logs = "\n".join(path.read_text()[-1500:] for path in found.folder.glob("*.log"))
            raise RuntimeError(f"the API server does not come up; the logs end:\n{logs}")
        time.sleep(0.2)
