r"""The total correlation of codes, by a critic that sees them with their dimensions permuted.

Each dimension of a batch of codes in an order of its own has the product of the marginals for its
distribution; a critic that tells codes from such rows is at its best
:math:`\log q(z) - \sum_j \log q(z_j)`, whose mean is the total correlation (FactorVAE, Kim and
Mnih 2018, arXiv 1802.05983).
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional

from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.density_ratio import (
    DensityRatio,
    Encoded,
    logistic_loss,
    logits_of,
)
from ppl_models.inference.objectives.schedule import Anneal
from ppl_models.inference.objectives.stage import Player
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.sites import UnhandledSite


def permuted(values: Tensor, noise: Tensor) -> Tensor:
    """Each column in the order of its own noise.

    Args:
        values: ``(B, D)``.
        noise: ``(B, D)``, independent and of one continuous distribution: every order of a
            column is then equally likely, whatever those of the others are.
    """
    return values.gather(0, noise.argsort(dim=0, stable=True))


def row_noise(run: Evaluation, size: int, like: Tensor) -> Tensor:
    """Uniform noise ``(B, size)`` of all rows of the step's batch.

    It is drawn as a site inside the data plate is: a run over several processes sees the noise
    that one process would have seen, and all of them the noise of all rows.

    Args:
        run: The run.
        size: Numbers per row.
        like: Gives device and floating type.
    """
    zeros = like.new_zeros(run.batch.count, size)
    with torch.no_grad(), run.batch.plate():
        noise = pyro.sample("_noise", dist.Uniform(zeros, zeros + 1).to_event(1))
    return run.every_row(noise, 0)


class PermutedCritic(Objective):
    """What the critic of :func:`permuted_codes` is trained on.

    Args:
        critic: The network: ``(B, D)`` to one number per row.
        site: A site that the guide draws once in each row, a vector.
        halves: Show it the codes of one half of the batch, and permute those of the other, so
            that the two kinds are independent, as in the paper; else all rows serve as both.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.
    """

    across_rows = True

    def __init__(
        self, critic: nn.Module, site: str, halves: bool = True, plate_nesting: int | None = None
    ) -> None:
        super().__init__(plate_nesting)
        self.critic, self.site, self.halves = critic, site, halves

    @property
    def formula(self) -> str:
        """The mean log probability that it gives to the right kind."""
        return f"1/2 log sigmoid D({self.site}) + 1/2 log sigmoid -D(permuted {self.site})"

    @property
    def part_names(self) -> tuple[str, ...]:
        """``logistic``: its loss."""
        return ("logistic",)

    def rows(self, run: Evaluation) -> Tensor:
        """The loss at each row's points; that of a half counts for all rows."""
        own = run.codes(self.site).only("permuted_codes").detach()
        if own.dim() != 2:
            raise UnhandledSite(
                f"site {self.site!r} has draws of shape {tuple(own.shape)}, expected one vector "
                "per row for permuted_codes"
            )
        codes = run.every_row(own, 0)
        noise = row_noise(run, codes.shape[1], codes)
        start, count, rows = run.first_row, run.batch.count, len(codes)
        if not self.halves or rows < 2:
            other = permuted(codes, noise)[start : start + count]
            first, second = (logits_of(self.critic, (points,)) for points in (own, other))
            return 0.5 * logistic_loss(first, second)
        half = rows // 2
        points = torch.cat([codes[:half], permuted(codes[half:], noise[half:])])
        first = torch.arange(start, start + count, device=codes.device) < half
        found = logits_of(self.critic, (points[start : start + count],))
        loss = functional.softplus(torch.where(first, -found, found))
        weight = torch.where(first, rows / (2 * half), rows / (2 * (rows - half)))
        return weight.to(loss.dtype) * loss


def permuted_codes(
    critic: nn.Module,
    site: str,
    weight: float | Anneal = 1.0,
    halves: bool = True,
    name: str = "critic",
    **options: Any,
) -> tuple[DensityRatio, Player]:
    r"""A term that makes the total correlation of a code small, and the critic's player.

    Beside a bound, ``Stage(ELBO() + term, players=(player,))``, is FactorVAE. With weight 0 the
    pair is trained as by the bound alone, bit for bit.

    Args:
        critic: The network: ``(B, D)`` to one number per row, without BatchNorm or dropout.
        site: A site that the guide draws once in each row, a vector.
        weight: :math:`\gamma`, a number or an :class:`Anneal`.
        halves: As in :class:`PermutedCritic`.
        name: Of the player.
        options: Of :class:`Player`: ``steps``, ``learning_rate``, ``betas``, ...
    """
    player = Player(name, PermutedCritic(critic, site, halves), critic, **options)
    return DensityRatio(critic, Encoded(site), weight), player
