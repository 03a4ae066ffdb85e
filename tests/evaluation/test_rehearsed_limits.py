"""Limits of plausibility gates by what useful candidates of a rehearsal looked like."""

from __future__ import annotations

import numpy as np
import pytest

from tta_agent.assembly import rollout
from tta_agent.core import plugins
from tta_agent.core.evidence import AnchorResult, Evidence
from tta_agent.evaluation.decision import is_plausibility
from tta_agent.evaluation.rehearsed.limits import FEWEST, limits, measured
from tta_agent.evaluation.rehearsed.table import RehearsedRow
from tta_agent.settings import env

NAMES = (
    "disagreement",
    "collapse",
    "histogram",
    "concentration",
    "flips",
    "calibration",
    "rank",
    "integrity",
)


@pytest.fixture(scope="module")
def gates():
    return {name: plugins.make("gates", name, {}) for name in NAMES}


def row(looks, gain=0.1, kind="adapted"):
    return RehearsedRow("g", ("fog",), "fog", 3, "iid", kind, gain, 0.5, {}, looks=looks)


def seen(seed=0, n=400):
    random = np.random.default_rng(seed)
    serving = random.normal(size=(n, 5)) * 3
    candidate = 0.6 * serving + random.normal(size=(n, 5))
    labels = random.integers(0, 5, n)
    anchor = AnchorResult(labels, {"clean": serving}, {"clean": candidate})
    return Evidence(serving, candidate, 0, 0, 0, 0.01, anchor=anchor)


def test_each_plausibility_gate_tells_what_its_options_bound(gates):
    found = measured(gates, seen())
    for name, gate in gates.items():
        mine = {place.split(".")[1] for place in found if place.startswith(f"{name}.")}
        assert mine == set(getattr(gate, "bounds", {}))
        assert bool(mine) is is_plausibility(gate)
        if mine:  # what is measured is what the gate judges by
            value = gate.judge(seen()).value
            assert any(np.isclose(value, found[f"{name}.{option}"]) for option in mine) or name == "histogram"


def test_limits_hold_all_useful_candidates_and_a_tenth_of_their_range_beyond(gates):
    rows = [row({"calibration.low": s, "calibration.high": s}) for s in np.linspace(0.5, 1.0, FEWEST)]
    others = [
        row({"calibration.low": 0.1, "calibration.high": 9.0}, gain=0.0),  # of no use
        row({"calibration.low": 0.1, "calibration.high": 9.0}, kind="double"),  # injected
    ]
    assert limits([*rows, *others], gates) == {
        "calibration": {"low": pytest.approx(0.45), "high": pytest.approx(1.05)}
    }
    assert limits(rows[1:], gates) == {}  # too few to say
    assert limits([row({}) for _ in rows], gates) == {}  # rehearsed by an older release


def test_gates_have_their_limits_from_the_rehearsal_where_options_leave_them_open():
    class Known:
        def limits(self, gates):
            return {"calibration": {"low": 0.45, "high": 1.05}, "rank": {"ratio": 0.6}}

    settings = env.load(gate={"options": {"calibration": {"high": 1.2}}})
    gates = rollout._gates(settings, Known())
    assert (gates["calibration"].low, gates["calibration"].high, gates["rank"].ratio) == (0.45, 1.2, 0.6)
    alone = rollout._gates(settings, None)
    assert (alone["calibration"].low, alone["calibration"].high, alone["rank"].ratio) == (0.7, 1.2, 0.8)
