"""The check of the first inputs: which preparation is taken, what waits for it, and what is said."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from tests.stream.test_response_join import Clock
from tests.stream.test_variants import MEAN, PIXELS, STD, X, model
from tta_agent.adaptation.served_check import ENOUGH, PATIENCE, SILENT
from tta_agent.core.errors import ConfigError
from tta_agent.core.types import FOREIGN, Array, RawRecord, Record
from tta_agent.models.outputs import LOGITS, ModelOutput
from tta_agent.stream.codecs import oip
from tta_agent.stream.codecs.auto import AutoCodec
from tta_agent.stream.codecs.oip_json import OipJson
from tta_agent.stream.decoder import Decoder
from tta_agent.stream.input_check import WAIT_S, InputCheck

Y = model(X)
P = np.exp(Y) / np.exp(Y).sum(1, keepdims=True)


def record(i: int, x: Array, served: Array | None, version: int | None = 0, form: str = "FP32") -> Record:
    place = ("", None, "t", 0, i)
    row = None if served is None else served[i % 8].astype(np.float32)
    return Record(f"{i}", 0.0, x[i % 8].astype(np.float32), row, version, *place, form=form)


def opened(clock: Clock | None = None, **options: object) -> InputCheck:
    return InputCheck(model, LOGITS, MEAN, STD, clock=clock or Clock(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("x", "way"),
    [
        (X, "as_is"),
        (PIXELS, "div255_mean_std"),
        (PIXELS / 255, "mean_std"),
        (X * 255, "div255"),
    ],
)
@pytest.mark.parametrize("served", [Y, P], ids=["logits", "probabilities"])
def test_the_preparation_that_agrees_is_taken(x: Array, way: str, served: Array) -> None:
    check = opened()
    assert check.take([record(i, x, served) for i in range(7)]) == []
    found = check.take([record(7, x, served)])
    assert check.verified and check.reading is not None and check.reading.prepare.way == way
    assert [one.id for one in found] == [str(i) for i in range(8)]
    np.testing.assert_allclose(np.stack([one.x for one in found]), X, atol=1e-4)
    logits = np.stack([one.served for one in found])  # type: ignore[misc]
    np.testing.assert_allclose(
        logits - logits.mean(1, keepdims=True), Y - Y.mean(1, keepdims=True), atol=1e-4
    )
    (later,) = check.take([record(9, x, served)])
    np.testing.assert_allclose(later.x, X[1], atol=1e-4)


def test_none_that_agrees_is_an_error_with_every_distance_and_the_constants_that_would_do() -> None:
    check = InputCheck(model, LOGITS, (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(ConfigError) as caught:
        check.take([record(i, PIXELS, -Y) for i in range(ENOUGH)])
    told = str(caught.value)
    assert told.count("\n") == 2 and "as_is 1" in told and "div255 " in told and "TTA_STREAM__INPUTS" in told
    imagenet = InputCheck(lambda x: model((x * 0.5 + 0.5 - 0.5) / 0.5), LOGITS, (0.0,) * 3, (1.0,) * 3)
    z = (PIXELS / np.float32(255) - 0.5) / 0.5
    with pytest.raises(ConfigError, match=r"with TTA_MODEL__MEAN=\[0.5\] TTA_MODEL__STD=\[0.5\] they are"):
        imagenet.take([record(i, PIXELS, model(z)) for i in range(ENOUGH)])


def test_a_named_preparation_is_checked_alone() -> None:
    with pytest.raises(ConfigError, match="mean_std"):
        opened(way="mean_std").take([record(i, X, Y) for i in range(ENOUGH)])
    assert opened(way="as_is").take([record(i, X, Y) for i in range(ENOUGH)])


def test_without_an_answer_of_the_source_pixels_are_pixels_and_it_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    check = opened(unversioned=False)
    items = [record(i, PIXELS, Y, version=(3, None, FOREIGN)[i % 3], form="UINT8") for i in range(SILENT)]
    with caplog.at_level(logging.WARNING):
        found = check.take(items)
    assert len(found) == SILENT and not check.verified
    np.testing.assert_allclose(found[0].x, X[0], atol=1e-4)
    assert "inputs are taken as div255_mean_std (pixels): of the first 32 records none" in caplog.text
    plain = opened()
    (kept,) = [plain.take([record(i, X, None) for i in range(SILENT)])[0]]
    np.testing.assert_array_equal(kept.x, X[0])


def test_few_answers_must_do_after_a_while_and_wrong_ones_never(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    check = opened(clock)
    assert check.take([record(0, PIXELS, Y)]) == []
    assert check.oldest() == {("t", 0): 0}
    clock.now_s = WAIT_S
    assert len(check.take([])) == 1 and check.oldest() == {}
    wrong = opened(clock := Clock())
    wrong.take([record(i, X, -Y) for i in range(3)])
    clock.now_s = 100 * WAIT_S
    assert wrong.take([]) == [] and "nothing is learnt until there are 8" in caplog.text
    with pytest.raises(ConfigError):
        wrong.take([record(i, X, -Y if i % 100 else None) for i in range(PATIENCE)])


def test_the_reading_outlives_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "inputs.json"
    opened(file=file).take([record(i, PIXELS / 255, Y) for i in range(8)])
    again = opened(file=file)
    found = again.take([record(i, PIXELS / 255, Y, version=4) for i in range(SILENT)])
    np.testing.assert_allclose(found[0].x, X[0], atol=1e-4)
    file.write_text("{")
    broken = opened(file=file)
    np.testing.assert_array_equal(
        broken.take([record(i, X, None) for i in range(SILENT)])[0].x, X[0].astype(np.float32)
    )


def test_without_the_check_nothing_waits() -> None:
    check = InputCheck(model, LOGITS, MEAN, STD, compare=False)
    (found,) = check.take([record(0, PIXELS, -Y, form="UINT8")])
    np.testing.assert_allclose(found.x, X[0], atol=1e-4)


def test_one_line_says_what_was_understood(caplog: pytest.LogCaptureFixture) -> None:
    codec = AutoCodec({"oip_json": OipJson()})
    decoder = Decoder(codec, PIXELS.shape[1:], 5, output=ModelOutput(), check=opened())
    body, _ = oip.encode(oip.Body({"x": PIXELS}, {"y": Y}, "a", "m", "0"), binary=False)
    with caplog.at_level(logging.INFO):
        for i in range(3):
            decoder.read([RawRecord("t", 0, i, 1000, None, body)])
    (line,) = [one.message for one in caplog.records if one.message.startswith("the stream is")]
    assert line == (
        "the stream is read as oip_json: inputs UINT8 [3, 4, 4] taken as div255_mean_std; "
        "answers: logits or scores [5]; versions 0"
    )
