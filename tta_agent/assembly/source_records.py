"""Source data from the stream: inputs of the last records, as the model takes them."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from tta_agent.assembly.copy import load_source
from tta_agent.core.errors import ConfigError
from tta_agent.core.types import Array, Record
from tta_agent.models.loader import DeployedModel
from tta_agent.models.onnx_export import answers
from tta_agent.models.preprocessing import Preparation
from tta_agent.settings.schema import Settings
from tta_agent.stream.input_check import InputCheck
from tta_agent.stream.input_reading import InputReading
from tta_agent.stream.peeking import peek


def collect(settings: Settings, count: int) -> tuple[Array, str]:
    """Inputs [N, ...] float32 of the last `count` records that can be read, and how they were prepared.

    Raises:
        ConfigError: no record can be read, the served answers are not the model's, or nothing tells how inputs are
            prepared.
        StreamError: the stream cannot be reached, or keeps no records.
    """
    source = load_source(settings, learns=False)
    seen = peek(settings, count, shape=source.shape, classes=source.classes, output=source.output)
    if not seen.records:
        raise ConfigError(
            f"of {len(seen.rows)} last records of {settings.stream.topic} none can be read as an inference;\n"
            "`tta-agent peek` shows them one by one"
        )
    reading = compared(settings, source, seen.records)[1] or _named(settings, source)
    inputs = np.stack([reading(record).x for record in seen.records[-count:]])
    if not np.isfinite(inputs).all():
        raise ConfigError("some of the inputs hold NaN or infinity: they cannot be source data")
    return inputs, reading.prepare.way


def compared(
    settings: Settings, source: DeployedModel, found: Sequence[Record]
) -> tuple[int, InputReading | None]:
    """Number of the records that carry an answer of the source, and the reading that they bear out; None for none.

    Raises:
        ConfigError: with no preparation at hand the source answers as was served.
    """
    ask = functools.partial(answers, source.module)
    check = InputCheck(ask, source.output, source.mean, source.std, way=settings.stream.inputs)
    comparable = [record for record in found if check.is_comparable(record)]
    if comparable:
        check.decide(comparable)
    return len(comparable), check.reading


def _named(settings: Settings, source: DeployedModel) -> InputReading:
    way = settings.stream.inputs
    if way == "auto":
        raise ConfigError(
            "no record carries an answer of the deployed model, which would tell how inputs are prepared;\n"
            "TTA_STREAM__INPUTS says it (as_is, div255, ...), or log the responses"
        )
    return InputReading(Preparation(way, source.mean, source.std), source.output, False)
