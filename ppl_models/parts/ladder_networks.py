"""Networks of ladders of codes, which meet an image at levels of its features, the image being 0.

A code below the top one enters the decoder at level l + 1 and passes l + 1 layers together with
what comes from above. Levels are vectors, or maps of which each level has half the sides of the
one below. Group norm, or layer norm of vectors, stands where papers have batch norm: it knows
nothing of other rows.

Shapes: features of a level ``(..., units)`` or ``(..., maps, h, w)``, codes ``(..., d)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from ppl_models.config import image_shape
from ppl_models.image_networks import doubling, group_norm, halving, sides_of
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.networks import activation_layer
from ppl_models.parts.ladder_training import FadeIn, LadderConfig
from ppl_models.parts.set_maps import Maps

GATE = 0.1  # of codes that are added to features; at 0 their networks would have no gradient


class Levels:
    """Sizes of the levels, and layers between them.

    Args:
        c: The settings.
    """

    def __init__(self, c: LadderConfig) -> None:
        self.shape = image_shape("shape", c.shape)
        self.conv, self.activation, self.hidden = c.networks == "conv", c.activation, c.hidden
        self.top = len(c.levels)
        self.widths = (self.shape[2] if self.conv else math.prod(self.shape), *c.levels)
        self.sides = sides_of(self.shape, c.levels)
        self.each = LIKELIHOODS[c.likelihood].outputs

    def size(self, level: int) -> tuple[int, ...]:
        """Shape of the features of a level."""
        width = self.widths[level]
        return (width, *self.sides[level]) if self.conv else (width,)

    def finished(self, layer: nn.Module, level: int) -> list[nn.Module]:
        """A layer that gives a level, then norm and activation."""
        width = self.widths[level]
        norm = group_norm(width) if self.conv else nn.LayerNorm(width)
        return [layer, norm, activation_layer(self.activation)]

    def up(self, level: int) -> nn.Module:
        """From the level below."""
        before, after = self.widths[level - 1 : level + 1]
        if not self.conv:
            return nn.Sequential(*self.finished(nn.Linear(before, after), level))
        layer = halving(before, after, self.sides[level - 1], 4)
        return Maps(*self.finished(layer, level))

    def down(self, level: int, joined: bool = False) -> nn.Module:
        """To the level below; to what the likelihood takes from level 1.

        Args:
            level: The level.
            joined: Whether maps come twice, those of a code beside the path's own.
        """
        before, after = (2 if joined and self.conv else 1) * self.widths[level], level - 1
        width = self.widths[after] * (1 if after else self.each)
        layer: nn.Module = (
            doubling(before, width, self.sides[after], 4)
            if self.conv
            else nn.Linear(before, width)
        )
        layers = self.finished(layer, after) if after else [layer]
        return Maps(*layers) if self.conv else nn.Sequential(*layers)

    def dense(self, inputs: int) -> tuple[list[nn.Module], int]:
        """The hidden layers and how many units the last one has."""
        layers: list[nn.Module] = []
        for units in self.hidden:
            layers += [nn.Linear(inputs, units), nn.LayerNorm(units)]
            layers.append(activation_layer(self.activation))
            inputs = units
        return layers, inputs

    def spread(self, inputs: int, level: int) -> nn.Module:
        """From a vector to a level."""
        size = self.size(level)
        linear = nn.Linear(inputs, math.prod(size))
        if not self.conv:
            return nn.Sequential(*self.finished(linear, level))
        return nn.Sequential(
            linear, nn.Unflatten(-1, size), Maps(*self.finished(nn.Identity(), level))
        )

    def moments(self, level: int, size: int, to: int | None = None) -> nn.Module:
        """From a level to two numbers for each of a code, through the hidden layers.

        Args:
            level: The level.
            size: Of the code.
            to: Maps are first brought to those of this level, by layers of their own.
        """
        layers: list[nn.Module] = []
        if self.conv:
            to = to or level
            layers = [*(self.up(k) for k in range(level + 1, to + 1)), nn.Flatten(-3)]
            level = to
        hidden, units = self.dense(math.prod(self.size(level)))
        return nn.Sequential(*layers, *hidden, nn.Linear(units, 2 * size))

    def seen(self, x: Tensor) -> Tensor:
        """Flat images ``(..., H W C)`` as level 0."""
        return x.unflatten(-1, self.shape).movedim(-1, -3) if self.conv else x

    def flat(self, raw: Tensor) -> Tensor:
        """What the likelihood takes, ``(..., each H W C)``, all first numbers first."""
        if not self.conv:
            return raw
        parts = raw.unflatten(-3, (self.each, self.shape[2]))  # ... x each x C x H x W
        made: Tensor = parts.movedim(-3, -1).flatten(-4)
        return made


class Step(nn.Module):
    """A layer of the trunk: from what is seen, or the level below, to a level.

    Args:
        levels: The levels.
        level: Which.
    """

    def __init__(self, levels: Levels, level: int) -> None:
        super().__init__()
        self.given = ("x" if level == 1 else f"g_{level - 1}",)
        self.levels, self.level, self.net = (levels,), level, levels.up(level)

    def forward(self, **values: Tensor) -> Tensor:
        """Features of the level."""
        (below,) = values.values()
        features: Tensor = self.net(self.levels[0].seen(below) if self.level == 1 else below)
        return features


class Moments(nn.Module):
    """A ladder's network: from a level of the trunk to two numbers for each of a code.

    Args:
        levels: The levels.
        level: Which it reads.
        size: Of the code.
        to: As :meth:`Levels.moments` has it.
    """

    def __init__(self, levels: Levels, level: int, size: int, to: int) -> None:
        super().__init__()
        self.given = (f"g_{level}" if level else "x",)
        self.levels, self.level = (levels,), level
        self.net = levels.moments(level, size, to)

    def forward(self, **values: Tensor) -> Tensor:
        """Moments ``(..., 2 size)`` of the level's features."""
        (features,) = values.values()
        moments: Tensor = self.net(features if self.level else self.levels[0].seen(features))
        return moments


