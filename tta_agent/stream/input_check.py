"""Check of the first logged inputs: the served answers are asked again of the source with each preparation at hand.

Learning on inputs that are prepared otherwise than the model's would be wrong without a sign of it. So the first
records wait until the preparation is known with which the source answers as was served; differences are measured as
in `adaptation.served_check`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tta_agent.adaptation.served_check import (
    ALIKE,
    APART,
    ENOUGH,
    LEAST,
    MOST,
    NOTED,
    PATIENCE,
    SILENT,
    distance,
)
from tta_agent.core import task
from tta_agent.core.atomic_files import write_atomic
from tta_agent.core.errors import ConfigError
from tta_agent.core.positions import first_offsets
from tta_agent.core.types import Array, Positions, Record, softmax
from tta_agent.models import preprocessing
from tta_agent.models.outputs import Kind, ModelOutput, are_probabilities
from tta_agent.models.preprocessing import Preparation
from tta_agent.stream.codecs.inputs import pixels_of
from tta_agent.stream.input_reading import InputReading

WAIT_S = 5.0  # for enough answers; later fewer must do
HELD_BYTES = 32 << 20
LEAST_P = 1e-30  # smaller probabilities count as this one
NAMED = 0.8  # share of equal classes, where only classes were served
log = logging.getLogger(__name__)


class InputCheck:
    """Reading of inputs and answers, decided on the first records.

    Args:
        ask: logits [N, C] of the deployed model for inputs [N, ...].
        output: the model's.
        mean, std: of the model's preprocessing.
        way: the preparation that the settings name, or `auto`.
        compare: False takes the first records as they are assumed to be, by their datatype.
        unversioned: whether answers without a version are the deployed model's, as version 0 serves.
        file: keeps the reading for the next start, when other versions may serve.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        ask: Callable[[Array], Array],
        output: ModelOutput,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        way: str = "auto",
        compare: bool = True,
        unversioned: bool = True,
        file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask, self._output, self._mean, self._std = ask, output, mean, std
        at_hand = preprocessing.ways(mean, std)
        self._ways = at_hand if way == "auto" else {way: Preparation(way, mean, std)}  # type: ignore[arg-type]
        self._versions = (0, None) if unversioned else (0,)
        self._compare, self._file, self._clock = compare, file, clock
        self._held: list[Record] = []
        self._since_s = 0.0
        self._warned = False
        self.reading: InputReading | None = None

    def take(self, records: Iterable[Record]) -> list[Record]:
        """Records as the agent learns from them; none while they wait for the decision.

        Raises:
            ConfigError: the served answers are the model's with no preparation at hand.
        """
        if self.reading is None:
            new = list(records)
            if new and not self._held:
                self._since_s = self._clock()
            self._held += new
            self.reading = self._decided() if self._held else None
            if self.reading is None:
                return []
            records, self._held = self._held, []
        return [self.reading(record) for record in records]

    def decide(self, records: Sequence[Record]) -> None:
        """Decide on these records alone, which carry answers of the source; see `take`."""
        self.reading = self._compared(records[:MOST], must=True)

    @property
    def verified(self) -> bool:
        """Whether served answers have borne out the reading."""
        return self.reading is not None and self.reading.verified

    def oldest(self) -> Positions:
        """Offset of the first record of each partition that waits."""
        return first_offsets(self._held)

    def _decided(self) -> InputReading | None:
        if not self._compare:
            return self._assumed()
        answered = [record for record in self._held if self.is_comparable(record)]
        late = self._clock() - self._since_s >= WAIT_S
        many = len(self._held) >= PATIENCE or sum(record.nbytes for record in self._held) > HELD_BYTES
        if len(answered) >= ENOUGH or (answered and (late or many)):
            return self._compared(answered[:MOST], must=len(answered) >= ENOUGH or many)
        if many or late or (not answered and len(self._held) >= SILENT):
            return self._assumed()
        return None

    def is_comparable(self, record: Record) -> bool:
        """Whether a record carries an answer of the source."""
        known = record.served is not None or record.named is not None
        return (
            known
            and record.version in self._versions
            and not (record.version is None and record.version_name)
        )

    def _assumed(self) -> InputReading:
        """Without an answer of the source to compare with: as before, else pixels as pixels, others as they are."""
        remembered = self._remembered()
        pixels = all(pixels_of(record.form) for record in self._held)
        likely = "div255_mean_std" if "div255_mean_std" in self._ways else "div255"
        default = likely if pixels else "as_is"
        name = remembered or (default if default in self._ways else next(iter(self._ways)))
        log.warning(
            "inputs are taken as %s (%s): of the first %d records none carries an answer of the source to compare "
            "with (TTA_STREAM__INPUTS)",
            name,
            "as before" if remembered else "pixels" if pixels else "not pixels",
            len(self._held),
        )
        return InputReading(self._preparation(name), self._output, False)

    def _preparation(self, name: str) -> Preparation:
        return self._ways.get(name) or Preparation(name, self._mean, self._std)  # type: ignore[arg-type]

    def _compared(self, records: Sequence[Record], must: bool) -> InputReading | None:
        kind = self._kind(records)
        found = {name: self._apart(records, prepare, kind) for name, prepare in self._ways.items()}
        name = min(found, key=lambda name: found[name][0])
        if not agrees(*found[name]):
            if must:
                raise ConfigError(self._mismatch(records, kind, found))
            self._tell_waiting(len(records))
            return None
        apart, alike = found[name]
        log.log(
            logging.WARNING if apart > NOTED else logging.INFO,
            "served answers are the model's, with inputs as %s: over %d records the median difference is %.2g of the "
            "logits' size, and %.0f %% name the same class",
            name, len(records), apart, 100 * alike,
        )  # fmt: skip
        self._remember(name)
        return InputReading(self._ways[name], replace(self._output, kind=kind), True)

    def _tell_waiting(self, count: int) -> None:
        if not self._warned:
            log.warning(
                "%d served answers are not the model's; nothing is learnt until there are %d", count, ENOUGH
            )
        self._warned = True

    def _kind(self, records: Sequence[Record]) -> Kind:
        """Kind of the answers: logits and probabilities of exclusive classes are told apart by their values."""
        served = [record.served for record in records if record.served is not None]
        if self._output.kind not in ("logits", "probabilities") or not served:
            return self._output.kind
        return "probabilities" if are_probabilities(np.stack(served).reshape(len(served), -1)) else "logits"

    def _apart(self, records: Sequence[Record], prepare: Preparation, kind: Kind) -> tuple[float, float]:
        """Median difference, and share of equal classes; only the latter counts where only classes were served."""
        own = self._ask(np.stack([prepare(record.x) for record in records]).astype(np.float32))
        rows = [i for i, record in enumerate(records) if record.served is not None]
        if not rows:
            named = np.array([record.named for record in records])
            alike = float((task.decide(own) == named).mean())
            return (0.0 if alike >= NAMED else 1 - alike), alike
        served = np.stack([records[i].served for i in rows])  # type: ignore[misc]
        least = LEAST.get(kind, -np.inf)
        logits = replace(self._output, kind=kind).logits(served)
        own = own[rows]
        if kind == "probabilities" and self._output.kind == "logits":
            own = np.log(np.maximum(softmax(own), LEAST_P))
        return distance(np.maximum(logits, least), np.maximum(own, least))

    def _mismatch(
        self, records: Sequence[Record], kind: Kind, found: Mapping[str, tuple[float, float]]
    ) -> str:
        common = preprocessing.others(
            self._mean, self._std, records[0].x.shape[0] if records[0].x.ndim else 0
        )
        more = {name: self._apart(records, prepare, kind) for name, prepare in common.items()}
        fits = [name for name, measured in more.items() if agrees(*measured)]
        told = ", ".join(f"{name} {apart:.2g} ({alike:.0%})" for name, (apart, alike) in found.items())
        advice = (
            f"with {fits[0].partition(' with ')[2]} they are"
            if fits
            else "check the weights (those that serve?), TTA_MODEL__MEAN and TTA_MODEL__STD, TTA_STREAM__INPUTS and "
            "TTA_MODEL__OUTPUT"
        )
        return (
            f"what is served is not what the model answers, over {len(records)} records, however the logged inputs "
            f"are prepared (difference of the logits' size, equal classes): {told};\n{advice}\n"
            "TTA_MODEL__CHECK_SERVED=false starts without this check"
        )

    def _remembered(self) -> str | None:
        try:
            said = json.loads(self._file.read_text()) if self._file else {}
        except (OSError, ValueError):
            return None
        name = said.get("inputs") if isinstance(said, dict) else None
        return name if name in self._ways else None

    def _remember(self, name: str) -> None:
        if self._file is not None:
            write_atomic(self._file, json.dumps({"inputs": name}).encode())


def agrees(apart: float, alike: float) -> bool:
    """Whether answers are the model's."""
    return apart <= APART and alike >= ALIKE
