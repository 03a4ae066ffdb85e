"""Prediction of a cell's seconds from the timing cells: for the order of work, and for how much fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tta_agent.bench.plan import Cell
from tta_agent.bench.work import Result

UNKNOWN_S = 5e-3  # a record of a method that could not be timed
REFUSED_S = 1e-2
TOGETHER = 0.75  # how much of a core is left when all work: they share caches and memory
PEER_FORWARDS = 4.5  # of torch-ttt's engines: forward, backward, and one more forward


def at_once(workers: int) -> float:
    """Seconds of work of one process that `workers` processes do in a second."""
    return max(workers * TOGETHER, 1.0)


@dataclass(frozen=True)
class Predictor:
    """Predictor of a cell's seconds.

    Attributes:
        timings: results of timing cells by method and batch size.
    """

    timings: Mapping[tuple[str, int], Result]

    @classmethod
    def of(cls, cells: Sequence[Cell], results: Mapping[str, Result]) -> Predictor:
        """Make one from the timing cells that have a result."""
        return cls({(c.contender.name, c.stream.batch): results[c.key] for c in cells if c.key in results})

    def __call__(self, cell: Cell) -> float:
        """Predicted seconds of one cell in one process."""
        if cell.kind == "timing":
            return cell.limit_s
        whole = cell.stream.images * len(cell.stream.domains)
        records = min(whole, cell.stream.take or whole)
        return self.build_s(cell) + records * self.record_s(cell)

    def build_s(self, cell: Cell) -> float:
        """Seconds that a fresh adapter takes before its first record."""
        return float(self._timing(cell).get("build_s", 0.0))

    def record_s(self, cell: Cell) -> float:
        """Seconds of one record: its share of a round, and an inference for every lag."""
        found = self._timing(cell)
        if "refused" in found:
            return REFUSED_S / cell.stream.images
        if "step_s" not in found:
            return UNKNOWN_S
        # a single image costs a look at the whole window
        batch = 1 if cell.stream.protocol == "single" else self._batch(cell)
        step_s = found["forward_s"] * PEER_FORWARDS if cell.kind == "peer" else found["step_s"]
        return float(step_s + len(cell.lags) * found["forward_s"]) / batch

    def _timing(self, cell: Cell) -> Result:
        return self.timings.get((cell.contender.name, self._batch(cell)), {})

    def _batch(self, cell: Cell) -> int:
        """The batch size itself, or the nearest that was timed."""
        timed = [batch for name, batch in self.timings if name == cell.contender.name]
        return min(timed, key=lambda batch: abs(batch - cell.stream.batch), default=cell.stream.batch)
