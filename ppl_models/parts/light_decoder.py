r"""A light, almost linear decoder that says what the coordinates of a code are (Guided-VAE).

A deformable principal component analysis (Ding et al. 2020, arXiv 2004.01255, Section 3.2): an
image of a linear basis, :math:`C = \sigma(B z_{2:} + b)`, is turned by an angle that is a line of
:math:`z_1`, then stretched by a line of :math:`z_0`. It has to make the row from the same code as
the pair's decoder, and is done with when the pair is trained.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ppl_models.config import unknown
from ppl_models.inference.objectives.arithmetic import zero_loss
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.schedule import check_range
from ppl_models.inference.objectives.stage import Player
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.likelihoods import LIKELIHOODS

SCALE, TURN, REST = 0, 1, 2  # places of the code
SLOPES = (0.1, 0.5)  # of scale and turn (radians) to begin with, by unit of the code
EDGE = 1e-4  # grey values of the light image keep so far from 0 and 1 in a cross-entropy
# One number for each pixel, of which the light decoder's image is the mean.
COMPARED = ("soft_bernoulli", "bernoulli", "unit_normal")


class LightDecoder(nn.Module):
    """Code to image: a linear basis under a rotation and a scaling.

    Args:
        latent: Size of the code: scale, turn and at least one entry for the basis.
        shape: ``(H, W, C)`` of the image.

    Attributes:
        basis: B, ``(H * W * C, latent - 2)``; a column is a picture.
        offset: b, ``(H * W * C,)``.
        turn: Slope and intercept of the angle, radians.
        stretch: Slopes and intercepts of the scales across and down, ``(2, 2)``.

    Raises:
        ValueError: If the code is too small.
    """

    def __init__(self, latent: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        if latent <= REST:
            raise ValueError(f"latent is {latent}, expected 3 or more: scale, turn and a basis")
        self.shape = tuple(shape)
        self.basis = nn.Parameter(torch.empty(math.prod(shape), latent - REST))
        self.offset = nn.Parameter(torch.empty(math.prod(shape)))
        self.turn = nn.Parameter(torch.empty(2))
        self.stretch = nn.Parameter(torch.empty(2, 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A small basis, and at a code of 0 no turn and a scale of 1.

        Where the slopes begin at 0 the basis learns turns before their coordinate does, and a
        second coordinate keeps them.
        """
        with torch.no_grad():
            bound = 1 / math.sqrt(self.basis.shape[1])
            self.basis.uniform_(-bound, bound)
            self.offset.zero_()
            self.turn.copy_(torch.tensor([SLOPES[1], 0.0]))
            self.stretch.copy_(torch.tensor([[SLOPES[0]] * 2, [1.0, 1.0]]))

    def forward(self, z: Tensor) -> Tensor:
        """Codes ``(..., latent)`` to images ``(..., H * W * C)`` from 0 to 1."""
        content = functional.linear(z[..., REST:], self.basis, self.offset).sigmoid()
        images = content.reshape(-1, *self.shape).permute(0, 3, 1, 2)
        angle = (self.turn[0] * z[..., TURN] + self.turn[1]).reshape(-1)
        across, down = (self.stretch[0] * z[..., SCALE, None] + self.stretch[1]).unbind(-1)
        images = _resampled(images, turned(angle))
        images = _resampled(images, stretched(across.reshape(-1), down.reshape(-1)))
        made: Tensor = images.permute(0, 2, 3, 1).reshape(content.shape).clamp(0, 1)
        return made

    def overlap(self) -> Tensor:
        """The sum of ``|b_j . b_k|`` over pairs of different columns of the basis, both orders."""
        gram = self.basis.T @ self.basis
        return gram.abs().sum() - gram.diagonal().abs().sum()


def turned(angle: Tensor) -> Tensor:
    """Maps ``(n, 2, 3)`` from places of the turned image to those of the image.

    Places run from -1 to 1, to the right and down; at a quarter turn, pi / 2, what was at the
    top comes to stand at the right.

    Args:
        angle: ``(n,)``, radians.
    """
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return torch.stack((cos, sin, zero, -sin, cos, zero), -1).reshape(-1, 2, 3)


def stretched(across: Tensor, down: Tensor) -> Tensor:
    """Maps ``(n, 2, 3)`` under which an image gets as many times smaller; below 0 mirrored."""
    zero = torch.zeros_like(across)
    return torch.stack((across, zero, zero, zero, down, zero), -1).reshape(-1, 2, 3)


