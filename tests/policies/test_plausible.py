"""The usual range of a stream: wild inputs are out of it, another domain is in it, or soon will be."""

import numpy as np
import pytest
import torch

from tta_agent import corruptions
from tta_agent.core.protocols import InputSelector, Stateful
from tta_agent.core.types import SourceInfo, View
from tta_agent.samples import dataset
from tta_policies.select.plausible import Plausible, statistics

ATTACKS = {
    "far": lambda x, random: torch.full_like(x, 1e4),
    "far below": lambda x, random: torch.full_like(x, -1e4),
    "noise": lambda x, random: torch.randn(x.shape, generator=random) * 1e4,
    "a hundred times": lambda x, random: 100 * x + 1,
    "near": lambda x, random: torch.randn(x.shape, generator=random) * 3,
    "pixel of 1e20": lambda x, random: pixel(x, 1e20),
    "pixel of 3e38": lambda x, random: pixel(x, -3e38),
    "pixel of NaN": lambda x, random: pixel(x, float("nan")),
    "pixel of infinity": lambda x, random: pixel(x, float("inf")),
    "pixel of 30": lambda x, random: pixel(x, 30.0),
}
CHANGES = {
    "contrast": lambda x: 0.05 * x + 0.4,
    "five times": lambda x: 5 * x,
    "a fifth": lambda x: x / 5,
    "brighter": lambda x: x + 3,
    "inverted": lambda x: 1 - x,
    "negative": lambda x: -x,
    "bytes": lambda x: 255 * x,
    "centred": lambda x: (x - 0.5) / 0.1,
}
FOLLOWED = 256  # records within which a new range must have become the usual one


@pytest.fixture(scope="module")
def images():
    some = dataset.read_npz(dataset.ASSETS / dataset.SHIPPED)
    return torch.from_numpy(some.inputs[:2048]).float() / 255


def pixel(x, value):
    x = x.clone()
    x[:, 0, 3, 5] = value
    return x


def view(x):
    return View(x, x.new_empty(len(x), 0), None, None, None)


def kept(selector, x, batch=64):
    """Which records the selector keeps, batch by batch, [B]."""
    found = []
    for part in x.split(batch):
        chosen = selector.select(view(part))
        assert chosen.dropped == {"implausible": len(part) - len(chosen.index)}
        assert torch.equal(chosen.weight, torch.ones(len(chosen.index)))
        found.append(torch.zeros(len(part), dtype=torch.bool).index_fill_(0, chosen.index, True))
    return torch.cat(found)


def test_the_five_numbers_are_those_of_numpy():
    x = torch.randn(5, 2, 6, 7, generator=torch.Generator().manual_seed(1))
    flat = x.numpy().astype(np.float64).reshape(5, -1)
    rough = np.abs(np.diff(x.numpy(), axis=3)).reshape(5, -1).mean(1)
    expected = np.stack([flat.min(1), flat.max(1), flat.mean(1), flat.std(1), rough], 1)
    assert np.allclose(statistics(x), expected, atol=1e-6)


def test_large_inputs_miss_no_single_value_and_keep_their_deviation():
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    x[1, 2, 100, 7] = 50.0
    _, high, mean, deviation, rough = statistics(x).T
    assert high[1] == 50.0
    assert np.allclose([mean[0], deviation[0], rough[0]], [0, 1, 2 / np.sqrt(np.pi)], atol=0.02)


@pytest.mark.parametrize("batch", [64, 1])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.3])
@pytest.mark.parametrize("attack", ATTACKS)
def test_what_lies_far_outside_is_left_out_and_nothing_else(images, attack, share, batch):
    images = images[: 512 if batch == 1 else 2048]
    random = torch.Generator().manual_seed(3)
    bad = (torch.arange(len(images) + 1) * share).floor().diff() > 0  # evenly: by chance a run may hold half
    x = images.clone()
    x[bad] = ATTACKS[attack](images[bad], random)
    found = kept(Plausible(), x, batch)
    assert not (found & bad).any()
    assert (found | bad).all()


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_range_is_followed(images, change):
    there = CHANGES[change](images[512:1536])
    found = kept(Plausible(), torch.cat([images[:512], there, images[1536:]]))
    assert found[:512].all()
    assert found[512 + FOLLOWED : 1536].all()
    assert found[1536 + FOLLOWED :].all()


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("name", corruptions.NAMES)
def test_no_corruption_is_left_out_even_at_its_beginning(images, name, told):
    mean, std = (0.286,), (0.353,)
    first = corruptions.corrupt(images[:512], name, 5, seed=1, constants="imagenet")
    x = (torch.cat([images[512:1024], first, images[1024:1536]]) - mean[0]) / std[0]
    found = kept(Plausible(SourceInfo(mean, std) if told else None), x)
    assert found.all() if told else found[:1024].all()  # a stream that was dim for long has a narrow range


