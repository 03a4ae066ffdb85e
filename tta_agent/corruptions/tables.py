"""Constants of each family at severities 1 to 5, in two tables.

`cifar` holds the constants of CIFAR-10-C. `imagenet` takes those of ImageNet-C where they do not depend on
the size of the image (noise, brightness, contrast, pixelate, JPEG): a far harder shift for small images.
"""

Params = tuple[float, ...]
Levels = tuple[Params, ...]  # one for each severity


def _plain(*values: float) -> Levels:
    """Levels of a family with one number."""
    return tuple((value,) for value in values)


CIFAR: dict[str, Levels] = {
    "gaussian_noise": _plain(0.04, 0.06, 0.08, 0.09, 0.10),  # standard deviation
    "shot_noise": _plain(500, 250, 100, 75, 50),  # photons of a white pixel
    "impulse_noise": _plain(0.01, 0.02, 0.03, 0.05, 0.07),  # share of pixels lost
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),  # radius, soft edge
    "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),  # blur, reach, passes
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),  # radius, fading
    "zoom_blur": _plain(6, 11, 16, 21, 26),  # exposures, each 1 % larger than the one before
    # mean, deviation, zoom and threshold of the flakes; radius and fading of their streaks; share of image
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),  # share of image, of ice
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),  # density, smoothness
    "brightness": _plain(0.05, 0.1, 0.15, 0.2, 0.3),  # added to the value
    "contrast": _plain(0.75, 0.5, 0.4, 0.3, 0.15),  # what is left of it
    # displacement, its smoothness, move of the corners; all as shares of the side
    "elastic_transform": (
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    ),
    "pixelate": _plain(0.95, 0.9, 0.85, 0.75, 0.65),  # share of the side that is left
    "jpeg_compression": _plain(80, 65, 58, 50, 40),  # quality
}

IMAGENET: dict[str, Levels] = {
    **CIFAR,
    "gaussian_noise": _plain(0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": _plain(60, 25, 12, 5, 3),
    "impulse_noise": _plain(0.03, 0.06, 0.09, 0.17, 0.27),
    "brightness": _plain(0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": _plain(0.4, 0.3, 0.2, 0.1, 0.05),
    "pixelate": _plain(0.6, 0.5, 0.4, 0.3, 0.25),
    "jpeg_compression": _plain(25, 18, 15, 10, 7),
}

CONSTANTS = {"cifar": CIFAR, "imagenet": IMAGENET}
