"""What the transforms keep of an image, and what they do not."""

import numpy as np
import pytest
import torch

from tta_policies.select.destroy import Destroyer, occlude, shuffle_patches, shuffle_pixels


def images(b=3, side=8, channels=2):
    return torch.randn(b, channels, side, side, generator=torch.Generator().manual_seed(3))


def tiles(image, n):
    side = image.shape[1] // n
    return {
        image[:, i * side : (i + 1) * side, j * side : (j + 1) * side].tobytes()
        for i in range(n)
        for j in range(n)
    }


def generator():
    return torch.Generator().manual_seed(0)


def test_patches_are_moved_whole_and_for_each_image_in_its_own_order():
    x = images(side=12)
    x[1] = x[0]
    y = shuffle_patches(x, 4, generator())
    for before, after in zip(x.numpy(), y.numpy(), strict=True):
        assert tiles(before, 4) == tiles(after, 4)
        assert len(tiles(after, 4)) == 16  # four a side
        assert not np.array_equal(before, after)
    assert not torch.equal(y[0], y[1])


def test_a_side_that_is_not_divisible_is_resized_and_back():
    x = images(side=9)
    y = shuffle_patches(x, 4, generator())
    assert y.shape == x.shape
    flat = torch.full((2, 3, 9, 7), 0.25)
    assert torch.allclose(shuffle_patches(flat, 4, generator()), flat)
    assert shuffle_patches(images(side=2), 4, generator()).shape == (3, 2, 2, 2)


def test_pixels_are_permuted_alike_in_every_image_and_channel():
    x = images()
    y = shuffle_pixels(x, generator())
    place = {value: i for i, value in enumerate(x[0, 0].flatten().tolist())}
    order = [place[value] for value in y[0, 0].flatten().tolist()]
    assert order != sorted(order)
    assert torch.equal(y.flatten(2), x.flatten(2)[..., order])


def test_the_middle_half_is_filled_with_the_images_own_mean():
    x = images(side=224)
    y = occlude(x, 0.5)
    mean = x.numpy().mean(axis=(2, 3))
    middle = y[:, :, 56 : 56 + 112, 56 : 56 + 112].numpy()
    assert np.allclose(middle, mean[:, :, None, None], atol=1e-6)
    outside = torch.ones(224, 224, dtype=torch.bool)
    outside[56:168, 56:168] = False
    assert torch.equal(y[:, :, outside], x[:, :, outside])


@pytest.mark.parametrize("transform", ["patch", "pixel", "occlusion"])
def test_the_batch_that_is_given_stays_as_it_is(transform):
    x = images()
    kept = x.clone()
    y = Destroyer(transform).destroyed(x)
    assert torch.equal(x, kept)
    assert y.shape == x.shape
    assert not torch.equal(y, x)


@pytest.mark.parametrize("transform", ["patch", "pixel"])
def test_every_call_draws_anew_and_the_seed_says_what(transform):
    x, one, other = images(), Destroyer(transform, seed=5), Destroyer(transform, seed=5)
    first = one.destroyed(x)
    assert not torch.equal(first, one.destroyed(x))
    assert torch.equal(first, other.destroyed(x))
    assert not torch.equal(first, Destroyer(transform, seed=6).destroyed(x))
