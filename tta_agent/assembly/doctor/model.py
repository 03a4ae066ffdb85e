"""Checks of the deployed model and of its server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from tta_agent.assembly.doctor.finding import CheckFinding
from tta_agent.core.errors import CannotAdapt
from tta_agent.models.batchnorm import census
from tta_agent.models.loader import DeployedModel
from tta_agent.serving.drivers import open_driver
from tta_agent.settings.schema import Settings


def model(s: Settings, source: Callable[[], DeployedModel | None]) -> Iterator[CheckFinding]:
    """Whether the model loads, and the method has layers to adapt."""
    from tta_agent.assembly.copy import describe, make_adaptation
    from tta_agent.telemetry.facade import Telemetry

    found = source()
    if found is None:
        return
    yield CheckFinding("model", "model", "ok", describe(s, found).partition("\n")[0])
    sites = ", ".join(f"{count} {name}" for name, count in census(found.module).items() if count)
    try:
        make_adaptation(s, found, Telemetry.off())
    except CannotAdapt as error:
        yield CheckFinding(
            "model", "normalisation", "failure", str(error).replace("\n", " "),
            "`tta-agent model check` tells which methods fit; TTA_ADAPT__METHOD=frozen only watches",
        )  # fmt: skip
        return
    yield CheckFinding(
        "model", "normalisation", "ok", f"{s.adapt.method} adapts it: {sites or 'no layer counted'}"
    )


def server(s: Settings) -> Iterator[CheckFinding]:
    """Whether the driver can swap versions in the server."""
    if s.mode not in ("approve", "auto"):
        yield CheckFinding("server", s.swap.driver, "skipped", f"mode {s.mode} swaps nothing")
        return
    with contextlib.closing(open_driver(s)) as driver:
        driver.probe()
    yield CheckFinding("server", s.swap.driver, "ok", f"{s.swap.url} can be swapped")
