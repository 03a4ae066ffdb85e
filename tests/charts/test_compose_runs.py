"""deploy/compose.yaml runs: broker, server, agent and users by its commands, variables, mounts and names."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.conftest import require_or_skip
from tests.parts import compose
from tests.parts.kube import tools

pytestmark = [pytest.mark.slow, pytest.mark.kafka]
LIMIT_S = 240.0
PROMETHEUS = "http://prometheus:9090/api/v1"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[compose.Project]:
    """All services of the file that this machine has; one that collects spans in place of Jaeger."""
    require_or_skip("pod", compose.unavailable())
    with compose.project(tmp_path_factory.mktemp("compose")) as found:
        found.start_broker()
        found.start_collector()
        for name in ("server", "agent", "users"):  # as in the file: nobody waits until another is ready
            found.start(name, "tta-agent")
        if tools.unavailable("prometheus") is None:
            found.start("prometheus", str(tools.path("prometheus")), *compose.PROMETHEUS)
        yield found


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
    text = project.get("http://agent:9464/metrics") or ""
    found = re.findall(
        rf'^tta_samples_total{{[^}}]*tta_outcome="{outcome}"[^}}]*}} (\S+)$', text, re.MULTILINE
    )
    return int(sum(map(float, found)))


def test_the_services_come_up_together_and_the_agent_counts_the_users_records(
    project: compose.Project,
) -> None:
    until(lambda: counted(project, "kept") > 200, project)
    users = project.containers["users"].log
    until(lambda: "failed" in users.read_text(), project)
    assert all(line.endswith("failed 0") for line in users.read_text().splitlines()), users.read_text()
    assert project.get("http://server:8080/v2/health/ready") is not None
    assert "tta_server" in (project.get("http://server:8080/metrics") or "")
    assert not counted(project, "undecodable")


def test_spans_of_agent_and_server_arrive_where_jaeger_listens(project: compose.Project) -> None:
    def told() -> set[str]:
        requests = [
            ExportTraceServiceRequest.FromString(path.read_bytes()) for path in project.spans.iterdir()
        ]
        return {
            span.name
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        }

    until(lambda: "tta.score" in told() and any("infer" in name for name in told()), project)


def test_prometheus_scrapes_both_and_knows_the_rules(project: compose.Project) -> None:
    require_or_skip("prometheus", tools.unavailable("prometheus"))

    def asked(path: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(project.get(f"{PROMETHEUS}/{path}") or '{"data": {}}')["data"]
        return found

    def up() -> dict[str, str]:
        found = asked("targets").get("activeTargets", [])
        return {each["labels"]["pod"]: each["health"] for each in found}  # type: ignore[attr-defined]

    until(lambda: up() == {"agent": "up", "server": "up"}, project)
    until(lambda: '"pod": "agent"' in json.dumps(asked("query?query=tta_samples_total")), project)
    assert "TtaAgentFallsBehind" in json.dumps(asked("rules"))
