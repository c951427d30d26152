"""Small pictures placed on a canvas, and cut out of it again: a spatial transformer's two uses.

A place is three standard Normal numbers ``(..., 3)``: log scale in units of ``SPREAD``, and the
two coordinates of the middle (down, across), each carried to a uniform one over all places where
a picture of scale 1 fits the canvas. After Jaderberg et al. 2015 (arXiv 1506.02025).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ppl_models.networks import Net

SPREAD = 0.12


def stamp(pictures: Tensor, where: Tensor, canvas: int) -> Tensor:
    """Pictures at their places on empty canvases.

    Args:
        pictures: ``(..., g, g)``.
        where: Places ``(..., 3)``; leading dimensions broadcast.
        canvas: Side of the canvas, in the picture's pixels.

    Returns:
        ``(..., canvas, canvas)``.
    """
    side = pictures.shape[-1]
    scale, middle = _frame(where, side / canvas)
    # For each pixel of the canvas: where in the picture it comes from.
    shrunk = (canvas / side) / scale
    return _sample(pictures, shrunk, -middle * shrunk.unsqueeze(-1), canvas)


def cut(canvases: Tensor, where: Tensor, side: int) -> Tensor:
    """What stands at places of canvases, at the scale of a picture.

    Args:
        canvases: ``(..., c, c)``.
        where: Places ``(..., 3)``; leading dimensions broadcast.
        side: Side of the picture.

    Returns:
        ``(..., side, side)``.
    """
    share = side / canvases.shape[-1]
    scale, middle = _frame(where, share)
    return _sample(canvases, scale * share, middle, side)


def place_of(middle: Tensor, share: float) -> Tensor:
    """The two Normal numbers of a middle ``(..., 2)`` in canvas coordinates of -1 to 1.

    Args:
        middle: Down and across.
        share: Side of a picture over that of the canvas.
    """
    inside = (middle / (1 - share)).clamp(-0.999, 0.999)
    return 2**0.5 * torch.erfinv(inside)


def _frame(where: Tensor, share: float) -> tuple[Tensor, Tensor]:
    scale = (SPREAD * where[..., 0]).exp()
    return scale, (1 - share) * torch.erf(where[..., 1:] / 2**0.5)


def _sample(source: Tensor, factor: Tensor, shift: Tensor, side: int) -> Tensor:
    # Bilinear interpolation along an axis is a product with a matrix of hat functions.
    down, across = (_hats(factor, shift[..., i], source.shape[-1], side) for i in (0, 1))
    found: Tensor = down @ source @ across.mT
    return found


def _hats(factor: Tensor, shift: Tensor, size: int, side: int) -> Tensor:
    """How much each of ``size`` pixels gives to each of ``side``, ``(..., side, size)``."""
    to = (2 * torch.arange(side).to(factor) + 1) / side - 1
    place = factor.unsqueeze(-1) * to + shift.unsqueeze(-1)  # in the source, -1 to 1
    pixel = ((place + 1) * size - 1) / 2
    return (1 - (pixel.unsqueeze(-1) - torch.arange(size).to(factor)).abs()).relu()


class Glance(nn.Module):
    """A small convolutional network from a canvas ``x`` ``(..., c * c)`` to ``(..., outputs)``."""

    def __init__(self, canvas: int, channels: int, outputs: int) -> None:
        super().__init__()
        self.canvas = canvas
        self.features = _features(channels, 2)
        size = math.ceil(canvas / 4) ** 2
        self.out = nn.Linear(channels * size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, or whatever the outputs stand for."""
        flat = x.reshape(-1, 1, self.canvas, self.canvas)
        out: Tensor = self.out(self.features(flat).flatten(1))
        return out.reshape(*x.shape[:-1], -1)


class Seek(nn.Module):
    """Where the next picture stands: mean and log-variance of a place ``(..., 6)``.

    The middle is the mean position under a heat map of the canvas, from which the pictures found
    before are taken out: the map moves with the picture, so that no place is learnt by itself.

    Args:
        canvas: Side of the canvas.
        picture: Side of a picture.
        channels: Channels of the convolutions.
    """

    axis: Tensor

    def __init__(self, canvas: int, picture: int, channels: int) -> None:
        super().__init__()
        self.canvas, self.picture = canvas, picture
        self.features = _features(channels, 1)
        self.heat = nn.Conv2d(channels, 1, 1)
        self.rest = nn.Linear(channels, 4)
        nn.init.constant_(self.rest.bias[1:], -4.0)
        size = math.ceil(canvas / 2)
        self.register_buffer("axis", (2 * torch.arange(size) + 1) / size - 1, persistent=False)

    def forward(self, x: Tensor, **before: Tensor) -> Tensor:
        """A canvas ``(..., c * c)`` and the places found before, each ``(..., 3)``."""
        left = x.unflatten(-1, (self.canvas, self.canvas))
        whole = x.new_ones(self.picture, self.picture)
        for where in before.values():
            left = left * (1 - stamp(whole, where, self.canvas))
        lead = left.shape[:-2]
        features = self.features(left.reshape(-1, 1, self.canvas, self.canvas))
        heat = self.heat(features).flatten(1).softmax(-1).view(-1, 1, *features.shape[-2:])
        middle = torch.stack([(heat.sum(d) * self.axis).sum((1, 2)) for d in (3, 2)], -1)
        scale, *spread = self.rest((features * heat).sum((2, 3))).unbind(-1)
        place = place_of(middle, self.picture / self.canvas)
        out = torch.cat([scale.unsqueeze(-1), place, torch.stack(spread, -1)], -1)
        return out.reshape(*lead, 6)


class Read(nn.Module):
    """A perceptron on what is cut out of a canvas at a place.

    Args:
        canvas: Side of the canvas.
        picture: Side of what is cut out.
        hidden: Units of each hidden layer.
        outputs: Size of the output.
    """

    def __init__(self, canvas: int, picture: int, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.canvas, self.picture = canvas, picture
        self.net = Net({"x": picture * picture}, hidden, outputs, "relu")

    def forward(self, x: Tensor, **where: Tensor) -> Tensor:
        """A canvas ``(..., c * c)`` and one place ``(..., 3)``."""
        (place,) = where.values()
        seen = cut(x.unflatten(-1, (self.canvas, self.canvas)), place, self.picture)
        out: Tensor = self.net(x=seen.flatten(-2))
        return out


def _features(channels: int, second: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, channels, 7, stride=2, padding=3),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 5, stride=second, padding=2),
        nn.ReLU(),
    )