class Faded(nn.Module):
    """A network whose inputs count by the share of its layer.

    Args:
        net: The network.
        fade: The shares, no part of this module.
        layer: The layer.
    """

    def __init__(self, net: nn.Module, fade: FadeIn, layer: int) -> None:
        super().__init__()
        self.net, self.fade, self.layer = net, (fade,), layer

    def forward(self, **values: Tensor) -> Tensor:
        """The network's output."""
        share = self.fade[0](self.layer)
        out: Tensor = self.net(**{name: share * value for name, value in values.items()})
        return out


class Join(nn.Module):
    """A code enters the path at its level, which then goes on to the level below.

    Maps stand beside each other; of vectors the code's are added to the path's, times a learnt
    gate.

    Args:
        levels: The levels.
        level: Which.
        size: Of the code.
        path: Whether there is a path from above; else what is below sees this code alone.
    """

    def __init__(self, levels: Levels, level: int, size: int, path: bool = True) -> None:
        super().__init__()
        self.code = levels.spread(size, level)
        self.down = levels.down(level, joined=path)
        self.path, self.conv = path, levels.conv
        if path and not levels.conv:
            self.gate = nn.Parameter(torch.full(levels.size(level), GATE))

    def forward(self, path: Tensor, z: Tensor, share: Tensor | float = 1.0) -> Tensor:
        """Features of the level below.

        Args:
            path: Features of this level from above.
            z: The code.
            share: Its features count times this.
        """
        features = share * self.code(z)
        if self.path and self.conv:
            shape = torch.broadcast_shapes(path.shape, features.shape)
            features = torch.cat((path.expand(shape), features.expand(shape)), -3)
        elif self.path:
            features = path + self.gate * features
        made: Tensor = self.down(features)
        return made


class Decoder(nn.Module):
    """The path from the top code down to the image; the others enter it on the way.

    Args:
        c: The settings.
        path: Whether a code's level hangs on all codes above it, not on the next one alone.
    """

    def __init__(self, c: LadderConfig, path: bool = True) -> None:
        super().__init__()
        self.sites, levels = c.sites, Levels(c)
        self.levels, top = (levels,), len(c.sites)
        hidden, units = levels.dense(c.latent[-1])
        begin = [*hidden, levels.spread(units, levels.top)]
        self.top = nn.Sequential(*begin, *(levels.down(k) for k in range(levels.top, top, -1)))
        self.joins = nn.ModuleDict(
            {str(k): Join(levels, k + 1, c.latent[k - 1], path) for k in range(top - 1, 0, -1)}
        )
        self.last = levels.down(1)

    def below(
        self, layer: int, path: Tensor | None, z: Tensor, share: Tensor | float = 1.0
    ) -> Tensor:
        """Features of the level of a layer's number, where the next lower code enters.

        Args:
            layer: The layer.
            path: Features of the level above; None at the top.
            z: Its code.
            share: As :class:`Join` has it.
        """
        if path is None:
            begun: Tensor = self.top(z)
            return begun
        made: Tensor = self.joins[str(layer)](path, z, share)
        return made

    def image(self, path: Tensor) -> Tensor:
        """What the likelihood takes, ``(..., each H W C)``, of features of level 1."""
        return self.levels[0].flat(self.last(path))

    def forward(self, fade: FadeIn, codes: Mapping[str, Tensor]) -> Tensor:
        """What the likelihood takes, of all codes by name.

        Args:
            fade: Features of a code count by its layer's share.
            codes: ``z_l`` ``(..., d_l)``.
        """
        path: Tensor | None = None
        for layer in range(len(self.sites), 0, -1):
            path = self.below(layer, path, codes[f"z_{layer}"], fade(layer))
        return self.image(cast(Tensor, path))


def trunk(levels: Levels) -> dict[str, nn.Module]:
    """The shared networks of a guide: ``g_1``, .., from the image up."""
    return {f"g_{level}": Step(levels, level) for level in range(1, levels.top + 1)}
