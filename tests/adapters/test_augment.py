"""The augmentation stack against torchvision's functions and against what it promises."""

import colorsys

import pytest
import torch

from tta_adapters import augment, colour
from tta_adapters.augment import Augment
from tta_agent.core.errors import CannotAdapt
from tta_agent.core.types import SourceInfo

FACTS = SourceInfo((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def images(n=3, channels=3, side=12, seed=0):
    return torch.rand(n, channels, side, side + 2, generator=torch.Generator().manual_seed(seed))


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def reference():
    return pytest.importorskip("torchvision.transforms.functional")


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue", "gamma"])
@pytest.mark.parametrize("amount", [0.6, 1.3])
def test_colours_change_as_in_the_reference(name, amount):
    amount = amount / 10 - 0.1 if name == "hue" else amount
    expected = getattr(reference(), f"adjust_{name}")(images(), amount)
    assert torch.allclose(getattr(colour, name)(images(), amount), expected, atol=1e-4)


def test_hue_turns_the_colour_circle():
    pixels = images(1)
    turned = colour.hue(pixels, 0.05)[0]
    for row, column in ((0, 0), (3, 7), (11, 13)):
        h, s, v = colorsys.rgb_to_hsv(*pixels[0, :, row, column].tolist())
        assert turned[:, row, column].tolist() == pytest.approx(
            colorsys.hsv_to_rgb((h + 0.05) % 1, s, v), abs=1e-5
        )


@pytest.mark.parametrize(("padding", "mode"), [("replicate", "edge"), ("reflect", "reflect")])
def test_the_map_is_pad_affine_blur_crop(padding, mode):
    tv, x = reference(), images()
    height, width = x.shape[2:]
    padded = tv.pad(x, [width // 2, height // 2], padding_mode=mode)
    options = {"shear": [0.0, 0.0], "interpolation": tv.InterpolationMode.BILINEAR}
    moved = tv.affine(padded, angle=11.0, translate=[2, -1], scale=1.1, **options)
    expected = tv.center_crop(tv.gaussian_blur(moved, [5, 5], [0.4, 0.4]), [height, width])
    turned = augment.affine(x, torch.pi * 11 / 180, (2, -1), 1.1, padding, margin=2)
    assert torch.allclose(augment.blurred(turned, 0.4), expected, atol=1e-4)


def test_the_map_is_drawn_from_the_ranges_of_the_paper(monkeypatch):
    drawn = []
    monkeypatch.setattr(augment, "affine", lambda x, *drawing: (drawn.append(drawing), x)[1])
    stack, generator = Augment(FACTS, soften=False), random()
    for _ in range(400):
        stack(torch.zeros(1, 3, 32, 16), generator)
    angles, scales = ([d[i] * 180 / torch.pi if i == 0 else d[i] for d in drawn] for i in (0, 2))
    across, down = ([d[1][i] for d in drawn] for i in (0, 1))
    assert (-15 <= min(angles) < -14, 14 < max(angles) <= 15) == (True, True)
    assert (0.9 <= min(scales) < 0.91, 1.09 < max(scales) <= 1.1) == (True, True)
    assert (min(across), max(across), min(down), max(down)) == (-2, 2, -4, 4)  # 1/16 of 32 and of 64


def test_the_identity_map_changes_nothing():
    x = images(side=9)
    assert torch.allclose(augment.affine(x, 0.0, (0, 0), 1.0, "replicate", 0), x, atol=1e-5)


def test_one_draw_holds_for_the_whole_batch():
    x = images(1).expand(4, -1, -1, -1)
    view = Augment(FACTS, soften=False)(x, random())
    assert torch.equal(view, view[:1].expand_as(view))
    assert not torch.equal(view, x)


def test_noise_is_each_pixels_own():
    view = Augment(FACTS)(images(1).expand(2, -1, -1, -1), random())
    assert not torch.equal(view[0], view[1])


def test_the_generator_alone_decides():
    stack, x = Augment(FACTS), images()
    torch.manual_seed(1)
    one = stack(x, random(5))
    torch.manual_seed(2)
    assert torch.equal(one, stack(x, random(5)))
    assert not torch.equal(one, stack(x, random(6)))


def test_views_are_pixels_standardised_again():
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (FACTS.mean, FACTS.std))
    view = Augment(FACTS)((images() - mean) / std, random()) * std + mean
    assert view.min() >= -1e-5
    assert view.max() <= 1 + 1e-5
    assert view.std() > 0.1


def test_without_pixel_facts_nothing_is_clipped_away():
    pixels = images()
    pixels[0, 0, 0, :2] = torch.tensor([0.0, 1.0])  # they span the whole range
    from_pixels = Augment(None)(pixels, random())
    from_standardised = Augment(None)(pixels * 5 - 2, random())
    assert torch.allclose(from_standardised, from_pixels * 5 - 2, atol=1e-4)


def test_one_channel_has_no_hue():
    view = Augment(SourceInfo((0.5,), (0.25,)))(images(channels=1), random())
    assert view.shape == images(channels=1).shape
    assert torch.isfinite(view).all()


@pytest.mark.parametrize("x", [torch.zeros(4, 7), torch.zeros(4, 1, 8, 8)])
def test_what_is_no_image_of_these_channels_is_refused(x):
    with pytest.raises(CannotAdapt, match=r"images \[B, channels, H, W\]"):
        Augment(FACTS)(x, random())
