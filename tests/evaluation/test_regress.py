from dataclasses import replace

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

from tta_agent.evaluation.rehearsed import regress
from tta_agent.evaluation.rehearsed.support import Support
from tta_agent.evaluation.rehearsed.table import EvidenceTable, RehearsedRow


def row(family, better, random, families=()):
    both = {"atc_serving": random.uniform(0.3, 0.9)}
    both["atc_candidate"] = both["atc_serving"] + better + 0.02 * random.standard_normal()
    both["atc_gained"] = both["atc_candidate"] - both["atc_serving"]
    both["disagreement"] = abs(better) + 0.05 * random.random()
    both |= {"anchor_serving": random.uniform(0.8, 0.9), "anchor_candidate": random.uniform(0.7, 0.9)}
    return RehearsedRow("s", families or (family,), family, 3, "iid", "adapted", better, 0.6, both)


@pytest.fixture(scope="module")
def table():
    random = np.random.default_rng(0)
    rows = [row(f"family{k}", random.uniform(-0.2, 0.3), random) for k in range(12) for _ in range(12)]
    return EvidenceTable.of(rows)


def test_the_panel_finds_the_gain_and_is_odd_under_exchange(table):
    ensemble = regress.GainEnsemble(table, 50)
    guess = ensemble.guess(table.evidence)
    assert np.abs(guess.gain - table.gains).mean() < 0.02
    exchange = regress._exchange(table.names)
    assert ensemble.guess(exchange(table.evidence)).gain == pytest.approx(-guess.gain, abs=1e-6)


def test_the_process_is_the_one_that_learns_every_pair_both_ways(table):
    both, gains = regress._both_ways(table, regress._exchange(table.names))
    x = (both - both.mean(0)) / both.std(0)
    smooth = ConstantKernel(regress.SIZE) * RBF(regress.LENGTH)
    straight = ConstantKernel(regress.SLOPE / x.shape[1]) * DotProduct(sigma_0=0.0, sigma_0_bounds="fixed")
    kernel = smooth + straight + WhiteKernel(regress.NOISE**2)
    twice = GaussianProcessRegressor(kernel, optimizer=None).fit(x, gains)
    n = len(table)
    assert regress.GaussianProcess(table).guess(table.evidence) == pytest.approx(
        twice.predict(x[:n]), abs=1e-6
    )


def test_a_family_that_is_left_out_is_left_out_of_mixtures_too():
    random = np.random.default_rng(1)
    rows = [
        row("fog", 0.1, random),
        row("mixture", 0.1, random, ("fog", "snow")),
        row("snow", 0.1, random, ("snow", "fog")),
        row("frost", 0.1, random),
    ]
    assert EvidenceTable.of(rows).without("fog").tolist() == [False, False, False, True]


def test_the_bound_holds_as_often_as_it_says(table):
    guess = regress.left_out(table, 30)
    assert regress.coverage(table, guess, 0.1) == pytest.approx(0.9, abs=0.05)


def test_every_family_counts_the_same_for_the_quantile():
    scores = np.array([0.0] * 90 + [10.0] * 10)
    families = np.array(["many"] * 90 + ["few"] * 10)
    assert regress.quantile(scores, families, 0.4) == 10.0  # half of the mass, though a tenth of the rows
    assert regress.quantile(scores, np.array(["one"] * 100), 0.4) == 0.0


def test_one_wild_family_does_not_widen_what_is_supported(table):
    wild = [replace(r, family="wild", families=("wild",), evidence={n: 50 * v for n, v in r.evidence.items()})
            for r in table.rows[:3]]  # fmt: skip
    assert Support(EvidenceTable.of([*table.rows, *wild])).limit < 0.9
    broken = [
        replace(r, kind="collapse", evidence={n: 50 * v for n, v in r.evidence.items()})
        for r in table.rows[::4]
    ]
    assert Support(EvidenceTable.of([*table.rows, *broken])).limit < 0.9


def test_evidence_far_from_all_that_was_rehearsed_is_named(table):
    support = Support(table)
    assert support.outside(table.evidence[0]) is None
    strange = table.evidence[0].copy()
    strange[table.names.index("atc_candidate")] = 9.0
    assert "atc_candidate" in support.outside(strange)
    strange = table.evidence[0].copy()
    place = table.names.index("atc_candidate")
    strange[place] = table.evidence[table.gains > 0.02, place].min() - 1e-3
    assert "no known class" in support._unsure(strange)
    strange[table.names.index("anchor_candidate")] = (
        0.2  # it has left the anchor, which tells how sure it should be
    )
    assert support._unsure(strange) is None
    strange[0] = np.nan
    assert "not a finite number" in support.outside(strange)
