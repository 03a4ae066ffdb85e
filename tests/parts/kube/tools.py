"""Builds Helm, its checkers and a Kubernetes control plane with Go, once for each version.

`python -m tests.parts.kube.tools helm kubeconform` builds what is missing and prints where it is. The programs are
kept under `.parts/go`; PARTS_CACHE names another folder than `.parts`. Helm and its checkers take about three minutes
on an empty machine, the control plane about ten and nine gigabytes of Go's caches.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.parts.kafka.broker import REPOSITORY

KUBERNETES = "1.37.2"
COMPOSE = "github.com/compose-spec/compose-go/v2"
UNITTEST = "github.com/helm-unittest/helm-unittest"
ANY_VERSION = ("kubectl", "etcd", "prometheus", "promtool")
LIMIT_S = 2400.0
STAMP = "k8s.io/component-base/version"


@dataclass(frozen=True, slots=True)
class Tool:
    """A program of a Go module.

    Attributes:
        replaces: modules that the module's own go.mod replaces, which `go install` refuses.
        tags: build tags.
    """

    package: str
    version: str
    module: str
    replaces: dict[str, str] = field(default_factory=dict)
    tags: str = ""

    def path(self, name: str) -> Path:
        """Where the program is, or will be."""
        return cache() / f"{name}-{self.version}"


def _kubernetes(command: str) -> Tool:
    return Tool(f"k8s.io/kubernetes/cmd/{command}", f"v{KUBERNETES}", "k8s.io/kubernetes")


def _prometheus(command: str) -> Tool:
    """Without its two dozen ways to find targets, and most of their modules: ours are named in the file."""
    module = "github.com/prometheus/prometheus"
    return Tool(f"{module}/cmd/{command}", "v0.316.0", module, tags="remove_all_sd")


TOOLS = {
    "helm": Tool("helm.sh/helm/v4/cmd/helm", "v4.3.1", "helm.sh/helm/v4"),
    "helm3": Tool("helm.sh/helm/v3/cmd/helm", "v3.22.0", "helm.sh/helm/v3"),
    "kubeconform": Tool("github.com/yannh/kubeconform/cmd/kubeconform", "v0.8.0", "github.com/yannh/kubeconform"),
    "helm-unittest": Tool(
        f"{UNITTEST}/cmd/helm-unittest", "v1.1.2", UNITTEST,
        {"github.com/vmware-labs/yaml-jsonpath": "github.com/helm-unittest/yaml-jsonpath v0.4.0"},
    ),
    "etcd": Tool("go.etcd.io/etcd/server/v3", "v3.7.3", "go.etcd.io/etcd/server/v3"),
    "kube-apiserver": _kubernetes("kube-apiserver"),
    "kube-controller-manager": _kubernetes("kube-controller-manager"),
    "kube-scheduler": _kubernetes("kube-scheduler"),
    "kubectl": _kubernetes("kubectl"),
    "kwok": Tool("sigs.k8s.io/kwok/cmd/kwok", "v0.8.0", "sigs.k8s.io/kwok"),
    "compose-go": Tool(f"{COMPOSE}/cmd", "v2.16.2", COMPOSE),
    "prometheus": _prometheus("prometheus"),
    "promtool": _prometheus("promtool"),
    "toxiproxy": Tool("github.com/Shopify/toxiproxy/v2/cmd/server", "v2.5.0", "github.com/Shopify/toxiproxy/v2"),
}  # fmt: skip


def cache() -> Path:
    """The folder of the programs."""
    return Path(os.environ.get("PARTS_CACHE") or REPOSITORY / ".parts") / "go"


def unavailable(*names: str) -> str | None:
    """Why one of the programs is not here, or None. Nothing is built."""
    missing = [name for name in names if not path(name).exists()]
    return (
        f"needs {', '.join(missing)}: python -m tests.parts.kube.tools {' '.join(missing)}"
        if missing
        else None
    )


def path(name: str) -> Path:
    """A program: the built one, or of those that any version will do for, the one on the PATH."""
    built = TOOLS[name].path(name)
    found = shutil.which(name) if name in ANY_VERSION and not built.exists() else None
    return Path(found) if found else built


def build(name: str) -> Path:
    """The program, built where it is missing; it appears all at once.

    Raises:
        RuntimeError: Go is missing or refuses; says how its output ends.
    """
    tool, program = TOOLS[name], TOOLS[name].path(name)
    if program.exists():
        return program
    if shutil.which("go") is None:
        raise RuntimeError(f"{name} needs Go on the PATH")
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        _write_module(tool, Path(folder))
        flags = ("-mod=mod", "-tags", tool.tags, "-ldflags", _flags(tool))
        _go(folder, "build", *flags, "-o", "program", tool.package)
        (Path(folder) / "program").rename(program)
    return program


def module_files(module: str, version: str) -> Path:
    """The folder of a module's files, downloaded where they are missing."""
    told = _go(str(REPOSITORY), "mod", "download", "-json", f"{module}@{version}")
    return Path(json.loads(told)["Dir"])


def _write_module(tool: Tool, folder: Path) -> None:
    """A module of ours around the tool: its version is pinned, and its own replacements hold."""
    own = Path(
        json.loads(_go(str(folder), "mod", "download", "-json", f"{tool.module}@{tool.version}"))["GoMod"]
    )
    text = own.read_text()
    keep = re.findall(r"^(?:go|godebug) .*$|^godebug \([^)]*\)$", text, re.MULTILINE)
    replaced = dict(tool.replaces)
    if tool.module == "k8s.io/kubernetes":  # its staging modules are folders there, and modules elsewhere
        staged = re.findall(r"^\s*(k8s\.io/[a-z-]+) =>", text, re.MULTILINE)
        replaced |= {name: f"{name} v0.{KUBERNETES.partition('.')[2]}" for name in staged}
    lines = ["module parts", *keep, f"require {tool.module} {tool.version}"]
    lines += [f"replace {old} => {new}" for old, new in replaced.items()]
    (folder / "go.mod").write_text("\n".join(lines) + "\n")
    (folder / "tools.go").write_text(f'//go:build tools\n\npackage tools\n\nimport _ "{tool.package}"\n')


def _flags(tool: Tool) -> str:
    if tool.module != "k8s.io/kubernetes":
        # Helm tells charts this version of Kubernetes where it is not connected to one
        return (
            f"-s -w -X helm.sh/helm/v3/internal/version.version={tool.version}"
            if "v3" in tool.package
            else "-s -w"
        )
    major, minor, _ = KUBERNETES.split(".")
    given = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor}
    return " ".join(["-s", "-w", *(f"-X {STAMP}.{name}={value}" for name, value in given.items())])


def _go(folder: str, *arguments: str) -> str:
    command = ["nice", "-n", "10", "go", *arguments]
    environ = {**os.environ, "GOFLAGS": os.environ.get("GOFLAGS", ""), "GOWORK": "off"}
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    if done.returncode:
        raise RuntimeError(f"go {' '.join(arguments)}: {done.stderr[-1500:]}{done.stdout[-500:]}")
    return done.stdout


def main(names: Sequence[str]) -> int:
    """Build each, and print its path; 1 where one could not be built."""
    failed = 0
    for name in names:
        try:
            print(f"{name}: {build(name)}", flush=True)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"{name} cannot be built here: {error}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
