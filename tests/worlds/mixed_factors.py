"""Generators whose factors drive pixels of their own, or orthogonally, and encoders that mix them.

Those of Leemann et al. 2023 (arXiv 2206.13872) and vectors made alike, in double precision. An
ideal encoder inverts a generator up to a mixing and has no gradient outside the generator's span.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

Generator = Callable[[Tensor], Tensor]  # factors (..., K) to rows (..., *shape)
PIXELS, COUNT = 48, 4


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def disjoint(z: Tensor) -> Tensor:
    """48 numbers, of which each of four factors bends 12 of its own."""
    steepness = 0.5 + 0.2 * torch.arange(COUNT, dtype=z.dtype)
    shift = torch.arange(12, dtype=z.dtype) / 4 - 1
    return torch.tanh((z * steepness).unsqueeze(-1) + shift).flatten(-2)


@functools.cache
def frame() -> Tensor:
    """Four orthonormal directions ``(48, 4)``."""
    return torch.linalg.qr(torch.randn(PIXELS, COUNT, generator=seeded(0), dtype=torch.float64)).Q


def orthogonal(z: Tensor) -> Tensor:
    """48 numbers, along four orthonormal directions at speeds of their own."""
    one, two, three, four = z.unbind(-1)
    speeds = (
        (one / 2).exp(),
        two + 0.1 * two**3,
        1.5 * (0.6 * three).sin() + 0.4 * three,
        2 * four,
    )
    return torch.stack(speeds, -1) @ frame().T


def rotated(z: Tensor) -> Tensor:
    """The same at constant speeds, of which orthogonality tells nothing."""
    return z @ frame().T


def four_bars(z: Tensor) -> Tensor:
    """Images 8 x 8 x 3 of values 0.5 to 10: three bars' grey levels and the place of a fourth.

    Args:
        z: ``(..., 4)``, from 0 to 1.
    """
    rows = torch.arange(8, dtype=z.dtype)
    grey = 0.5 + 9.5 * z[..., :3]
    column = torch.full((*z.shape[:-1], 8), 0.5, dtype=z.dtype)
    for k, bar in enumerate((slice(0, 2), slice(3, 5), slice(6, 8))):
        here = torch.zeros(8, dtype=z.dtype)
        here[bar] = 1.0
        column = column + here * (grey[..., k : k + 1] - 0.5)
    top = 6 * z[..., 3:]
    covered = (torch.minimum(rows + 1, top + 2) - torch.maximum(rows, top)).clamp(0, 1)
    left, right = torch.zeros(8, dtype=z.dtype), torch.zeros(8, dtype=z.dtype)
    left[:4], right[5:7] = 1.0, 1.0
    image = 0.5 + (column - 0.5).unsqueeze(-1) * left + (9.5 * covered).unsqueeze(-1) * right
    return image.unsqueeze(-1).expand(*image.shape, 3)


def colour_bar(z: Tensor, warped: bool = True) -> Tensor:
    """Images 8 x 8 x 3 of a bar on white: its colour, its width and its place.

    The colour is taken from white, on a quarter of a circle of red and blue. Where the bar moves
    by parts of a pixel its first and last rows have cosine and sine for shares: so all gradients
    are orthogonal, and they overlap. Without the warp the speed of the colour is constant, and
    colour and place have the same ratios of gradients everywhere.

    Args:
        z: ``(..., 3)``, from 0 to 1.
        warped: Whether the colour moves at a speed that changes.
    """
    tone, width, place = z.unbind(-1)
    angle = math.pi / 2 * ((tone.exp() - 1) / (math.e - 1) if warped else tone)
    paint = torch.stack([angle.cos(), torch.zeros_like(angle), angle.sin()], -1)
    cells = torch.arange(8, dtype=z.dtype)
    across = ((1 + 5 * width).unsqueeze(-1) - cells).clamp(0, 1)
    top = (5 * place).unsqueeze(-1)
    whole = top.detach().floor()
    turn = math.pi / 2 * (top - whole)
    down = (cells == whole) * turn.cos() + (cells == whole + 1) + (cells == whole + 2) * turn.sin()
    bar = down.unsqueeze(-1) * across.unsqueeze(-2)
    return 1 - bar.unsqueeze(-1) * paint[..., None, None, :]


def normal_factors(rows: int, correlation: float, seed: int) -> Tensor:
    """Factors ``(rows, 4)`` of unit variance, each two of them correlated alike."""
    covariance = torch.full((COUNT, COUNT), correlation, dtype=torch.float64)
    lower = torch.linalg.cholesky(covariance.fill_diagonal_(1.0))
    return torch.randn(rows, COUNT, generator=seeded(seed), dtype=torch.float64) @ lower.T


def level_factors(rows: int, count: int, correlation: float, seed: int) -> Tensor:
    """Factors ``(rows, count)`` from 0 to 1, uniform each, of a Gaussian copula."""
    covariance = torch.full((count, count), correlation, dtype=torch.float64)
    lower = torch.linalg.cholesky(covariance.fill_diagonal_(1.0))
    drawn = torch.randn(rows, count, generator=seeded(seed), dtype=torch.float64) @ lower.T
    return torch.special.ndtr(drawn)


def mixing(seed: int, count: int = COUNT) -> Tensor:
    """M ``(count, count)`` with columns of length 1, and not nearly singular."""
    generator = seeded(seed)
    while True:
        drawn = torch.randn(count, count, generator=generator, dtype=torch.float64)
        drawn = drawn / drawn.norm(dim=0)
        spread = torch.linalg.svdvals(drawn)
        if spread[-1] > 0.15 * spread[0]:
            return drawn


def generator_jacobian(generate: Generator, z: Tensor) -> Tensor:
    """Derivatives ``(N, P, K)`` of the pixels by the factors."""
    found: Tensor = torch.func.vmap(torch.func.jacfwd(generate))(z)
    return found.flatten(1, -2)


def ideal_encoder(generate: Generator, z: Tensor, mixed: Tensor) -> Callable[[Tensor], Tensor]:
    """M times the factors of the nearest of some rows, with the generator's inverse as gradient.

    Args:
        generate: The generator.
        z: Factors of the known rows ``(N, K)``.
        mixed: M ``(K, K)``.
    """
    known = generate(z).flatten(1)
    inverse = torch.linalg.pinv(generator_jacobian(generate, z))

    def encode(x: Tensor) -> Tensor:
        flat = x.flatten(1)
        near = torch.cdist(flat.detach(), known).argmin(1)
        step = (inverse[near] @ (flat - known[near]).unsqueeze(-1)).squeeze(-1)
        return (z[near] + step) @ mixed.T

    return encode
