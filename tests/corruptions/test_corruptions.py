from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tta_agent.core.errors import ConfigError
from tta_agent.corruptions import NAMES, corrupt, mixture
from tta_agent.corruptions.tables import CONSTANTS
from tta_agent.samples import dataset

# The published constants trade displacement for smoothness (elastic), reach for blur (glass), image for ice
# (frost) and size for rounding (pixelate): their distance from clean does not grow with every severity.
UNEVEN = {"elastic_transform", "glass_blur", "frost", "pixelate"}


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.from_numpy(dataset.load().inputs[:64].copy()).float() / 255


def distance(x: Tensor, y: Tensor) -> float:
    return float((x - y).abs().mean())


def test_there_are_fifteen_in_both_tables() -> None:
    assert len(NAMES) == 15
    for table in CONSTANTS.values():
        assert tuple(table) == NAMES
        assert all(len(levels) == 5 for levels in table.values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (2, 16)])
def test_shape_range_and_whole_levels(name: str, channels: int, size: int) -> None:
    x = torch.rand(5, channels, size, size, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    y = corrupt(x, name)
    assert y.shape == x.shape
    assert y.dtype == torch.float32
    assert float(y.min()) >= 0
    assert float(y.max()) <= 1
    torch.testing.assert_close(y * 255, (y * 255).round())
    assert torch.equal(x, before), "the input was changed"


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_bits_whatever_torch_s_own_state(name: str, images: Tensor) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = corrupt(images, name, seed=3)
    assert torch.equal(torch.get_rng_state(), state), "the global state was moved"
    torch.manual_seed(2)
    assert torch.equal(corrupt(images, name, seed=3), first)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"defocus_blur", "zoom_blur", "brightness", "contrast"}))
def test_other_seed_other_bits(name: str, images: Tensor) -> None:
    same = name in {"pixelate", "jpeg_compression"}  # no random numbers in these
    assert torch.equal(corrupt(images, name, seed=0), corrupt(images, name, seed=1)) == same


@pytest.mark.parametrize("constants", CONSTANTS)
@pytest.mark.parametrize("name", NAMES)
def test_a_higher_severity_is_further_from_clean(name: str, constants: str, images: Tensor) -> None:
    by_severity = [distance(corrupt(images, name, level, 0, constants), images) for level in range(1, 6)]
    assert min(by_severity) > 1 / 255, "hardly differs from the clean images"
    if name not in UNEVEN:
        assert all(weak <= strong + 1e-3 for weak, strong in pairwise(by_severity))
    if name != "elastic_transform":
        assert by_severity[4] > 1.2 * by_severity[0]


def test_imagenet_is_the_harder_table(images: Tensor) -> None:
    for name in NAMES:
        hard, easy = (distance(corrupt(images, name, 5, 0, table), images) for table in ("imagenet", "cifar"))
        assert hard >= easy, name


def test_no_two_images_share_their_noise() -> None:
    same = torch.full((2, 1, 28, 28), 0.5)
    for name in ("gaussian_noise", "shot_noise", "impulse_noise", "snow", "frost", "fog"):
        first, second = corrupt(same, name)
        assert not torch.equal(first, second), name


def test_constant_images_show_what_a_family_does() -> None:
    x = torch.full((400, 1, 28, 28), 0.5)
    noise = corrupt(x, "gaussian_noise", 5) - x
    assert float(noise.mean()) == pytest.approx(0, abs=0.003)
    assert float(noise.std()) == pytest.approx(0.10, abs=0.003)
    lost = corrupt(x, "impulse_noise", 5)
    assert float(((lost == 0) | (lost == 1)).float().mean()) == pytest.approx(0.07, abs=0.003)
    for blur in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "pixelate", "contrast"):
        torch.testing.assert_close(corrupt(x, blur), torch.full_like(x, 128 / 255), atol=1.1 / 255, rtol=0)
    torch.testing.assert_close(corrupt(x, "brightness", 5), torch.full_like(x, 204 / 255))


def test_brightness_keeps_the_hue() -> None:
    x = torch.tensor([0.4, 0.2, 0.1]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    y = corrupt(x, "brightness", 5)[0, :, 0, 0]
    torch.testing.assert_close(y / y[0], torch.tensor([1.0, 0.5, 0.25]), atol=0.01, rtol=0)


def test_a_mixture_gives_each_image_one_family(images: Tensor) -> None:
    names = ("contrast", "brightness", "pixelate")  # none of them depends on an image's place in the batch
    torch.manual_seed(1)
    state = torch.get_rng_state()
    mixed, which = mixture(images, names, 4, seed=7, constants="imagenet")
    assert torch.equal(torch.get_rng_state(), state)
    assert which.dtype == torch.int64
    assert set(which.tolist()) == {0, 1, 2}
    for index, name in enumerate(names):
        alone = corrupt(images, name, 4, constants="imagenet")
        assert torch.equal(mixed[which == index], alone[which == index])
    again, those = mixture(images, names, 4, seed=7, constants="imagenet")
    assert torch.equal(again, mixed)
    assert torch.equal(those, which)
    assert not torch.equal(mixture(images, names, 4, seed=8)[1], which)


def test_a_mixture_of_few_images_may_leave_families_out(images: Tensor) -> None:
    mixed, which = mixture(images[:1], NAMES)
    assert mixed.shape == (1, 1, 28, 28)
    assert which.shape == (1,)


@pytest.mark.parametrize("name", NAMES)
def test_no_images_stay_none(name: str) -> None:
    assert corrupt(torch.zeros(0, 1, 28, 28), name).shape == (0, 1, 28, 28)


def test_mistakes_are_named() -> None:
    x = torch.zeros(1, 1, 8, 8)
    with pytest.raises(ConfigError, match=r"'fgo'.*did you mean fog"):
        corrupt(x, "fgo")
    with pytest.raises(ConfigError, match=r"'hail'.*valid: brightness, contrast"):
        mixture(x, ["fog", "hail"])
    with pytest.raises(ConfigError, match=r"'imagnet'.*did you mean imagenet"):
        corrupt(x, "fog", constants="imagnet")
    with pytest.raises(ConfigError, match="severity 6"):
        corrupt(x, "fog", severity=6)
    with pytest.raises(ConfigError, match="at least one"):
        mixture(x, [])
    with pytest.raises(ConfigError, match=r"\[1, 1, 8, 9\]"):
        corrupt(torch.zeros(1, 1, 8, 9), "fog")
