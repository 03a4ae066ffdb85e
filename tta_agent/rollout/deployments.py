"""Which version serves where: each proven one on records like those of its proof, the source on all others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tta_agent.core.types import Array, GateResult, Label
from tta_agent.drift.detector import FITTING, KEPT, LEFT, SPANS, DataRegime, DriftDetector
from tta_agent.rollout.bake import BakeMonitor

SHORT = 64  # blocks: after a shorter stay twice as many must fit, so that worlds in quick turns cost ever fewer swaps
MOST = 3  # versions that are remembered: each keeps two graphs and the records that may still get a label


@dataclass(frozen=True, slots=True)
class DeployedVersion:
    """A version that has come into service: the watch over it, and where its proof holds."""

    watch: BakeMonitor
    domain: DataRegime


class Deployments:
    """The versions that have come into service last, and were not taken back; by number, the newest last."""

    def __init__(self) -> None:
        self._posts: dict[int, DeployedVersion] = {}
        self._stayed = self._fitting = 0  # blocks for which a version has served, or could have
        self._patience = FITTING
        self.ended: DataRegime | None = None  # the kind of records that has, with what was looked at last
        self._lookout = DriftDetector()

    def __iter__(self) -> Iterator[DeployedVersion]:
        return iter(self._posts.values())

    def watch(self, number: int) -> BakeMonitor | None:
        """Over a version, where it is known."""
        return self._posts[number].watch if number in self._posts else None

    def add(self, watch: BakeMonitor, domain: DataRegime | None = None) -> None:
        """A version has come into service. Its domain, where none is given, is what arrives: trials end with that."""
        self._posts[watch.version.number] = DeployedVersion(watch, domain or self._lookout.domain())
        self.turn()
        for number in list(self._posts)[:-MOST]:
            del self._posts[number]

    def drop(self, number: int) -> None:
        """It is not to serve again."""
        self._posts.pop(number, None)

    def clear(self) -> None:
        """Somebody else decides what serves."""
        self._posts.clear()

    def label(self, labels: Sequence[Label]) -> dict[int, GateResult]:
        """Late labels, for every watch: by version, why it must go. A version need not serve to be found wrong."""
        found: dict[int, GateResult] = {}
        for label in labels:
            for number, post in self._posts.items():
                if finding := post.watch.label(label):
                    found.setdefault(number, finding)
        return found

    def look(self, serving: int, rows: Array) -> tuple[int, GateResult] | None:
        """Signatures of the latest records, [n, d]; which version should serve now, where another one."""
        self.ended = None
        for ended in self._lookout.see(rows):
            self.ended = self.ended or ended
            if found := self._leave(serving) if serving else self._return():
                return found
        return None

    def fits(self, domain: DataRegime) -> bool:
        """Whether the latest records are clearly of that kind."""
        return domain.fits(self._lookout.steady)

    def turn(self, *, left: bool = False) -> None:
        """Another version serves now; `left` where the source has taken over."""
        if left:
            self._patience = FITTING if self._stayed >= SHORT else min(2 * self._patience, KEPT)
        self._lookout.turn()
        self._stayed = self._fitting = 0

    def _leave(self, serving: int) -> tuple[int, GateResult] | None:
        post, latest = self._posts.get(serving), self._lookout.latest
        if post is None:
            return None
        self._stayed += 1
        if far := post.domain.left_by(latest):
            reason = f"records are of another kind than those that version {serving} was proven on"
            return 0, GateResult(
                "domain", far, LEFT, "fail", f"{reason}: {far:.1f} standard errors, {LEFT:g} at most"
            )
        if len(latest) == max(SPANS):
            post.domain.add(latest[0])  # none of those that it is compared with
        return None

    def _return(self) -> tuple[int, GateResult] | None:
        latest = self._lookout.latest
        fitting = next((n for n, post in reversed(self._posts.items()) if post.domain.fits(latest)), None)
        self._fitting = 0 if fitting is None else self._fitting + 1
        if fitting is None or self._fitting + FITTING - 1 < self._patience:
            return None
        value = self._posts[fitting].domain.distance(latest[-FITTING:])
        reason = f"records are again of the kind that version {fitting} was proven on"
        return fitting, GateResult("domain", value, LEFT, "pass", f"{reason}: {value:.1f} standard errors")
