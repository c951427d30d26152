"""Distance correlation of two latent sites, as a term that keeps them apart."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ppl_models.inference.objectives.base import Objective, check_choice
from ppl_models.inference.objectives.loss_parts import name_of
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.sites import UnhandledSite, latent_sites
from ppl_models.sample_sites import is_local


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

    Of one draw per row, over the rows of the batch (CLSVAE, Eduardo et al. 2022,
    arXiv 2207.08050, whose weights refer to the square root in :func:`distance_correlation`).
    It counts per row of the data set, as a bound does, so that the weight is the paper's beside
    a bound averaged over rows. Labelled and unlabelled rows each have their own. It looks at
    rows together: it is no loss of a single row, and each of several processes sees its share.

    Args:
        first: A site that the guide draws in every row, a vector.
        second: Another.
        weight: :math:`\lambda`, a number or an :class:`Anneal`.
        kl: ``"analytic"`` beside a bound with its KL terms in closed form; the draws are those
            of a bound with one particle and the same ``kl``.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        first: str,
        second: str,
        weight: float | Anneal = 1.0,
        kl: Literal["sampled", "analytic"] = "sampled",
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(plate_nesting)
        check_range(f"weight of DistanceCorrelation({first!r}, {second!r})", weight, 0)
        check_choice("kl", kl, ("sampled", "analytic"))
        self.first, self.second, self.weight, self.kl = first, second, weight, kl

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
        guide = run.weights(analytic_kl=self.kl == "analytic").guide
        first, second = (self._draw(name, guide, count) for name in (self.first, self.second))
        if weight == 0:
            return first.new_zeros(count)
        return weight * distance_correlation(first, second).expand(count)

    def _draw(self, name: str, guide: Any, count: int) -> Tensor:
        drawn = {n: site for n, site in latent_sites(guide) if is_local(site)}
        if name not in drawn:
            raise UnhandledSite(
                f"DistanceCorrelation needs draws of site {name!r}, which the guide does not "
                f"sample inside the data plate in these rows; it samples {list(drawn)}"
            )
        site = drawn[name]
        value: Tensor = site["value"]
        if site["fn"].event_dim != 1 or value.numel() != count * value.shape[-1]:
            raise UnhandledSite(
                f"site {name!r} has draws of shape {tuple(value.shape)}, expected one vector per "
                f"row, ({count}, D); DistanceCorrelation takes no site given a missing label"
            )
        return value.reshape(count, -1)
