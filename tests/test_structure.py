"""The structure holds its measure: few modules at the top, small ones, no name for two things, short ways."""

from __future__ import annotations

import pytest

from benchmarks import structure, ways
from tta_agent.settings import env

MODULES = structure.modules()


def test_at_most_three_modules_lie_at_the_top():
    assert len(structure.at_the_top()) <= 3, structure.at_the_top()


@pytest.mark.parametrize("name", MODULES)
def test_modules_stay_small(name):
    assert len(MODULES[name].read_text().splitlines()) <= 250


def test_no_class_name_stands_for_two_things():
    assert not structure.repeated_classes(structure.trees())


def test_the_figures_are_of_this_code():
    found = structure.settings(structure.trees())
    assert sorted(structure.variable(*leaf) for leaf in found) == sorted(env.env_names())
    figures = structure.static()
    assert figures["modules"] == len([name for name, path in MODULES.items() if path.stem != "__init__"])
    assert figures["imports"] >= figures["rooms"] > 20
    assert int(figures["longest function"].split()[0]) > 6 and int(figures["longest module"].split()[0]) > 200


@pytest.mark.slow
def test_a_label_passes_at_most_25_files_to_a_decision():
    way = ways.measure()["label to a promotion"]
    assert 15 <= way["handling"] <= 25, way["handlers"]
    evaluation = [f"tta_agent/evaluation/{name}.py" for name in ("decision", "label_guard", "class_tally")]
    assert way["handlers"][-3:] == evaluation
