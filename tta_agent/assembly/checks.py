"""Checks of the stream against the deployed model, by the settings."""

from __future__ import annotations

import functools

from tta_agent.adaptation.served_check import ServedCheck
from tta_agent.models import loader
from tta_agent.models.onnx_export import answers
from tta_agent.serving.deployment import ServedModel
from tta_agent.settings.schema import Settings
from tta_agent.stream.input_check import InputCheck


def served_check(
    settings: Settings, source: loader.DeployedModel, served: ServedModel, inputs: InputCheck | None
) -> ServedCheck | None:
    """Check of served answers before learning; None where the settings want none.

    Args:
        inputs: check of the same answers, and of the inputs, that comes before.
    """
    if not settings.model.check_served:
        return None
    ask = functools.partial(answers, source.module)
    unversioned = served.version.number == 0
    if inputs is None:
        return ServedCheck(ask, source.output, unversioned=unversioned)
    return ServedCheck(ask, source.output, unversioned=unversioned, verified=lambda: inputs.verified)


def input_check(settings: Settings, source: loader.DeployedModel, served: ServedModel) -> InputCheck:
    """Check of the first inputs."""
    return InputCheck(
        functools.partial(answers, source.module),
        source.output,
        source.mean,
        source.std,
        way=settings.stream.inputs,
        compare=settings.model.check_served,
        unversioned=served.version.number == 0,
        file=settings.store.path / "inputs.json",
    )
