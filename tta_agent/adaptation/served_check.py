"""Comparison of the first served answers in the stream with the deployed model's own.

Adapting other weights than those that serve, or inputs that are preprocessed otherwise, would be wrong without a
sign of it. Per record, with logits centred over the classes,

    d = |served - own| / max(|served|, |own|)

Half precision leaves d at 1e-3, bfloat16 at 1e-2, eight bits at 3e-2; other weights are at 0.3 to 1.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from tta_agent.core import task
from tta_agent.core.errors import ConfigError
from tta_agent.core.types import Array, Record
from tta_agent.models.outputs import ModelOutput, are_probabilities

ENOUGH, MOST = 8, 32  # records that are compared
SILENT, PATIENCE = 32, 256  # records until it is given up: without any answer, and with fewer than enough
APART, ALIKE = 0.1, 0.7  # a larger median of d, or a smaller share of equal classes, is a mismatch
NOTED = 0.03  # a larger median is a warning
FLAT = 1e-2  # logits closer together than this are no answer to compare with
LEAST: Mapping[str, float] = {
    "probabilities": -16.0,
    "probability": -7.0,
    "sigmoids": -7.0,
}  # log p below it is rounding of 16 bits
log = logging.getLogger(__name__)


class ServedCheck:
    """Check of the deployed model against the stream, before anything is learnt.

    Args:
        ask: logits [N, C] of the deployed model for inputs [N, ...].
        output: the model's.
        unversioned: whether answers without a version are the deployed model's, as version 0 serves.
        verified: whether somebody else has compared them already.
    """

    def __init__(
        self,
        ask: Callable[[Array], Array],
        output: ModelOutput,
        *,
        unversioned: bool,
        verified: Callable[[], bool] = lambda: False,
    ) -> None:
        self._ask, self._output, self._verified = ask, output, verified
        self._versions = (0, None) if unversioned else (0,)
        self._answered: list[Record] = []
        self._seen = 0
        self._passed = False

    def passed(self, records: Iterable[Record]) -> bool:
        """Take the records of a poll; whether learning may begin.

        Raises:
            ConfigError: the served answers are not the model's.
        """
        if self._passed or self._verified():
            return True
        for record in records:
            self._seen += 1
            if record.served is not None and record.version in self._versions:
                self._answered.append(record)
        found = len(self._answered)
        if found >= ENOUGH:
            self._compare(self._answered[:MOST])
        elif self._seen < (PATIENCE if found else SILENT):
            return False
        else:
            log.warning(
                "the model could not be compared with what is served: %d of the first %d records carry an answer of "
                "version 0",
                found,
                self._seen,
            )
        self._passed, self._answered = True, []
        return True

    def _compare(self, records: list[Record]) -> None:
        served = np.stack([record.served for record in records if record.served is not None])
        own = self._ask(np.stack([record.x for record in records]))
        apart, alike = distance(*(self._comparable(logits) for logits in (served, own)))
        told = (
            f"over {len(records)} records the median difference is {apart:.2g} of the logits' size, and {alike:.0%} "
            "name the same class"
        )
        if apart > APART or alike < ALIKE:
            raise ConfigError(
                f"what is served is not what the model answers: {told};\n{_reason(self._output, served)}\n"
                "TTA_MODEL__CHECK_SERVED=false starts without this check"
            )
        log.log(
            logging.WARNING if apart > NOTED else logging.INFO, "served answers are the model's: %s", told
        )

    def _comparable(self, logits: Array) -> Array:
        return np.maximum(logits, LEAST.get(self._output.kind, -np.inf))


def distance(served: Array, own: Array) -> tuple[float, float]:
    """Median over the records of d, and the share of records of equal answer; logits [N, C] each.

    Of label sets the share is of the labels.
    """
    centred = (z - z.mean(1, keepdims=True, dtype=np.float64) for z in (served, own))
    a, b = (z.reshape(len(z), -1) for z in centred)
    size = np.maximum(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    d = np.linalg.norm(a - b, axis=1) / np.maximum(size, FLAT)
    return float(np.median(d)), float((task.decide(served) == task.decide(own)).mean())


def _reason(output: ModelOutput, served: Array) -> str:
    """The most likely cause, by the served answers alone."""
    if output.kind == "logits" and are_probabilities(served):
        return "the served answers are probabilities, the model's are logits: end the model as the served one ends"
    if output.kind == "probabilities" and not are_probabilities(np.exp(served)):
        return "the model answers probabilities, the served answers are none: end the model as the served one ends"
    return (
        "check the weights (those that serve?), the preprocessing of the logged inputs, and TTA_MODEL__OUTPUT"
    )
