"""A kubelet for tests: runs the pods of a cluster as local processes, and tells the API server what became of them.

It takes each pod at once, since there is no scheduler, and ends it as it is told: hook, SIGTERM, grace period. Claims
are folders by their names, which outlive the pods.
"""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.parts.kube import helm
from tests.parts.kube.cluster import Cluster
from tests.parts.kube.pod import Pod

EVERY_S = 1.0
NODE = "local"


class Kubelet:
    """Runs pods within a `with` block.

    Attributes:
        pods: by name, those that have ended among them.
        ended: exit status of the containers of a pod that was told to end, by its name.
    """

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.pods: dict[str, Pod] = {}
        self.ended: dict[str, dict[str, int | None]] = {}
        self._cluster, self._folder, self._stop = cluster, folder, threading.Event()
        self._threads = [threading.Thread(target=self._take, name="kubelet")]

    def __enter__(self) -> Kubelet:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        for found in self.pods.values():
            for container in found.containers.values():
                container.kill()

    def claim(self, name: str) -> Path:
        """Folder of a claim."""
        folder = self._folder / "claims" / name
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
        return folder

    def _take(self) -> None:
        taken = set()
        while not self._stop.wait(EVERY_S):
            for about in self._cluster.get("-A", "pods"):
                if about["metadata"]["uid"] not in taken:
                    taken.add(about["metadata"]["uid"])
                    self._threads.append(threading.Thread(target=self._run, args=(about,)))
                    self._threads[-1].start()

    def _run(self, about: dict[str, Any]) -> None:
        """One pod from its binding to its end."""
        name, namespace = about["metadata"]["name"], about["metadata"]["namespace"]
        target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        where = f"/api/v1/namespaces/{namespace}/pods/{name}/binding"
        self._cluster.kubectl("create", "--raw", where, "-f", "-", given=json.dumps(binding))
        self.pods[name] = found = self._pod(about)
        found.start()
        while not self._stop.wait(EVERY_S):
            now = self._cluster.get("-n", namespace, "pod", name)
            if "deletionTimestamp" in now["metadata"]:
                self.ended[name] = found.stop()
                self._cluster.kubectl("delete", "pod", name, "-n", namespace, "--grace-period=0", "--force")
                return
            self._tell(found, name, namespace)

    def _pod(self, about: dict[str, Any]) -> Pod:
        folder = self._folder / about["metadata"]["name"]
        folder.mkdir()
        found = Pod(about, folder)
        for volume in about["spec"]["volumes"]:
            if "persistentVolumeClaim" in volume:
                found.volumes[volume["name"]] = self.claim(volume["persistentVolumeClaim"]["claimName"])
        return found

    def _tell(self, found: Pod, name: str, namespace: str) -> None:
        """Status of the pod, by its processes and its readiness probes."""
        states = [self._state(found, each) for each in found.manifest["spec"]["containers"]]
        ready = str(all(each["ready"] for each in states))
        conditions = [{"type": kind, "status": ready} for kind in ("Initialized", "ContainersReady", "Ready")]
        status = {"phase": "Running", "conditions": conditions, "containerStatuses": states}
        with contextlib.suppress(helm.Refused):  # it has been deleted a moment ago
            patch = ("--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
            self._cluster.kubectl("patch", "pod", name, "-n", namespace, *patch)

    @staticmethod
    def _state(found: Pod, about: dict[str, Any]) -> dict[str, Any]:
        container = found.containers[about["name"]]
        runs = container.process is not None and container.process.poll() is None
        ready = runs and ("readinessProbe" not in about or container.ready())
        told = {"name": about["name"], "image": about["image"], "imageID": "", "restartCount": 0}
        return {**told, "ready": ready, "state": {"running": {}} if runs else {"terminated": {"exitCode": 1}}}
