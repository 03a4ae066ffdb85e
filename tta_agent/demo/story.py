"""What `tta-agent demo` tells: a server alone, an agent beside it, a shift, a proof, a swap, and accuracy again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tta_agent.core.errors import TtaError
from tta_agent.demo.processes import Child, answers, free_port
from tta_agent.demo.traffic import Plan, Traffic, make_world, window
from tta_agent.demo.view import Scene
from tta_agent.models.ort_sessions import open_session
from tta_agent.registry.registry import ModelRegistry, open_ledger
from tta_agent.samples import dataset
from tta_agent.settings.schema import Settings
from tta_agent.stream.factory import open_producer
from tta_agent.telemetry.event_log import EventLog

WINDOW_S = 4.0  # "lately", for accuracies
READY_S = 90.0  # longest start of the agent
Show = Callable[[Scene], None]


@dataclass(frozen=True, slots=True)
class Script:
    """Seconds of each act. `alone_s`: the server without an agent, to compare its latency with."""

    alone_s: float = 10.0
    clean_s: float = 12.0
    shifted_s: float = 95.0
    kill_agent: bool = False


@dataclass(slots=True)
class Stage:
    """Everything that runs, and what was seen of it."""

    settings: Settings
    server: Child
    agent: Child
    traffic: Traffic
    ledger: ModelRegistry
    script: Script
    plan: Plan
    marks: dict[str, float] = field(default_factory=dict)  # when each act began, seconds since the start
    timeline: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def now_s(self) -> float:
        """Seconds since the first request."""
        return time.time() - self.traffic.started_s


def prepare(
    settings: Settings, environ: dict[str, str], images: dataset.LabelledImages, plan: Plan, script: Script
) -> Stage:
    """Start the server on an empty store, and make the images that will be sent."""
    state = settings.store.path
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True)
    environ = {**environ, "TTA_SERVE__PORT": str(free_port())}
    environ["TTA_SWAP__URL"] = url = f"http://127.0.0.1:{environ['TTA_SERVE__PORT']}"
    server = Child("serve", environ, state / "server.log")
    server.start()
    try:
        server.wait_until(lambda: answers(url), "the model server")
        ledger = open_ledger(settings)
        world = make_world(images, plan, open_session(ledger.get(0).path))
        name = settings.model.served_as
        traffic = Traffic(plan, world, url, name, open_producer(settings), settings.stream.labels_topic)
    except BaseException:
        server.stop()
        raise
    agent = Child("run", environ, state / "agent.log")
    return Stage(settings, server, agent, traffic, ledger, script, plan)


def play(stage: Stage, show: Show) -> None:
    """All acts, in order."""
    stage.traffic.start()
    try:
        _act(stage, "alone", stage.script.alone_s, show)
        stage.agent.start()
        _act(stage, "starting", READY_S, show, until=lambda: "ready" in status(stage))
        _act(stage, "clean", stage.script.clean_s, show)
        stage.traffic.shift()
        if stage.script.kill_agent:
            _act(stage, "shifted", stage.script.shifted_s / 4, show)
            _kill_agent(stage)
            _act(stage, "resumed", stage.script.shifted_s * 3 / 4, show)
        else:
            _act(stage, "shifted", stage.script.shifted_s, show)
    finally:
        stage.marks["end"] = stage.now_s()
        stage.traffic.stop()
        code = stage.agent.stop()
        if code:
            stage.failures.append(f"the agent ended with status {code}, see {stage.agent.log}")
        stage.server.stop()
        stage.events = events(stage)


def _act(
    stage: Stage, name: str, seconds: float, show: Show, until: Callable[[], bool] = lambda: False
) -> None:
    stage.marks[name] = began_s = stage.now_s()
    while stage.now_s() - began_s < seconds and not until():
        time.sleep(0.25)
        if stage.now_s() - len(stage.timeline) >= 1:
            _note(stage)
            show(_scene(stage, name))
        for child in (stage.server, stage.agent):
            if child.died():
                raise TtaError(f"`tta-agent {child.command}` ended by itself; see {child.log}")


def _kill_agent(stage: Stage) -> None:
    stage.agent.kill()
    stage.marks["killed"] = stage.now_s()
    stage.agent.start()


def _note(stage: Stage) -> None:
    now_s, numbers = stage.now_s(), status(stage)
    lately = window(stage.traffic.answers[-2000:], now_s - WINDOW_S, now_s)
    latest = next((a.version for a in reversed(stage.traffic.answers[-50:]) if a.version >= 0), None)
    told = {name: numbers.get(name) for name in ("entropy", "kept")}
    stage.timeline.append({"t": round(now_s, 2), **lately, "version": latest, **told})


def _scene(stage: Stage, phase: str) -> Scene:
    answers_, lately = stage.traffic.answers, stage.timeline[-1]
    waits = sorted(a.latency_ms for a in answers_[-500:] if a.version >= 0) or [0.0]
    script = stage.script
    return Scene(
        elapsed_s=stage.now_s(),
        duration_s=script.alone_s + script.clean_s + script.shifted_s + 10,
        phase="shifted" if "shifted" in stage.marks else "clean",
        shift_name=shift_name(stage.plan),
        sent=len(answers_),
        failed=sum(stage.traffic.errors.values()),
        rate_per_s=stage.plan.rate_per_s,
        p50_ms=waits[len(waits) // 2],
        p99_ms=waits[int(len(waits) * 0.99)],
        served_accuracy=lately["served"],
        source_accuracy=lately["source"],
        history=[(p["t"], p["served"], p["source"]) for p in stage.timeline if p["served"] is not None],
        serving_version=lately["version"] or 0,
        labels_sent=stage.traffic.labels_sent,
        status=status(stage),
        events=events(stage),
        started_s=stage.traffic.started_s,
        shifted_s=stage.marks.get("shifted"),
    )


def shift_name(plan: Plan) -> str:
    """In words."""
    return f"{' + '.join(plan.families)}, severity {plan.severity}"


def status(stage: Stage) -> dict[str, Any]:
    """The agent's numbers of now; empty before it has written any."""
    try:
        return dict(json.loads((stage.settings.store.path / "status.json").read_text()))
    except (OSError, ValueError):
        return {}


def events(stage: Stage) -> list[dict[str, Any]]:
    """The agent's decisions, with `t` in seconds since the first request."""
    lines = EventLog(stage.settings.store.path).read_events()
    return [{**line, "t": round(line["time"] - stage.traffic.started_s, 2)} for line in lines]
