"""Phases of `tta-agent demo`: a server alone, an agent beside it, a shift, a proof, a swap, and accuracy again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tta_agent.core.errors import TtaError
from tta_agent.demo.processes import Child, answers, free_port
from tta_agent.demo.traffic import Traffic, TrafficPlan, make_workload, window
from tta_agent.demo.view import DemoState
from tta_agent.models.ort_sessions import open_session
from tta_agent.registry.factory import open_registry
from tta_agent.registry.registry import ModelRegistry
from tta_agent.samples import dataset
from tta_agent.settings.schema import Settings
from tta_agent.stream.factory import open_producer, open_writer
from tta_agent.telemetry.event_log import EventLog

WINDOW_S = 4.0  # over which accuracies are averaged
READY_S = 90.0  # longest start of the agent
Show = Callable[[DemoState], None]


@dataclass(frozen=True, slots=True)
class Phases:
    """Seconds of each phase; `alone_s`: the server without an agent, to compare its latency with."""

    alone_s: float = 10.0
    clean_s: float = 12.0
    shifted_s: float = 95.0
    kill_agent: bool = False


@dataclass(slots=True)
class DemoRun:
    """Processes and traffic of one demo, and the measurements so far."""

    settings: Settings
    server: Child
    agent: Child
    traffic: Traffic
    registry: ModelRegistry
    phases: Phases
    plan: TrafficPlan
    marks: dict[str, float] = field(default_factory=dict)  # beginning of each phase, seconds since the start
    timeline: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def now_s(self) -> float:
        """Seconds since the first request."""
        return time.time() - self.traffic.started_s


def prepare(
    settings: Settings,
    environ: dict[str, str],
    images: dataset.LabelledImages,
    plan: TrafficPlan,
    phases: Phases,
) -> DemoRun:
    """Start the server on an empty store, and prepare the images of the traffic."""
    state = settings.store.path
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True)
    environ = {**environ, "TTA_SERVE__PORT": str(free_port())}
    environ["TTA_SWAP__URL"] = url = f"http://127.0.0.1:{environ['TTA_SERVE__PORT']}"
    server = Child("serve", environ, state / "server.log")
    server.start()
    try:
        server.wait_until(lambda: answers(url), "the model server")
        registry = open_registry(settings)
        workload = make_workload(images, plan, open_session(registry.get(0).path))
        name, labels = settings.model.served_as, settings.stream.labels_topic
        producer, codec = open_producer(settings, [labels]), open_writer(settings)
        traffic = Traffic(plan, workload, url, name, producer, codec, labels)
    except BaseException:
        server.stop()
        raise
    agent = Child("run", environ, state / "agent.log")
    return DemoRun(settings, server, agent, traffic, registry, phases, plan)


def play(run: DemoRun, show: Show) -> None:
    """Run all phases in order.

    Raises:
        TtaError: a process ended by itself.
    """
    run.traffic.start()
    try:
        _phase(run, "alone", run.phases.alone_s, show)
        run.agent.start()
        _phase(run, "starting", READY_S, show, until=lambda: "ready" in status(run))
        _phase(run, "clean", run.phases.clean_s, show)
        run.traffic.shift()
        if run.phases.kill_agent:
            _phase(run, "shifted", run.phases.shifted_s / 4, show)
            _kill_agent(run)
            _phase(run, "resumed", run.phases.shifted_s * 3 / 4, show)
        else:
            _phase(run, "shifted", run.phases.shifted_s, show)
    finally:
        run.marks["end"] = run.now_s()
        run.traffic.stop()
        code = run.agent.stop()
        if code:
            run.failures.append(f"the agent ended with status {code}, see {run.agent.log}")
        run.server.stop()
        run.events = events(run)


def _phase(
    run: DemoRun, name: str, seconds: float, show: Show, until: Callable[[], bool] = lambda: False
) -> None:
    run.marks[name] = began_s = run.now_s()
    while run.now_s() - began_s < seconds and not until():
        time.sleep(0.25)
        if run.now_s() - len(run.timeline) >= 1:
            _note(run)
            show(_state(run, name))
        for child in (run.server, run.agent):
            if child.died():
                raise TtaError(f"`tta-agent {child.command}` ended by itself; see {child.log}")


def _kill_agent(run: DemoRun) -> None:
    run.agent.kill()
    run.marks["killed"] = run.now_s()
    run.agent.start()


def _note(run: DemoRun) -> None:
    now_s, numbers = run.now_s(), status(run)
    lately = window(run.traffic.answers[-2000:], now_s - WINDOW_S, now_s)
    latest = next((a.version for a in reversed(run.traffic.answers[-50:]) if a.version >= 0), None)
    seen = {name: numbers.get(name) for name in ("entropy", "kept")}
    run.timeline.append({"t": round(now_s, 2), **lately, "version": latest, **seen})


def _state(run: DemoRun, phase: str) -> DemoState:
    answers_, lately = run.traffic.answers, run.timeline[-1]
    waits = sorted(a.latency_ms for a in answers_[-500:] if a.version >= 0) or [0.0]
    phases = run.phases
    return DemoState(
        elapsed_s=run.now_s(),
        duration_s=phases.alone_s + phases.clean_s + phases.shifted_s + 10,
        phase="shifted" if "shifted" in run.marks else "clean",
        shift_name=shift_name(run.plan),
        sent=len(answers_),
        failed=sum(run.traffic.errors.values()),
        rate_per_s=run.plan.rate_per_s,
        p50_ms=waits[len(waits) // 2],
        p99_ms=waits[int(len(waits) * 0.99)],
        served_accuracy=lately["served"],
        source_accuracy=lately["source"],
        history=[(p["t"], p["served"], p["source"]) for p in run.timeline if p["served"] is not None],
        serving_version=lately["version"] or 0,
        labels_sent=run.traffic.labels_sent,
        status=status(run),
        events=events(run),
        started_s=run.traffic.started_s,
        shifted_s=run.marks.get("shifted"),
    )


def shift_name(plan: TrafficPlan) -> str:
    """The shift in words."""
    return f"{' + '.join(plan.families)}, severity {plan.severity}"


def status(run: DemoRun) -> dict[str, Any]:
    """The agent's `status.json`; empty before there is one."""
    try:
        return dict(json.loads((run.settings.store.path / "status.json").read_text()))
    except (OSError, ValueError):
        return {}


def events(run: DemoRun) -> list[dict[str, Any]]:
    """The agent's `events.jsonl`, with `t` in seconds since the first request."""
    lines = EventLog(run.settings.store.path).read_events()
    return [{**line, "t": round(line["time"] - run.traffic.started_s, 2)} for line in lines]
