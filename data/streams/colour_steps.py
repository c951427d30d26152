"""Steps of a view of images ``(B, C, H, W)``: colours, greys and channels.

Grey is 0.299 R + 0.587 G + 0.114 B of three channels (ITU-R BT.601), and the mean of any other
number. Values are taken to lie in 0 ... 1 where the docstring says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_models.config import at_least
from ppl_models.data.streams.image_steps import OfImages
from ppl_models.data.streams.row_steps import (
    around,
    check_share,
    check_size,
    each,
    in_some,
    uniform,
)

LUMINANCE = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Colour(OfImages):
    """Brightness, contrast, saturation and hue, in this order.

    Each factor is uniform about 1: brightness scales values, contrast their distance from the
    image's mean grey, saturation that from each pixel's grey.

    Args:
        brightness: Most that its factor departs from 1, at most 1.
        contrast: Likewise.
        saturation: Likewise.
        hue: Most that hues turn either way, in whole turns, at most 0.5; of three channels.
        probability: Of an image to be changed.
        clip: Bring values back into 0 ... 1 after each change; False for standardised channels.

    Raises:
        ValueError: If an option is out of range.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    probability: float = 0.8
    clip: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        for name in ("brightness", "contrast", "saturation", "probability"):
            check_share(f"{name} of Colour", getattr(self, name))
        check_size("hue of Colour", self.hue, 0.5)

    def refusal(self, shape: tuple[int, ...] | None) -> str:
        """Hues are those of three channels."""
        if shape is not None and self.hue and shape[2] != 3:
            return "expected hue=0, or three channels"
        return super().refusal(shape)

    def __call__(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)``, of values in 0 ... 1."""
        some, light, spread, colour, turn = uniform(images, 5)
        factors = [
            each(1 + around(share, size), images)
            for share, size in (
                (light, self.brightness),
                (spread, self.contrast),
                (colour, self.saturation),
            )
        ]
        changed = self._inside(images * factors[0])
        middle = _grey(changed).mean((-2, -1), keepdim=True)
        changed = self._inside(middle + factors[1] * (changed - middle))
        grey = _grey(changed)
        changed = self._inside(grey + factors[2] * (changed - grey))
        if self.hue:
            changed = _turned(changed, each(around(turn, self.hue), images[:, 0]))
        return in_some(some, self.probability, changed, images)

    def _inside(self, images: Tensor) -> Tensor:
        return images.clamp(0, 1) if self.clip else images


@dataclass(frozen=True)
class Grey(OfImages):
    """All channels alike, the image's grey.

    Args:
        probability: Of an image to become grey.

    Raises:
        ValueError: If it is out of range.
    """

    probability: float = 0.2

    def __post_init__(self) -> None:
        """Check the options."""
        check_share("probability of Grey", self.probability)

    def __call__(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)``."""
        (some,) = uniform(images, 1)
        return in_some(some, self.probability, _grey(images).expand_as(images), images)


@dataclass(frozen=True)
class Solarise(OfImages):
    """Values of at least a threshold turned over: 1 - x.

    Args:
        threshold: The least value, in 0 ... 1, that is turned over.
        probability: Of an image to be changed.

    Raises:
        ValueError: If an option is out of range.
    """

    threshold: float = 0.5
    probability: float = 0.2

    def __post_init__(self) -> None:
        """Check the options."""
        check_share("threshold of Solarise", self.threshold)
        check_share("probability of Solarise", self.probability)

    def __call__(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)``, of values in 0 ... 1."""
        (some,) = uniform(images, 1)
        changed = torch.where(images >= self.threshold, 1 - images, images)
        return in_some(some, self.probability, changed, images)


@dataclass(frozen=True)
class DropChannels(OfImages):
    """Some channels set to 0: how many, and which, each image draws.

    Args:
        most: Greatest number of channels; the least is 1.
        probability: Of an image to lose any.

    Raises:
        ValueError: If an option is out of range.
    """

    most: int = 1
    probability: float = 0.5

    def __post_init__(self) -> None:
        """Check the options."""
        at_least(most=(self.most, 1))
        check_share("probability of DropChannels", self.probability)

    def refusal(self, shape: tuple[int, ...] | None) -> str:
        """One channel stays at least."""
        if shape is not None and self.most >= shape[2]:
            return f"expected most < {shape[2]}, the number of channels"
        return super().refusal(shape)

    def __call__(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)``."""
        some, number, *order = uniform(images, 2 + images.shape[1])
        count = (number * self.most).floor().clamp_max(self.most - 1) + 1
        place = torch.stack(order, -1).argsort(-1).argsort(-1)
        lost = (place < count[:, None])[..., None, None]
        return in_some(some, self.probability, torch.where(lost, 0.0, images), images)


def _grey(images: Tensor) -> Tensor:
    """``(B, 1, H, W)``."""
    if images.shape[1] != len(LUMINANCE):
        return images.mean(1, keepdim=True)
    weights = images.new_tensor(LUMINANCE)
    return (images * weights[:, None, None]).sum(1, keepdim=True)


def _turned(images: Tensor, turn: Tensor) -> Tensor:
    """Hues turned, by way of hue, saturation and value (Smith 1978).

    Args:
        images: ``(B, 3, H, W)``.
        turn: In whole turns ``(B, 1, 1)``.
    """
    red, green, blue = images.unbind(1)
    value, low = images.amax(1), images.amin(1)
    chroma = value - low
    some = torch.where(chroma > 0, chroma, 1.0)
    sixth = torch.where(
        value == red,
        (green - blue) / some,
        torch.where(value == green, 2 + (blue - red) / some, 4 + (red - green) / some),
    )
    sixth = sixth + 6 * turn
    # A channel is the value, less the chroma by how far the hue is from the channel's own.
    made = []
    for start in (5, 3, 1):
        k = (start + sixth).remainder(6)
        made.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(made, 1)
