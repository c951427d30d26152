"""Contexts of a set and codes of its elements that are maps, from coarse to fine.

Shapes: B rows, M elements, r the side of maps; maps of elements ``(..., M, B, H, r, r)``, of sets
``(B, H, r, r)`` or, with draws, ``(..., 1, B, H, r, r)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppl_models import elements
from ppl_models.batch import Batch
from ppl_models.guides.pooling import Pool
from ppl_models.image_networks import ResidualBlock

LEAST = 1e-3  # of scales
SMALL = 1e-2  # of weights of priors, which begin near N(0, 1)
UNIT = math.log(math.expm1(1.0))  # whose softplus is 1


class Maps(nn.Module):
    """Layers over maps ``(..., H, r, r)``, whatever stands left of them.

    Args:
        layers: Of maps ``(N, H, r, r)``.
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps to maps."""
        made: Tensor = self.layers(maps.flatten(0, -4)).unflatten(0, maps.shape[:-3])
        return made


def resized(maps: Tensor, height: int, width: int) -> Tensor:
    """Maps of other sides, each pixel that of its nearest one."""
    if maps.shape[-2:] == (height, width):
        return maps
    made: Tensor = F.interpolate(maps.flatten(0, -4), (height, width))
    return made.view(*maps.shape[:-2], height, width)


def convolution(inputs: int, outputs: int) -> Maps:
    """Sums over maps, pixel by pixel."""
    return Maps(nn.Conv2d(inputs, outputs, 1))


def block(hidden: int, side: int) -> ResidualBlock:
    """A residual block of maps of a side."""
    return ResidualBlock(hidden, kernel=_kernel(side))


def moments(inputs: int, hidden: int, outputs: int, side: int, small: float = 1.0) -> Maps:
    """A layer over neighbours and one over maps, whose weights at first are so much smaller."""
    last = nn.Conv2d(hidden, outputs, 1)
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.mul_(small)
    kernel = _kernel(side)
    first = nn.Conv2d(inputs, hidden, kernel, padding=kernel // 2)
    return Maps(first, nn.SiLU(), last)


def _kernel(side: int) -> int:
    # Entries of a kernel that meet padding alone have gradients that torch 2.13 leaves unwritten.
    return 1 if side == 1 else 3


def normal(raw: Tensor) -> dist.TorchDistribution:
    """Normals of maps, of moments ``(..., 2 size, r, r)``; of zeros N(0, 1)."""
    loc, spread = raw.chunk(2, -3)
    scale = LEAST + (1 - LEAST) * F.softplus(spread + UNIT)
    return dist.Normal(loc, scale).to_event(3)


class Step(nn.Module):
    """The story of one context and one code of each element, and how they change the paths.

    Args:
        side: Side of the maps.
        hidden: Maps H of the paths.
        context: Maps of a context; 0 for no contexts.
        latent: Maps of a code.
    """

    def __init__(self, side: int, hidden: int, context: int, latent: int) -> None:
        super().__init__()
        self.side, self.sizes = side, (2 * context, 2 * latent)
        self.z_prior = moments(hidden, hidden, 2 * latent + hidden, side, small=SMALL)
        self.z_in, self.z_block = convolution(latent, hidden), Maps(block(hidden, side))
        if context:
            self.c_prior = moments(hidden, hidden, 2 * context + hidden, side, small=SMALL)
            self.c_in, self.c_block = convolution(context, hidden), Maps(block(hidden, side))
            self.c_to_z = convolution(hidden, hidden)


class GuideStep(nn.Module):
    """The guide of the same context and codes, given features of the elements.

    Args:
        side: Side of the maps.
        hidden: Maps H of paths and features.
        context: Maps of a context; 0 for no contexts.
        latent: Maps of a code.
        pool: As :class:`ppl_models.guides.Pool` has it.
        heads: Likewise.
    """

    def __init__(
        self, side: int, hidden: int, context: int, latent: int, pool: str, heads: int
    ) -> None:
        super().__init__()
        self.z = moments(2 * hidden, hidden, 2 * latent, side)
        if context:
            self.z_to_c = convolution(hidden, hidden)
            self.pool = Pool(pool, hidden, heads)
            self.c = moments(self.pool.size, hidden, 2 * context, side)

    def context(self, c: Tensor, z: Tensor, h: Tensor, there: Tensor) -> Tensor:
        """Moments of the context, whatever the order of the elements."""
        seen = (c + h + self.z_to_c(z)).movedim(-3, -1)
        out: Tensor = self.c(self.pool(seen, there, within=2).movedim(-1, -3))
        return out

    def code(self, state: Tensor, h: Tensor) -> Tensor:
        """Moments of the codes."""
        out: Tensor = self.z(torch.cat(torch.broadcast_tensors(state, h), -3))
        return out


class MapLadder(nn.Module):
    """The sites c_L, z_L, c_L-1, ..., z_1 of the story, whose maps grow from step to step.

    The prior of a context hangs on the contexts above it alone.

    Args:
        sides: Side of the maps of each step, from the top down.
        hidden: Maps H of the paths.
        context: Maps of a context; 0 for no contexts.
        latent: Maps of a code.
    """

    def __init__(self, sides: Sequence[int], hidden: int, context: int, latent: int) -> None:
        super().__init__()
        self.z_start = nn.Parameter(torch.randn(hidden, 1, 1))
        steps = [Step(side, hidden, context, latent) for side in sides]
        self.steps: Sequence[Step] = nn.ModuleList(steps)  # type: ignore[assignment]
        self.contexts = context > 0
        if self.contexts:
            self.c_start = nn.Parameter(torch.randn(hidden, 1, 1))
            self.last = convolution(hidden, hidden)

    def forward(
        self,
        there: Tensor,
        element: elements.plate,
        guides: Sequence[GuideStep] = (),
        features: Sequence[Tensor] = (),
    ) -> Tensor:
        """Sample within the rows' plate.

        Args:
            there: Which elements there are ``(B, M)``.
            element: The plate of the elements.
            guides: Of each step, where the guide samples.
            features: Of the elements, ``(M, B, H, r, r)`` for each step.

        Returns:
            What the elements are made of, ``(..., M, B, H, r, r)``.
        """
        size = len(self.z_start)
        z = self.z_start.expand(there.shape[1], len(there), size, 1, 1)
        c = self.c_start.expand(len(there), size, 1, 1) if self.contexts else None
        for place, step in enumerate(self.steps):
            layer = len(self.steps) - place
            state = z = resized(z, step.side, step.side)
            if c is not None:
                c = resized(c, step.side, step.side)
                raw, rest = step.c_prior(c).split((step.sizes[0], size), -3)
                if guides:
                    raw = guides[place].context(c, z, features[place], there)
                c = step.c_block(c + rest + step.c_in(pyro.sample(f"c_{layer}", normal(raw))))
                state = z + step.c_to_z(c)
            raw, rest = step.z_prior(state).split((step.sizes[1], size), -3)
            if guides:
                raw = guides[place].code(state, features[place])
            with element:
                drawn = pyro.sample(f"z_{layer}", normal(raw))
            z = step.z_block(z + rest + step.z_in(drawn))
        return z if c is None else z + self.last(c)


class MapGuide(nn.Module):
    """The same sites, given the elements; its paths are those of the story.

    Args:
        story: The story's ladder, no part of this module.
        shape: ``(H, W, C)`` of an element.
        hidden: Maps of paths and features.
        context: Maps of a context; 0 for no contexts.
        latent: Maps of a code.
        pool: As :class:`ppl_models.guides.Pool` has it.
        heads: Likewise.
        most: Elements of a row of which nothing is known.
    """

    def __init__(
        self, story: MapLadder, shape: Sequence[int], hidden: int, context: int, latent: int,
        pool: str, heads: int, most: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.story, self.shape, self.most = (story,), tuple(shape), most
        sides = [step.side for step in story.steps]
        steps = [GuideStep(side, hidden, context, latent, pool, heads) for side in sides]
        self.steps: Sequence[GuideStep] = nn.ModuleList(steps)  # type: ignore[assignment]
        self.sides = sorted(set(sides), reverse=True)
        kernel = _kernel(min(shape[:2]))
        first = nn.Conv2d(shape[2], hidden, kernel, padding=kernel // 2)
        self.first = Maps(first, nn.SiLU())
        self.blocks = nn.ModuleList(
            Maps(nn.AdaptiveAvgPool2d(side), block(hidden, side)) for side in self.sides
        )

    def forward(self, batch: Batch) -> None:
        """Sample contexts and codes."""
        there = elements.present(batch, "x", self.most, batch.count)
        x = elements.inside(elements.filled(batch["x"], there))  # M x B x D
        maps, seen = self.first(x.unflatten(-1, self.shape).movedim(-1, -3)), {}
        for side, block in zip(self.sides, self.blocks, strict=True):
            seen[side] = maps = block(maps)
        (story,) = self.story
        features = [seen[step.side] for step in story.steps]
        with batch.plate():
            story(there, elements.plate("element", there), list(self.steps), features)


class ElementDecoder(nn.Module):
    """Elements of maps, as vectors.

    Args:
        shape: ``(H, W, C)`` of an element.
        side: Side of the maps that they are made of.
        hidden: Number of these maps.
        each: Numbers for each entry: a likelihood's ``outputs``.
    """

    def __init__(self, shape: Sequence[int], side: int, hidden: int, each: int) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.block = Maps(block(hidden, side))
        self.net = moments(hidden, hidden, each * shape[2], min(shape[:2]))

    def forward(self, maps: Tensor) -> Tensor:
        """``(..., H, r, r)`` to ``(..., each D)``, first numbers of all entries first."""
        out = self.net(resized(self.block(maps), *self.shape[:2]))
        out = out.unflatten(-3, (-1, self.shape[2]))  # ... x each x C x H x W
        made: Tensor = out.movedim(-3, -1).flatten(-4)
        return made
