"""Helm 4 and Helm 3 on the chart of this repository, as a user calls them."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.parts.kafka.broker import REPOSITORY
from tests.parts.kube import tools

CHART = REPOSITORY / "charts" / "tta-agent"
CASES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
KUBERNETES = "1.33.0"  # of the renders that are kept
Manifest = dict[str, Any]


class Refused(Exception):
    """Helm has ended with an error; its text."""


def helm(*arguments: str, program: str = "helm", **environ: str) -> str:
    """What Helm prints.

    Raises:
        Refused: it has failed.
    """
    done = subprocess.run(
        [str(tools.path(program)), *arguments], capture_output=True, text=True, check=False,
        env={"HOME": "/nonexistent", "PATH": "/usr/bin:/bin", **environ},
    )  # fmt: skip
    if done.returncode:
        raise Refused(done.stderr + done.stdout)
    return done.stdout


def render(
    *more: str, case: str | None = None, values: Mapping[str, Any] | None = None, folder: Path | None = None,
    program: str = "helm", kubernetes: str = KUBERNETES,
) -> str:  # fmt: skip
    """The chart's manifests as text.

    Args:
        more: further arguments, --set for instance.
        case: a file of the chart's ci/.
        values: values that win over it, written into `folder`.
    """
    arguments = ["template", "agent", str(CHART), "-n", "tta", "--kube-version", kubernetes]
    if case:
        arguments += ["-f", str(CHART / "ci" / f"{case}-values.yaml")]
    if values is not None:
        assert folder is not None
        (folder / "values.yaml").write_text(yaml.safe_dump(dict(values)))
        arguments += ["-f", str(folder / "values.yaml")]
    return helm(*arguments, *more, program=program)


def manifests(text: str) -> list[Manifest]:
    """The objects of a render."""
    return [found for found in yaml.safe_load_all(text) if found]


def one(found: list[Manifest], kind: str) -> Manifest:
    """The only object of a kind."""
    (it,) = [each for each in found if each["kind"] == kind]
    return it


def containers(workload: Manifest) -> dict[str, Manifest]:
    """All containers of a workload's pods by their names, init containers among them."""
    pod = workload["spec"]["template"]["spec"]
    return {each["name"]: each for each in (*pod.get("initContainers", ()), *pod.get("containers", ()))}


def variables(container: Manifest) -> dict[str, str]:
    """Variables with a value of their own, as the container sees them."""
    given = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    return {name: text.replace("$$(", "$(") for name, text in given.items()}
