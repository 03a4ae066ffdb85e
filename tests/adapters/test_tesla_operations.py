"""The operations of TeSLA's adversary against Pillow, geometry and finite differences; and the weak views."""

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from tta_adapters import tesla_operations as ops
from tta_adapters.crops import random_crops
from tta_adapters.tesla_policy import PAIRS, Draw, Policy

NAMES = [o.apply.__name__ for o in ops.OPERATIONS]


def photos(n=3, channels=3, side=16, seed=0):
    """Smooth images in whole levels of 255, not touching black or white."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(n, channels, 4, 4, generator=generator) * 0.8 + 0.1
    return (
        torch.nn.functional.interpolate(rough, side, mode="bicubic").clamp(0.05, 0.95) * 255
    ).round() / 255


def by_pillow(x, change):
    """Every channel as a gray image of its own."""
    levels = (x.numpy() * 255).round().astype(np.uint8)
    done = np.stack([[np.asarray(change(Image.fromarray(c))) for c in image] for image in levels])
    return torch.from_numpy(done.astype(np.float32) / 255)


@pytest.mark.parametrize("side", [16, 40])
def test_equalize_is_pillows(side):
    x = photos(side=side)
    assert torch.allclose(ops.equalize(x, torch.ones(3)), by_pillow(x, ImageOps.equalize), atol=1e-6)


def test_equalize_leaves_a_flat_image():
    x = torch.full((1, 1, 16, 16), 100 / 255)
    assert torch.allclose(ops.equalize(x, torch.ones(1)), x, atol=1e-6)


@pytest.mark.parametrize("bits", [4, 5, 8])
def test_posterize_is_pillows(bits):
    x = photos()
    done = ops.posterize(x, torch.full((3,), bits + 0.2))
    assert torch.allclose(done, by_pillow(x, lambda image: ImageOps.posterize(image, bits)), atol=1e-6)


def test_solarize_and_invert_are_pillows():
    x = photos()
    assert torch.allclose(ops.invert(x, torch.ones(3)), by_pillow(x, ImageOps.invert), atol=1e-6)
    done = ops.solarize(x, torch.full((3,), 128 / 255))
    assert torch.allclose(done, by_pillow(x, lambda image: ImageOps.solarize(image, 128)), atol=1e-6)


def test_autocontrast_uses_the_whole_range_and_spares_flat_channels():
    x = photos()
    x[0, 0] = 0.3
    done = ops.autocontrast(x, torch.ones(3))
    assert torch.equal(done[0, 0], x[0, 0])
    low, high = x[1].amin((1, 2), keepdim=True), x[1].amax((1, 2), keepdim=True)
    assert torch.allclose(done[1], (x[1] - low) / (high - low))


def test_a_quarter_turn():
    x = photos()
    assert torch.allclose(ops.rotate(x, torch.full((3,), math.pi / 2)), x.rot90(-1, (2, 3)), atol=1e-4)


@pytest.mark.parametrize(("move", "axis"), [(ops.translate_x, 3), (ops.translate_y, 2)])
def test_a_translation_by_three_pixels(move, axis):
    x = photos(side=16)
    done = move(x, torch.full((3,), 3 * 2 / 16))
    assert torch.allclose(done.narrow(axis, 0, 13), x.narrow(axis, 3, 13), atol=1e-5)
    assert torch.allclose(done.narrow(axis, 13, 3), x.narrow(axis, 13, 3).flip(axis), atol=1e-5)  # mirrored


@pytest.mark.parametrize("shear", [ops.shear_x, ops.shear_y])
def test_a_shear_moves_rows_in_proportion(shear):
    x = photos(side=16) if shear is ops.shear_x else photos(side=16).transpose(2, 3)
    done = shear(x, torch.full((3,), 2 / 15))  # row r lies (2 r - 15) / 16 from the middle
    done, x = (done, x) if shear is ops.shear_x else (done.transpose(2, 3), x.transpose(2, 3))
    assert torch.allclose(done[:, :, 15, :15], x[:, :, 15, 1:], atol=1e-4)  # by one pixel to one side ...
    assert torch.allclose(done[:, :, 0, 1:], x[:, :, 0, :15], atol=1e-4)  # ... and to the other


def test_blends_follow_their_formulas():
    x, v = photos(), torch.tensor([0.2, 0.7, 1.6])
    f = v.numpy()[:, None, None, None]
    a = x.numpy()
    gray = (0.2989 * a[:, :1] + 0.587 * a[:, 1:2] + 0.114 * a[:, 2:]).repeat(3, 1)
    padded = np.pad(a, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    around = [padded[:, :, i : i + 16, j : j + 16] for i in range(3) for j in range(3)]
    soft = (sum(around) + 4 * a) / 13
    zero = {
        ops.brightness: 0 * a,
        ops.contrast: a.mean((1, 2, 3), keepdims=True) + 0 * a,
        ops.colour: gray,
        ops.sharpness: soft,
    }
    for blend, nothing in zero.items():
        assert np.allclose(blend(x, v), nothing + f * (a - nothing), atol=1e-5), blend.__name__


@pytest.mark.parametrize("name", NAMES[:9])
def test_the_middle_magnitude_changes_nothing(name):
    x, half = photos(), torch.full((3,), 0.5)
    done = ops.applied(ops.OPERATIONS[NAMES.index(name)], x, half, -torch.ones(3))
    assert torch.allclose(done, x, atol=1e-5)


def test_the_corrected_rotation_turns_either_way_and_the_literal_one_ignores_its_magnitude():
    x, sign = photos(), torch.ones(3)
    ours, theirs = (table[NAMES.index("rotate")] for table in (ops.OPERATIONS, ops.LITERAL))
    angles = [ours.low + m * (ours.high - ours.low) for m in (0.0, 0.5, 1.0)]
    assert np.allclose(np.degrees(angles), [-30, 0, 30])
    results = [ops.applied(theirs, x, torch.full((3,), m), sign) for m in (0.0, 0.5, 1.0)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], ops.applied(ours, x, torch.zeros(3), sign))
    assert torch.allclose(
        ops.applied(theirs, x, torch.zeros(3), -sign), ops.applied(ours, x, torch.ones(3), sign)
    )


@pytest.mark.parametrize("name", NAMES[:9])
def test_the_gradient_to_the_magnitude_is_that_of_differences(name):
    operation, x = ops.OPERATIONS[NAMES.index(name)], photos(1, side=8).double()
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def total(m):
        return (weights * ops.applied(operation, x, m, torch.ones(1).double())).sum()

    m = torch.tensor([0.41], dtype=torch.float64, requires_grad=True)
    (got,) = torch.autograd.grad(total(m), m)
    near = 1e-6
    assert abs(float(got) - float((total(m + near) - total(m - near)).detach() / (2 * near))) < 1e-3


@pytest.mark.parametrize("name", NAMES[9:])
def test_what_has_no_derivative_passes_it_straight_through(name):
    operation, x = ops.OPERATIONS[NAMES.index(name)], photos(2)
    m = torch.tensor([0.3, 0.6], requires_grad=True)
    done = ops.applied(operation, x, m, torch.ones(2))
    assert torch.equal(done, ops.applied(operation, x, m.detach(), torch.ones(2)))
    (got,) = torch.autograd.grad(done.sum(), m)
    inside = ((done > 0) & (done < 1)).flatten(1).sum(1)  # what is clipped has none
    assert torch.allclose(got, float(operation.high - operation.low) * inside)


@pytest.mark.parametrize("channels", [1, 2])
def test_without_colour_there_is_none_to_change(channels):
    x, v = photos(channels=channels), torch.tensor([0.1, 0.5, 1.9])
    assert torch.equal(ops.colour(x, v), x)
    for operation in ops.OPERATIONS:
        assert ops.applied(operation, x, torch.rand(3), torch.ones(3)).shape == x.shape


def test_pairs_are_all_that_there_are_without_order():
    assert len(PAIRS) == len(set(map(frozenset, PAIRS))) == math.comb(14, 2) == 91


def test_every_image_gets_its_own_pair_and_magnitudes():
    policy, n = Policy(), 40
    generator = torch.Generator().manual_seed(0)
    x, draw = photos(n), policy.draw(n, generator, learned=False)
    magnitudes = torch.rand(n, 2, generator=generator)
    done = policy(x, draw, magnitudes)
    for i, slot in itertools.product(range(n), range(2)):
        operation = ops.OPERATIONS[PAIRS[int(draw.pair[i])][slot]]
        one = slice(i, i + 1)
        x[one] = ops.applied(operation, x[one], magnitudes[one, slot], draw.sign[one, slot])
    assert torch.allclose(done, x, atol=1e-5)


def test_learned_draws_follow_the_preferences():
    policy = Policy()
    policy.preference.data[7] = math.log(90.0)  # as likely as the other 90 together
    draw = policy.draw(4000, torch.Generator().manual_seed(0), learned=True)
    assert abs((draw.pair == 7).float().mean() - 0.5) < 0.03
    assert abs((draw.sign > 0).float().mean() - 0.5) < 0.03
    assert (
        abs(float(policy.log_probability(Draw(torch.tensor([7]), draw.sign[:1])).detach()) - math.log(0.5))
        < 1e-5
    )


def test_weak_views_are_crops_of_the_promised_size_inside_the_image():
    n, side = 400, 32
    ramp = (torch.arange(side) + 0.5) / side
    x = torch.stack((ramp.expand(side, side), ramp.expand(side, side).T)).expand(n, 2, side, side)
    views = random_crops(x, torch.Generator().manual_seed(0))
    inner = views[:, :, 4:-4, 4:-4]  # bilinear there; the border repeats
    step = torch.stack((inner[:, 0, 0].diff(dim=1)[:, 0], inner[:, 1, :, 0].diff(dim=1)[:, 0]), 1) * side
    width, height = step[:, 0].abs(), step[:, 1]
    area, ratio = width * height, width / height
    assert 0.8 - 1e-3 <= area.min() < 0.82 and 0.98 < area.max() <= 1 + 1e-3
    assert 3 / 4 - 1e-3 <= ratio.min() < 0.85 and 1.18 < ratio.max() <= 4 / 3 + 1e-3
    centre = (inner.mean((2, 3)) - 0.5).abs()
    assert (centre[:, 0] <= (1 - width) / 2 + 1e-3).all() and (centre[:, 1] <= (1 - height) / 2 + 1e-3).all()
    assert abs((step[:, 0] < 0).float().mean() - 0.5) < 0.1
