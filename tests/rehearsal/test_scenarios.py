import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from tta_agent.cli.main import app
from tta_agent.core.errors import ConfigError
from tta_agent.evaluation.rehearsed.moved import moved
from tta_agent.rehearsal.arrivals import gain, order
from tta_agent.rehearsal.image_pool import pooled, split
from tta_agent.rehearsal.scenarios import STRUCTURES, bank
from tta_agent.rehearsal.shifts import EXTRA, mixed, shifted, strangers

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16), dtype=np.uint8)


def test_every_beginning_of_the_bank_is_spread_evenly():
    groups = bank(failures=("bias", "swap", "double"))
    assert len({group.key for group in groups}) == len(groups)
    first = groups[: len(groups) // 6]
    assert {group.severity for group in first} == {1, 3, 5}
    assert {s for group in first for s in group.structures} == set(STRUCTURES)
    assert sum(group.family == "clean" for group in first) >= 2
    assert len({group.family for group in first}) > 20


def test_groups_that_were_played_by_earlier_releases_are_known():
    first, second, *_ = bank(failures=("bias", "swap", "double"))
    assert [first.key, second.key] == ["7e41d730b6d9adfe", "e1cca324d60688ec"]


@pytest.mark.parametrize("option", ["--scenarios", "--worlds"])
def test_the_number_of_scenarios_has_its_old_name_too(option):
    done = CliRunner().invoke(app, ["rehearse", option, "5"], env={"COLUMNS": "200"})
    assert done.exit_code == 2 and "greater than or equal to 9" in done.output


@pytest.mark.parametrize("family", [*EXTRA, "gaussian_noise", "clean"])
def test_shifts_are_deterministic_and_keep_the_shape(family):
    once, again = (shifted(PIXELS, family, 3, 1) for _ in range(2))
    assert once.shape == PIXELS.shape and once.dtype == np.uint8
    assert np.array_equal(once, again)
    assert np.array_equal(once, PIXELS) == (family == "clean")


def test_mixtures_and_strangers_are_images_of_the_same_kind():
    assert mixed(PIXELS, ("clean", "fog"), 3, 0).shape == PIXELS.shape
    other = strangers(PIXELS, 0)
    assert other.shape == PIXELS.shape and other.dtype == np.uint8
    assert not any(np.array_equal(a, b) for a, b in zip(PIXELS, other, strict=True))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_orders_deal_out_what_they_promise(structure):
    random = np.random.default_rng(0)
    learn, held = np.repeat(np.arange(10), 30), np.repeat(np.arange(10), 60)
    found = order(structure, learn, held, 10, 200, random)
    assert len(found.learn) == 300 and len(found.window) == 200
    assert found.share.sum() == pytest.approx(1)
    strange = (found.window >= len(held)).mean()
    assert strange == (pytest.approx(0.3) if structure == "unknown" else 0)
    assert (found.share.max() > 3 * found.share.min()) == (structure == "label_shift")


def test_gain_is_meant_for_the_class_mix_of_the_scenario():
    labels = np.array([0, 0, 1, 1])
    serving, candidate = np.array([0, 0, 0, 0]), np.array([1, 1, 1, 1])
    assert gain(serving, candidate, labels, np.array([0.5, 0.5])) == 0
    assert gain(serving, candidate, labels, np.array([0.9, 0.1])) == pytest.approx(-0.8)


def test_no_image_of_the_anchor_arrives_in_a_scenario():
    random = np.random.default_rng(1)
    inputs = random.random((200, 3, 8, 8)).astype(np.float32)
    pool = pooled(inputs, np.arange(200) % 10, (0.0,), (1.0,))
    rest, reference = split(pool, 30)
    mine = {image.tobytes() for image in np.rint(reference.views["clean"] * 255).astype(np.uint8)}
    assert len(reference.labels) == 30 and len(rest.labels) == 170
    assert not mine & {image.tobytes() for image in rest.pixels}
    assert np.bincount(reference.labels).tolist() == [3] * 10


def test_what_cannot_be_rehearsed_says_why():
    with pytest.raises(ConfigError, match="labels"):
        pooled(np.zeros((200, 3, 8, 8), np.float32), None, (0.0,), (1.0,))
    with pytest.raises(ConfigError, match="square"):
        pooled(np.zeros((200, 12), np.float32), np.zeros(200, int), (0.0,), (1.0,))


def test_distances_are_zero_until_something_moves():
    source = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    other.load_state_dict(source.state_dict())
    assert set(moved(source, other).values()) == {0.0}
    with torch.no_grad():
        other[1].running_mean += 2
    assert moved(source, other)["means"] == pytest.approx(4, rel=1e-3)
    assert moved(source, other)["weights"] == 0
