"""Settings to the rollout: gates, evaluations, monitors, limits, hooks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tta_agent.control.commands import CommandInbox
from tta_agent.control.webhooks import Hooks
from tta_agent.core import plugins
from tta_agent.core.protocols import Gate, ServerDriver
from tta_agent.core.stream_protocols import Producer
from tta_agent.core.types import Message
from tta_agent.evaluation import calibration
from tta_agent.evaluation.anchor_set import AnchorSet
from tta_agent.evaluation.decision import GateSet
from tta_agent.evaluation.label_guard import LabelGuard
from tta_agent.evaluation.recent import RecentRecords
from tta_agent.labels.requests import LabelRequest, LabelRequester, to_file, to_topic
from tta_agent.models import loader
from tta_agent.models.onnx_export import GraphTemplate, answers
from tta_agent.models.ort_sessions import open_session
from tta_agent.models.preprocessing import check_labelled
from tta_agent.registry.registry import ModelRegistry
from tta_agent.rollout.approval import Approval, Mode
from tta_agent.rollout.candidates import CandidateQueue
from tta_agent.rollout.controller import RolloutController
from tta_agent.rollout.deployments import Deployments
from tta_agent.rollout.factory import EvaluationFactory, EvaluationSettings
from tta_agent.rollout.limits import RolloutLimits
from tta_agent.rollout.monitor import ServingMonitor
from tta_agent.rollout.operator import OperatorCommands
from tta_agent.rollout.ports import Rehearsal
from tta_agent.rollout.promoter import Promoter, PromotionRules
from tta_agent.rollout.regimes import RegimeFollower
from tta_agent.rollout.wanted_labels import WantedLabels
from tta_agent.serving.deployment import ServedModel
from tta_agent.settings.schema import Settings
from tta_agent.settings.secret import revealed
from tta_agent.stream.factory import open_writer
from tta_agent.telemetry.event_log import EventLog
from tta_agent.telemetry.facade import Telemetry

MODES: dict[str, Mode] = {"observe": "never", "shadow": "never", "approve": "ask", "auto": "always"}


def make_rollout(
    settings: Settings,
    source: loader.DeployedModel,
    template: GraphTemplate,
    registry: ModelRegistry,
    driver: ServerDriver,
    producer: Producer,
    telemetry: Telemetry,
    journal: EventLog,
    *,
    fingerprint: str,
    clock: Callable[[], float],
    salt: bytes = b"",
    timed: bool = True,
) -> RolloutController:
    """Everything between a candidate and the server.

    Args:
        fingerprint: of the deployed weights; calibration and rehearsals of others do not count.
        salt: of the draw of records whose label is requested.
        timed: as in `EvaluationFactory`.

    Raises:
        ConfigError: a gate, detector, window, anchor set or address that does not fit.
    """
    s = settings
    rehearsal = load_rehearsal(s, source, fingerprint)
    gates = _gates(s, rehearsal)
    hooks, inbox = _hooks(s, telemetry), CommandInbox(s.store.path)
    limits, approval = _limits(s), Approval(MODES[s.mode], hooks)
    opener = functools.partial(
        open_session, threads=s.model.threads, device=str(source.device), output=source.output,
        data=registry.data_files(),
    )  # fmt: skip
    tell = {"tell": hooks.event} if hooks else {}
    served = ServedModel(
        registry, driver, telemetry, journal, template.fixed, opener, **tell, keep=s.store.keep
    )
    factory = EvaluationFactory(
        template,
        served,
        _evaluation_settings(s),
        vetoes=tuple(gate for gate in gates.values() if getattr(gate, "watches", False)),
        anchor=load_anchor(s, source),
        rehearsal=rehearsal,
        null=calibration.load(proofs(s), fingerprint),
        timed=timed,
    )
    deployments = Deployments()
    regimes = RegimeFollower(
        served,
        deployments,
        plugins.make("detectors", s.watch.detector, s.watch.options),
        telemetry,
        follows=s.watch.follow_domain and s.mode != "observe",
        swaps=s.mode in ("approve", "auto"),
        allowed=lambda: not (inbox.frozen() or limits.frozen(clock())),
        retry_s=s.watch.health_every_s,
        clock=clock,
    )
    monitor = ServingMonitor(
        served, factory, deployments, regimes, limits, hook=hooks, every_s=s.watch.health_every_s, clock=clock
    )
    recent = RecentRecords(s.gate.recent_bytes)
    queue = CandidateQueue(served, factory, regimes, telemetry, s.gate.alpha, recent)
    promoter = Promoter(
        served,
        queue,
        GateSet(list(gates.values()), LabelGuard(s.gate.worst_class)),
        limits,
        approval,
        monitor,
        WantedLabels(_requests(s, producer, telemetry, salt), clock, salt),
        telemetry,
        PromotionRules(s.gate.patience_records, s.watch.guarded_ttl_s),
        frozen=inbox.frozen,
        clock=clock,
    )
    operator = OperatorCommands(inbox, approval, monitor, served)
    close = hooks.close if hooks else lambda: None
    return RolloutController(
        served, operator, monitor, regimes, queue, promoter, close, share=s.gate.evaluate_share, salt=salt
    )


def _gates(s: Settings, rehearsal: Rehearsal | None) -> dict[str, Gate]:
    """The gates by name; where options leave them open, plausibility has its limits from the rehearsal."""
    known = {n: plugins.load("gates", n) for n in s.gate.gates}
    limits = rehearsal.limits(known) if rehearsal else {}
    options = {n: {**limits.get(n, {}), **s.gate.options.get(n, {})} for n in known}
    return {n: plugins.make("gates", n, options) for n in known}


def load_anchor(settings: Settings, source: loader.DeployedModel) -> AnchorSet | None:
    """The labelled set that no candidate may forget: as named, else the source data where it is labelled."""
    path = settings.gate.anchor or settings.model.source_data
    if path is None:
        return None
    found = AnchorSet.read(
        path,
        source.shape,
        source.mean,
        source.std,
        must=settings.gate.anchor is not None,
        classes=source.classes,
        label_sets=source.output.task == "multilabel",
    )
    if found is not None and settings.model.check_served:
        setting = f"TTA_GATE__ANCHOR={path}" if settings.gate.anchor else f"TTA_MODEL__SOURCE_DATA={path}"
        ask = functools.partial(answers, source.module)
        check_labelled(ask, found.inputs, found.labels, source.mean, source.std, setting=setting)
    return found


def load_rehearsal(settings: Settings, source: loader.DeployedModel, fingerprint: str) -> Rehearsal | None:
    """What `tta-agent rehearse` has found for this model and this way of adapting, where a gate asks for it."""
    if "rehearsed" not in settings.gate.gates or settings.mode == "observe":
        return None
    from tta_agent.evaluation.rehearsed import store

    name = store.key(fingerprint, store.learning(settings))
    return store.open_rehearsal(proofs(settings) / "rehearsal", name, source.module)


def _evaluation_settings(s: Settings) -> EvaluationSettings:
    return EvaluationSettings(
        s.gate.window_records,
        s.labels.bucket_s,
        s.watch.alpha,
        s.watch.bake_records,
        s.watch.window_records,
        s.watch.trips,
    )


def _limits(s: Settings) -> RolloutLimits:
    return RolloutLimits(
        min_interval_s=s.gate.min_interval_s,
        per_day=s.gate.swaps_per_day,
        freeze=s.gate.freeze,
        cooldown_s=s.schedule.cooldown_s,
    )


def _hooks(s: Settings, telemetry: Telemetry) -> Hooks | None:
    urls = [revealed(url) for url in (s.http.confirm_url, s.http.event_url, s.http.rollback_url)]
    return Hooks(*urls, timeout_s=s.http.timeout_s, dropped=telemetry.dropped) if any(urls) else None


def _requests(s: Settings, producer: Producer, telemetry: Telemetry, salt: bytes) -> LabelRequester | None:
    labels = s.labels
    if not labels.requests_per_day:
        return None
    write = (
        to_topic(producer, labels.requests_topic, _encoder(s), telemetry.dropped)
        if labels.requests_topic
        else to_file(s.store.path / "label-requests.jsonl", telemetry.dropped)
    )
    limits = {"per_day": labels.requests_per_day, "uniform": labels.requests_uniform}
    return LabelRequester(write, **limits, bucket_s=labels.bucket_s, salt=salt)  # type: ignore[arg-type]


def _encoder(s: Settings) -> Callable[[LabelRequest], Message]:
    codec = open_writer(s, or_default=True)
    return lambda request: codec.encode_label_request(request.id, asdict(request), request.ts)


def proofs(settings: Settings) -> Path:
    """Folder of rehearsals and calibration."""
    return settings.store.proofs or settings.store.path
