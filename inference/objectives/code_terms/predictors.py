r"""How well each dimension of a code can be told from the others, by an ensemble of networks.

The predictors are trained to tell :math:`z_i` from all other dimensions; the pair is trained so
that they fail, by a small covariance between :math:`z_i` and its prediction. At the best
predictor, the conditional mean, that covariance is its variance, 0 only where it is constant
(NashAE, Yeats et al. 2022, arXiv 2209.10677).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ppl_models.config import at_least
from ppl_models.inference.objectives.arithmetic import zero_loss
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.loss_parts import name_of
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.objectives.stage import Player
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.sites import UnhandledSite


class Predictors(nn.Module):
    """One small network per dimension of a code, which sees all dimensions but that one.

    Its own dimension is 0 in a network's input. All of them run at once, on stacked weights.

    Args:
        size: Dimensions D of the code.
        hidden: Widths of the hidden layers, with SELU between them.

    Raises:
        ValueError: If there are fewer than two dimensions.
    """

    seen: Tensor

    def __init__(self, size: int, hidden: tuple[int, ...] = (40, 40)) -> None:
        super().__init__()
        at_least(size=(size, 2))
        self.size, self.hidden = size, hidden
        widths = (size, *hidden, 1)
        self.weights = nn.ParameterList(
            torch.empty(size, before, after) for before, after in itertools.pairwise(widths)
        )
        self.biases = nn.ParameterList(torch.empty(size, 1, after) for after in widths[1:])
        self.register_buffer("seen", 1 - torch.eye(size).unsqueeze(1), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal weights of variance 1 over the number of inputs, biases of 0."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            nn.init.normal_(weight, std=1 / math.sqrt(weight.shape[1]))
            nn.init.zeros_(bias)

    def forward(self, codes: Tensor) -> Tensor:
        """Each dimension as told from the others.

        Args:
            codes: ``(B, D)``.

        Returns:
            ``(B, D)``.
        """
        if codes.shape[-1] != self.size:
            raise ValueError(
                f"Predictors({self.size}) get codes of shape {tuple(codes.shape)}, expected "
                f"(..., {self.size})"
            )
        value = codes * self.seen  # (D, B, D)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            value = torch.baddbmm(bias, functional.selu(value) if layer else value, weight)
        return value.squeeze(-1).T


class PredictionError(Objective):
    """What the predictors are trained on: half their mean squared error over the dimensions.

    Args:
        predictors: The networks, ``(B, D)`` to ``(B, D)``.
        site: A site that the guide draws once in each row, a vector; it carries no gradient.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.
    """

    def __init__(self, predictors: nn.Module, site: str, plate_nesting: int | None = None) -> None:
        super().__init__(plate_nesting)
        self.predictors, self.site = predictors, site

    @property
    def formula(self) -> str:
        """Minus the error."""
        return f"-1/2 ({self.site} - predicted)^2 per dimension"

    def rows(self, run: Evaluation) -> Tensor:
        """The error of each row."""
        codes = _codes(run, self.site, self.predictors).detach()
        told: Tensor = self.predictors(codes)
        return 0.5 * (told - codes).square().mean(-1)


class Predictability(Objective):
    r"""How well the predictors do: :math:`\lambda \sum_i Cov(z_i, \hat z_i)`, made small.

    Over the rows of the batch, and the same for each of them. What is predicted carries no
    gradient, only what it is predicted from: each dimension is asked not to tell of the others.

    Args:
        predictors: The networks; a player trains them, see :func:`predictors_of`.
        site: A site that the guide draws once in each row, a vector.
        weight: :math:`\lambda`, a number or an :class:`Anneal`.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Raises:
        ValueError: If the weight is below 0.
    """

    across_rows = True

    def __init__(
        self,
        predictors: nn.Module,
        site: str,
        weight: float | Anneal = 1.0,
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(plate_nesting)
        check_range(f"weight of Predictability({site!r})", weight, 0)
        self.predictors, self.site, self.weight = predictors, site, weight

    @property
    def formula(self) -> str:
        """The term as added to a bound."""
        return f"-{written(self.weight)} Cov({self.site}, predicted)"

    @property
    def part_names(self) -> tuple[str, ...]:
        """The term, with its site."""
        return (name_of(self, self.site),)

    def rows(self, run: Evaluation) -> Tensor:
        """The covariance, the same for every row."""
        weight, count = value_at(self.weight, self.progress), run.batch.count
        if weight == 0:
            return zero_loss(run)
        codes = _codes(run, self.site, self.predictors)
        told = run.every_row(self.predictors(codes), 0)
        truth = run.every_row(codes.detach(), 0)
        covariance = ((truth - truth.mean(0)) * told).mean(0).sum()
        return weight * covariance.expand(count)


def predictors_of(
    predictors: nn.Module,
    site: str,
    weight: float | Anneal = 1.0,
    name: str = "predictors",
    **options: Any,
) -> tuple[Predictability, Player]:
    """A term that makes the dimensions of a code hard to tell from each other, and its player.

    Args:
        predictors: The networks, such as :class:`Predictors`.
        site: A site that the guide draws once in each row, a vector.
        weight: Of the term, a number or an :class:`Anneal`.
        name: Of the player.
        options: Of :class:`Player`: ``steps`` (NashAE takes 5), ``learning_rate``, ...
    """
    player = Player(name, PredictionError(predictors, site), predictors, **options)
    return Predictability(predictors, site, weight), player


def _codes(run: Evaluation, site: str, predictors: nn.Module) -> Tensor:
    codes = run.codes(site).only(type(predictors).__name__)
    if codes.dim() != 2:
        raise UnhandledSite(
            f"site {site!r} has draws of shape {tuple(codes.shape)}, expected one vector per row "
            f"for {type(predictors).__name__}"
        )
    return codes
