"""Steps of a view of images ``(B, C, H, W)``: where what is seen, how sharp, and what is hidden.

Images are read off between pixels by bilinear interpolation (``grid_sample``), centres of pixels
standing half a pixel from the edges. See :mod:`ppl_models.data.streams.row_steps` for the draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ppl_models.config import at_least, unknown
from ppl_models.data.streams.row_steps import (
    Range,
    around,
    between,
    check_range,
    check_share,
    check_size,
    each,
    in_some,
    uniform,
)

AXES = {"width": -1, "height": -2}


@dataclass(frozen=True)
class OfImages:
    """A step of images."""

    def refusal(self, shape: tuple[int, ...] | None) -> str:
        """Images of any shape."""
        return "" if shape is not None else "expected images, of shape=(H, W, C)"


@dataclass(frozen=True)
class Crop(OfImages):
    """A random part of an image, made as large as the image (random resized crop).

    Args:
        area: Least and greatest share of the image's area.
        ratio: Least and greatest width over height, as a multiple of the image's own; drawn on
            the logarithmic scale. A side that would exceed the image's is cut to it.

    Raises:
        ValueError: If an option is out of range.
    """

    area: Range = (0.2, 1.0)
    ratio: Range = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        """Check the options."""
        check_range("area of Crop", self.area, 1)
        check_range("ratio of Crop", self.ratio)

    def __call__(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)``."""
        area, ratio, left, top = uniform(images, 4)
        area = between(area, self.area)
        low, high = self.ratio
        ratio = between(ratio, (math.log(low), math.log(high))).exp()
        width, height = ((area * r).sqrt().clamp_max(1) for r in (ratio, 1 / ratio))
        # In coordinates from -1 to 1 over the image.
        x, y = (around(at, 1) * (1 - side) for at, side in ((left, width), (top, height)))
        zero = torch.zeros_like(x)
        rows = [width, zero, x, zero, height, y]
        return _sampled(images, torch.stack(rows, -1).reshape(-1, 2, 3), "border")


@dataclass(frozen=True)
class Flip(OfImages):
    """Left and right exchanged, or top and bottom.

    Args:
        probability: Of an image to be flipped.
        along: ``"width"`` or ``"height"``.

    Raises:
        ValueError: If an option is out of range.
    """

    probability: float = 0.5
    along: Literal["width", "height"] = "width"

    def __post_init__(self) -> None:
        """Check the options."""
        check_share("probability of Flip", self.probability)
        if self.along not in AXES:
            raise ValueError(unknown("along of Flip", self.along, list(AXES)))

    def __call__(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)``."""
        (some,) = uniform(images, 1)
        return in_some(some, self.probability, images.flip(AXES[self.along]), images)


@dataclass(frozen=True)
class Dihedral(OfImages):
    """One of the eight turns and mirror images of a square, each as likely, to the pixel."""

    def refusal(self, shape: tuple[int, ...] | None) -> str:
        """Squares."""
        if shape is not None and shape[0] != shape[1]:
            return "expected images as high as wide"
        return super().refusal(shape)

    def __call__(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)``."""
        wide, high, turned = uniform(images, 3)
        images = in_some(wide, 0.5, images.flip(-1), images)
        images = in_some(high, 0.5, images.flip(-2), images)
        return in_some(turned, 0.5, images.mT, images)


