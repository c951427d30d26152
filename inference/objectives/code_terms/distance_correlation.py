"""Distance correlation of two latent sites, as a term that keeps them apart."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_models.inference.objectives.arithmetic import zero_loss
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.loss_parts import name_of
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.sites import UnhandledSite


def distance_correlation(first: Tensor, second: Tensor) -> Tensor:
    r"""How much two vectors of the same rows depend on each other, from 0 to 1.

    With :math:`a_{kl} = \|u_k - u_l\|`, A the same less its row and column means and plus its
    overall mean, and B likewise of the other vector:
    :math:`\sqrt{\overline{AB}} / (\overline{AA}\;\overline{BB})^{1/4}` (Szekely et al. 2007,
    Annals of Statistics 35, with their square root). 1 where one is a rotated, scaled and moved
    copy of the other; 0 in the limit of many independent rows, and biased upwards at few. A
    vector that is the same in all rows counts as independent.

    Args:
        first: ``(n, D)``.
        second: ``(n, E)``.

    Returns:
        A scalar. Its gradient is finite also where rows coincide or nothing depends.
    """
    a, b = _centred(first), _centred(second)
    covariance = (a * b).mean()
    variances = a.square().mean() * b.square().mean()
    return _root(covariance) / _root(_root(torch.where(variances > 0, variances, 1.0)))


def _centred(values: Tensor) -> Tensor:
    distance = _root((values.unsqueeze(1) - values.unsqueeze(0)).square().sum(-1))
    row = distance.mean(0)
    return distance - row - row.unsqueeze(-1) + row.mean()


def _root(square: Tensor) -> Tensor:
    # The gradient of a square root at 0 is infinite; here it is 0.
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


class DistanceCorrelation(Objective):
    r"""A penalty on the dependence between two latent sites: their distance correlation.

    Of the draws of the bound beside it, over the rows of the batch (CLSVAE, Eduardo et al. 2022,
    arXiv 2207.08050, whose weights refer to the square root in :func:`distance_correlation`).
    It counts per row of the data set, as a bound does, so that the weight is the paper's beside
    a bound averaged over rows. Labelled and unlabelled rows each have their own. With several
    particles it is the mean of that of each. It looks at rows together: it is no loss of a single
    row.

    Args:
        first: A site that the guide draws in every row, a vector.
        second: Another.
        weight: :math:`\lambda`, a number or an :class:`Anneal`.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Raises:
        ValueError: If an option is out of range.
    """

    across_rows = True

    def __init__(
        self,
        first: str,
        second: str,
        weight: float | Anneal = 1.0,
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(plate_nesting)
        check_range(f"weight of DistanceCorrelation({first!r}, {second!r})", weight, 0)
        self.first, self.second, self.weight = first, second, weight

    @property
    def formula(self) -> str:
        """The term as added to a bound."""
        return f"-{written(self.weight)} dCor({self.first}, {self.second})"

    @property
    def part_names(self) -> tuple[str, ...]:
        """The penalty, with its two sites."""
        return (name_of(self, self.first, self.second),)

    def rows(self, run: Evaluation) -> Tensor:
        """The penalty, the same for every row."""
        weight, count = value_at(self.weight, self.progress), run.batch.count
        if weight == 0:
            return zero_loss(run)
        first, second = (self._draws(run, name) for name in (self.first, self.second))
        draws = max(len(first), len(second))
        pairs = zip(first.expand(draws, -1, -1), second.expand(draws, -1, -1), strict=True)
        found = torch.stack([distance_correlation(u, v) for u, v in pairs]).mean()
        return weight * found.expand(count)

    def _draws(self, run: Evaluation, name: str) -> Tensor:
        codes = run.codes(name)
        if codes.labels or codes.q.event_dim != 1:
            raise UnhandledSite(
                f"site {name!r} has draws of shape {tuple(codes.values.shape)}, expected one "
                "vector per particle and row; DistanceCorrelation takes no site given a missing "
                "label"
            )
        return run.every_row(codes.values, 1)
