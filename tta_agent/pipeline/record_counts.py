"""Counts of records and labels by what became of them, in `status.json`, and a warning where a reason takes many."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping

from tta_agent.telemetry.event_log import EventLog
from tta_agent.telemetry.facade import Telemetry

LABELS = ("matched", "late", "orphan", "expired")
WINDOW = 1000  # records, or labels
SHARE = 0.2  # of a window; beyond it a reason is told
ADVICE = {
    "duplicate": "give each request an id of its own (ce_id, or `id` in the body): one that comes again is dropped",
    "stale": "they are older than TTA_STREAM__MAX_AGE_S={max_age_s:g} s: check the clocks of senders, or raise it",
    "undecodable": "see TTA_STREAM__CODEC, the shape of the model's input, and the dead letters",
    "internal": "see the traceback in this log",
    "implausible": "they lie far outside of what source and stream show, neither teach nor are evidence: see how "
    "senders prepare them; TTA_SELECT__SCREEN='[]' takes all",
    "late": "they came more than TTA_LABELS__HORIZON_S={horizon_s:g} s after their inference: raise it",
    "orphan": "no inference came with their id in time: check their ids, and that every inference is logged",
}
log = logging.getLogger(__name__)


class RecordCounts:
    """What became of records, since the agent started. Thread-safe.

    Args:
        limits: values of settings that the advice names.
    """

    def __init__(self, journal: EventLog, telemetry: Telemetry, **limits: float) -> None:
        self._journal, self._telemetry, self._limits = journal, telemetry, limits
        self._lock = threading.Lock()
        known = ("teach", "held_out", "duplicate", "stale", "internal", *LABELS, "dead_letter", "too_large")
        self._total = Counter(dict.fromkeys(known, 0))
        self._undecodable: Counter[str] = Counter()
        self._windows: dict[str, Counter[str]] = {}
        self._labels: Mapping[str, int] | None = None
        self._told: set[str] = set()

    def decoded(self, topic: str, outcomes: Mapping[str, int]) -> None:
        """Raw records of a topic: those that were `read`, and the others by reason."""
        refused = Counter({reason: n for reason, n in outcomes.items() if reason != "read"})
        with self._lock:
            self._undecodable += refused
            found = {"read": outcomes.get("read", 0), "undecodable": refused.total()}
            self._look(f"records of {topic}", found)
        if refused:
            self._telemetry.samples("undecodable", refused.total())
        self._tell()

    def joined(self, counts: Mapping[str, int]) -> None:
        """Requests and responses that were logged apart: joined, alone, no_request; counts that go up."""
        with self._lock:
            changed = any(self._total[name] != count for name, count in counts.items())
            self._total.update({name: count - self._total[name] for name, count in counts.items()})
        if changed:
            self._tell()

    def routed(self, outcomes: Mapping[str, int]) -> None:
        """Samples by their use: teach, held_out, duplicate, stale, internal, and so on."""
        for outcome, count in outcomes.items():
            if outcome != "teach":  # the selectors tell what becomes of those
                self._telemetry.samples(outcome, count)
        self._add("samples", outcomes)

    def screened(self, outcomes: Mapping[str, int]) -> None:
        """Inputs that are plausible, or implausible: of the same samples, so that only a large share is told."""
        with self._lock:
            self._look("inputs", outcomes)

    def labelled(self, counts: Mapping[str, int]) -> None:
        """Counts of the label store, which go up from run to run: what they have gone up by is counted."""
        before, self._labels = counts if self._labels is None else self._labels, dict(counts)
        new = {name: counts.get(name, 0) - before.get(name, 0) for name in LABELS}
        if any(new.values()):
            self._add("labels", new, besides=("expired",))

    def lost(self, kind: str, count: int) -> None:
        """Messages that could not be handed on: dead_letter, label_request, too_large."""
        self._telemetry.dropped(kind, count)
        with self._lock:
            self._total[kind] += count
        self._tell()

    def _add(self, window: str, outcomes: Mapping[str, int], besides: tuple[str, ...] = ()) -> None:
        with self._lock:
            self._total.update(outcomes)
            self._look(window, {name: n for name, n in outcomes.items() if name not in besides})
        self._tell()

    def _look(self, window: str, outcomes: Mapping[str, int]) -> None:
        """Add to a window; once it is full, tell of each reason that took too much of it, and begin another."""
        seen = self._windows.setdefault(window, Counter())
        seen.update(outcomes)
        if (total := seen.total()) < WINDOW:
            return
        for reason in [r for r in ADVICE if seen[r] > SHARE * total and f"{window} {r}" not in self._told]:
            self._told.add(f"{window} {reason}")
            advice = ADVICE[reason].format(**self._limits)
            log.warning("%d of %d %s are dropped as %s: %s", seen[reason], total, window, reason, advice)
        seen.clear()

    def _tell(self) -> None:
        with self._lock:
            found = {**self._total, "undecodable": dict(self._undecodable)}
        self._journal.status(records=found, undecodable=found["undecodable"])