@dataclass(frozen=True)
class Affine(OfImages):
    """Images turned, shifted, scaled and sheared about their middle.

    Args:
        degrees: Most that they turn either way.
        shift: Most that they move, as a share of each side.
        scale: Least and greatest factor of size, drawn on the logarithmic scale.
        shear: Most that the vertical leans either way, in degrees.
        outside: What is seen beyond the edges: ``"zeros"``, or the ``"border"``'s values.

    Raises:
        ValueError: If an option is out of range.
    """

    degrees: float = 15.0
    shift: float = 0.05
    scale: Range = (0.9, 1.1)
    shear: float = 0.0
    outside: Literal["zeros", "border"] = "zeros"

    def __post_init__(self) -> None:
        """Check the options."""
        check_size("degrees of Affine", self.degrees, 180)
        check_share("shift of Affine", self.shift)
        check_range("scale of Affine", self.scale)
        check_size("shear of Affine", self.shear, 89)
        if self.outside not in ("zeros", "border"):
            raise ValueError(unknown("outside of Affine", self.outside, ["zeros", "border"]))

    def __call__(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)``."""
        turn, scale, lean, x, y = uniform(images, 5)
        turn = around(turn, math.radians(self.degrees))
        low, high = self.scale
        scale = between(scale, (math.log(low), math.log(high))).exp()
        lean = around(lean, math.radians(self.shear)).tan()
        cosine, sine = turn.cos() / scale, turn.sin() / scale
        # From a pixel that is seen to where it was: back by the shift, the turn, the lean.
        matrix = torch.stack([cosine - lean * -sine, sine - lean * cosine, -sine, cosine], -1)
        matrix = matrix.reshape(-1, 2, 2)
        sides = images.new_tensor([images.shape[-1], images.shape[-2]])
        matrix = matrix * sides / sides[:, None]  # in units of half sides
        by = 2 * torch.stack([around(x, self.shift), around(y, self.shift)], -1)
        back = -(matrix @ by.unsqueeze(-1))
        return _sampled(images, torch.cat([matrix, back], -1), self.outside)


@dataclass(frozen=True)
class Blur(OfImages):
    """Gaussian blur; near the edges its weights are those inside, made to add to 1.

    Args:
        deviation: Least and greatest standard deviation, in pixels.
        probability: Of an image to be blurred.

    Raises:
        ValueError: If an option is out of range.
    """

    deviation: Range = (0.1, 2.0)
    probability: float = 0.5

    def __post_init__(self) -> None:
        """Check the options."""
        check_range("deviation of Blur", self.deviation)
        check_share("probability of Blur", self.probability)

    def __call__(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)``."""
        some, deviation = uniform(images, 2)
        deviation = between(deviation, self.deviation)
        down, across = (_weights(deviation, side) for side in images.shape[-2:])
        return in_some(some, self.probability, down @ images @ across.mT, images)


@dataclass(frozen=True)
class CutOut(OfImages):
    """A square set to a value, somewhere wholly inside the image.

    Args:
        side: Of the square, in pixels; at most the image's.
        value: What it is set to.
        probability: Of an image to have one.

    Raises:
        ValueError: If an option is out of range.
    """

    side: int = 5
    value: float = 0.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        """Check the options."""
        at_least(side=(self.side, 1))
        check_share("probability of CutOut", self.probability)

    def refusal(self, shape: tuple[int, ...] | None) -> str:
        """Images of at least the square's size."""
        small = shape is not None and min(shape[:2]) < self.side
        return f"expected images of at least side={self.side}" if small else super().refusal(shape)

    def __call__(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)``."""
        some, *places = uniform(images, 3)
        inside = torch.ones((), dtype=torch.bool, device=images.device)
        for share, dim in zip(places, (-2, -1), strict=True):
            length = images.shape[dim]
            free = max(length - self.side, 0) + 1
            first = (share * free).floor().clamp_max(free - 1)[:, None]
            at = torch.arange(length, device=images.device)
            inside = (
                inside & ((at >= first) & (at < first + self.side)).unsqueeze(-3 - dim)[:, None]
            )
        changed = torch.where(inside, self.value, images)
        return in_some(some, self.probability, changed, images)


def _weights(deviation: Tensor, side: int) -> Tensor:
    """Of each pixel in each ``(B, 1, side, side)``."""
    at = torch.arange(side, dtype=deviation.dtype, device=deviation.device)
    away = (at[:, None] - at) / each(deviation, at.expand(1, 1, 1, side))
    return (-0.5 * away.square()).softmax(-1)


def _sampled(images: Tensor, matrix: Tensor, outside: str) -> Tensor:
    """Images seen through a map from places in the view to places in the image."""
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, "bilinear", outside, align_corners=False)
