"""Reading of logged inputs and answers: from what stands in the log to what the agent learns from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tta_agent.core.types import Record
from tta_agent.models.outputs import ModelOutput
from tta_agent.models.preprocessing import Preparation


@dataclass(frozen=True, slots=True)
class InputReading:
    """How inputs and answers of the stream are taken.

    Attributes:
        prepare: from a logged input to what the model takes.
        output: kind of the logged answers.
        verified: whether served answers have borne it out.
    """

    prepare: Preparation
    output: ModelOutput
    verified: bool

    def __call__(self, record: Record) -> Record:
        """The record as the agent learns from it: input of the model, answer as logits."""
        if self.prepare.way == "as_is" and self.output.kind == "logits":
            return record
        served = record.served
        logits = None if served is None else self.output.logits(served[None])[0]
        x = np.ascontiguousarray(self.prepare(record.x), dtype=np.float32)
        return replace(record, x=x, served=logits)