def test_pixels_are_known_where_the_stream_began_in_the_dark(images):
    dim = 0.05 * images[:512] + 0.4
    assert kept(Plausible(), torch.cat([dim, images[512:1024]])).all()


def test_inputs_that_are_no_pixels_have_a_range_of_their_own():
    random = torch.Generator().manual_seed(1)
    sound = torch.randn(1024, 1, 400, generator=random) * 0.01
    bad = torch.rand(1024, generator=random) < 0.2
    sound[bad] = torch.randn(int(bad.sum()), 1, 400, generator=random)  # within 0 .. 1 and a little more
    found = kept(Plausible(), sound)
    assert torch.equal(found, ~bad)


def test_a_heavy_tail_is_not_left_out():
    random = torch.Generator().manual_seed(1)
    x = torch.randn(2048, 20, generator=random).exp()  # log-normal columns
    assert kept(Plausible(), x).float().mean() > 0.98


def test_source_data_is_always_plausible(images):
    far = 40 * images[:1024] - 300
    x = torch.cat([far, images[1024:1536]])
    assert not kept(Plausible(), x)[1024:1088].any()
    known = Plausible(SourceInfo(inputs=images[:256]))
    assert kept(known, x)[1024:].all()


def test_the_very_first_records_need_a_range_that_is_known(images):
    wild = torch.cat([images[:9] + 1e4, images[:64]])
    assert kept(Plausible(), wild, batch=1).tolist() == 9 * [False] + 64 * [True]
    other = 255 * images[:64]  # no pixels in 0 .. 1, of which only the stream can tell
    assert kept(Plausible(), other, batch=1).tolist() == 31 * [False] + 33 * [True]
    assert kept(Plausible(), other).all()


def test_a_look_remembers_nothing_and_agrees(images):
    selector = Plausible()
    x = images[:64].clone()
    x[::9] *= 1e4
    x[::9] += 1e3
    first = selector.look(x)  # before the first batch: by these records themselves
    assert selector.state_dict()["rows"].shape == (0, 5)
    assert torch.equal(first, kept(selector, x))
    before = selector.state_dict()["rows"].clone()
    assert torch.equal(selector.look(x), first)
    assert torch.equal(selector.state_dict()["rows"], before)


def test_its_memory_is_bounded_survives_and_is_cleared(images):
    one, other = Plausible(records=64), Plausible(records=64)
    assert isinstance(one, Stateful)
    assert isinstance(one, InputSelector)
    kept(one, images[:256])
    assert one.state_dict()["rows"].shape == (64, 5)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.look(images[:8] * 20), one.look(images[:8] * 20))
    assert torch.equal(kept(one, images[256:512] * 9), kept(other, images[256:512] * 9))
    one.reset()
    assert one.state_dict()["rows"].shape == Plausible().state_dict()["rows"].shape


def test_what_is_not_finite_does_not_enter_the_memory(images):
    selector = Plausible()
    bad = [pixel(images[64:128], float("nan")), pixel(images[128:192], float("inf"))]
    kept(selector, torch.cat([images[:64], *bad]))
    rows = selector.state_dict()["rows"]
    assert len(rows) == 64
    assert rows.isfinite().all()


@pytest.mark.parametrize(
    ("option", "message"),
    [({"records": 32}, "at least 64"), ({"reach": 0}, "reach"), ({"spread": -1}, "spread")],
)
def test_bad_options_are_named(option, message):
    with pytest.raises(ValueError, match=message):
        Plausible(**option)
