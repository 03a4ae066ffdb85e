"""deploy/compose.yaml runs: broker, server, agent and users by its commands, variables, mounts and names."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import require_or_skip
from tests.parts import compose

LIMIT_S = 240.0
METRICS = "http://agent:9464/metrics"


def until(holds: Callable[[], object], project: compose.Project) -> None:
    """Poll; services that ask for it are started again, and what all of them have said is shown at the end."""
    deadline_s = time.monotonic() + LIMIT_S
    while not holds():
        if time.monotonic() > deadline_s:
            said = {name: each.log.read_text()[-2000:] for name, each in project.containers.items()}
            pytest.fail("\n".join(f"{name}: {text}" for name, text in said.items()))
        project.restart_failed()
        time.sleep(0.3)


def counted(project: compose.Project, outcome: str) -> int:
    """Records that the agent has counted, by its metrics."""
    text = project.get(METRICS) or ""
    found = re.findall(
        rf'^tta_samples_total{{[^}}]*tta_outcome="{outcome}"[^}}]*}} (\S+)$', text, re.MULTILINE
    )
    return int(sum(map(float, found)))


@pytest.mark.slow
@pytest.mark.kafka
def test_the_services_come_up_together_and_the_agent_counts_the_users_records(tmp_path: Path) -> None:
    require_or_skip("pod", compose.unavailable())
    with compose.project(tmp_path) as project:
        project.start_broker()
        for name in ("server", "agent", "users"):  # as in the file: nobody waits until another is ready
            project.start(name)
        until(lambda: counted(project, "kept") > 200, project)
        users = project.containers["users"].log
        until(lambda: "failed" in users.read_text(), project)
        assert all(line.endswith("failed 0") for line in users.read_text().splitlines()), users.read_text()
        assert project.get("http://server:8080/v2/health/ready") is not None
        assert "tta_server" in (project.get("http://server:8080/metrics") or "")
        assert not counted(project, "undecodable")