def _resampled(images: Tensor, maps: Tensor) -> Tensor:
    """Images ``(n, C, H, W)``, bilinear between pixels' centres, 0 beyond the border."""
    # torch's own affine_grid has no rule for vmap.
    across, down = (
        (2 * torch.arange(side, dtype=images.dtype, device=images.device) + 1) / side - 1
        for side in (images.shape[3], images.shape[2])
    )
    down, across = torch.meshgrid(down, across, indexing="ij")
    places = torch.stack((across, down, torch.ones_like(down)), -1)  # H x W x 3
    grid = torch.einsum("hwk,nik->nhwi", places, maps)
    return functional.grid_sample(images, grid, align_corners=False)


class _Light(Objective):
    def __init__(
        self, light: LightDecoder, likelihood: str, weight: float, plate_nesting: int | None
    ) -> None:
        super().__init__(plate_nesting)
        check_range(f"weight of {type(self).__name__}", weight, 0)
        if likelihood not in COMPARED:
            raise ValueError(unknown("likelihood", likelihood, COMPARED))
        self.light, self.likelihood, self.weight = light, likelihood, weight

    def misfit(self, run: Evaluation, detach: bool) -> Tensor:
        """Minus the log density of each row under its light image ``(B,)``, over the draws."""
        codes = run.codes("z")
        z = codes.values.detach() if detach else codes.values
        made, of = self.light(z), LIKELIHOODS[self.likelihood]  # S x B x D
        raw = made.clamp(EDGE, 1 - EDGE).logit() if "bernoulli" in self.likelihood else made
        return -codes.mean(of(raw).log_prob(run.batch["x"]))


class LightReconstruction(_Light):
    """The pair's side: its codes have to serve the light decoder, which is constant here.

    ``weight * E_q[-log p(x | light(z))]`` per row, with the gradient into the encoder.

    Args:
        light: The decoder; a player trains it, see :func:`light_game`.
        likelihood: As that of the pair's own decoder, one of ``COMPARED``.
        weight: 0.5 in the paper's code.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Raises:
        ValueError: If the weight is below 0, or the likelihood another.
    """

    def __init__(
        self,
        light: LightDecoder,
        likelihood: str = "soft_bernoulli",
        weight: float = 0.5,
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(light, likelihood, weight, plate_nesting)

    @property
    def formula(self) -> str:
        """The term as added to a bound."""
        return f"{self.weight:g} E_q[log p(x | light(z))]"

    def rows(self, run: Evaluation) -> Tensor:
        """The weighted loss of each row."""
        if self.weight == 0:
            return zero_loss(run)
        return self.weight * self.misfit(run, detach=False)


class LightFit(_Light):
    """What the light decoder is trained on, its basis kept orthogonal; codes have no gradient.

    Args:
        light: The decoder.
        likelihood: As of :class:`LightReconstruction`.
        weight: Of :meth:`LightDecoder.overlap`, beside the loss of a row.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Raises:
        ValueError: If the weight is below 0, or the likelihood another.
    """

    def __init__(
        self,
        light: LightDecoder,
        likelihood: str = "soft_bernoulli",
        weight: float = 1 / 64,
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(light, likelihood, weight, plate_nesting)

    @property
    def formula(self) -> str:
        """Minus the loss."""
        return f"E_q[log p(x | light(z))] - {self.weight:g} sum_j!=k |b_j . b_k|"

    @property
    def part_names(self) -> tuple[str, ...]:
        """Its reconstruction and the overlap of its basis."""
        return ("light(x)", "overlap")

    def rows_by_part(self, run: Evaluation) -> dict[str, Tensor]:
        """The loss of each row; the overlap counts once per row."""
        overlap = self.weight * self.light.overlap().expand(run.batch.count)
        return dict(zip(self.part_names, (self.misfit(run, detach=True), overlap), strict=True))


def light_game(
    light: LightDecoder,
    likelihood: str = "soft_bernoulli",
    weight: float = 0.5,
    orthogonality: float = 1 / 64,
    **options: Any,
) -> tuple[LightReconstruction, Player]:
    """A term by which a code serves the light decoder, too, and the light decoder's player.

    The two sides have the same aim. The paper's code adds half the light reconstruction, summed
    over a batch of 128 rows, and the overlap of the basis once. Here a loss counts per row, so
    that beside the whole reconstruction of one row the overlap weighs 1 / 64, whatever the batch
    is. With weight 0 the pair is trained as by the bound alone, bit for bit.

    Args:
        light: The decoder, outside the pair.
        likelihood: As that of the pair's own decoder, one of ``COMPARED``.
        weight: Of its reconstruction on the pair's side.
        orthogonality: Of the overlap of its basis, on its own.
        options: Of :class:`Player`: ``steps``, ``learning_rate``, ...

    Raises:
        ValueError: If a weight is below 0, or the likelihood another.
    """
    term = LightReconstruction(light, likelihood, weight)
    fit = LightFit(light, likelihood, orthogonality)
    return term, Player("light_decoder", fit, light, **options)
