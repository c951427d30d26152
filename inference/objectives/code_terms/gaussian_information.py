r"""Mutual information of codes as if they were Gaussian, given a label or not: a closed form.

With :math:`\Sigma` the covariance of what is left of the codes once their mean given the label is
taken away, :math:`I(a; b | s) = \frac12 (\log|\Sigma_a| + \log|\Sigma_b| - \log|\Sigma_{ab}|)`;
of two numbers that is :math:`-\frac12 \log(1 - \rho^2)` with their partial correlation
:math:`\rho` (Funke et al. 2022, arXiv 2112.14754, Section 4).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ppl_models.inference.objectives.arithmetic import zero_loss
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.code_terms.independent_codes import group_sizes
from ppl_models.inference.objectives.loss_parts import name_of
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.sites import UnhandledSite


def gaussian_information(
    covariance: Tensor, first: Sequence[int], second: Sequence[int], given: Sequence[int] = ()
) -> Tensor:
    """I(first; second | given) of jointly Gaussian numbers, nats.

    Args:
        covariance: ``(n, n)`` of all numbers.
        first: Places of the one vector.
        second: Of the other.
        given: Of what is known; nothing if empty.

    Returns:
        A scalar, with its gradient.
    """
    a, b, g = list(first), list(second), list(given)
    left = covariance[a + b][:, a + b]
    if g:
        across = covariance[a + b][:, g]
        left = left - across @ torch.linalg.solve(covariance[g][:, g], across.T)
    own, other = left[: len(a), : len(a)], left[len(a) :, len(a) :]
    found: Tensor = 0.5 * (torch.logdet(own) + torch.logdet(other) - torch.logdet(left))
    return found


def residuals(values: Tensor, given: Tensor) -> Tensor:
    """What is left of vectors ``(B, D)`` once their mean given a value is taken away.

    Args:
        values: The vectors.
        given: A label, whole numbers ``(B,)``, whose classes have a mean each; or numbers
            ``(B,)`` or ``(B, E)`` on which the mean depends linearly.
    """
    if given.is_floating_point():
        known = given.reshape(len(given), -1)
        known = torch.cat((torch.ones_like(known[:, :1]), known), 1)
        slopes: Tensor = torch.linalg.lstsq(known, values).solution
        return values - known @ slopes
    same = (given.unsqueeze(1) == given).to(values.dtype)
    return values - same @ values / group_sizes(given).unsqueeze(-1)


class GaussianInformation(Objective):
    r"""A penalty on the mutual information that two codes would have if they were Gaussian.

    Of the covariance of the batch's codes, about their mean given a label, or linear in a
    variable, that is known in its rows; the covariance counts as the same for all classes. A
    batch needs more rows than the codes have numbers and the label classes; one with no more
    rows than numbers counts nothing. Its value is that of the batch, and biased upwards at few
    rows. It counts per row in which the label is known, as a bound does.

    Args:
        first: A code that the guide draws once in each row, a vector or a number.
        second: Another.
        within: A label or a variable of the data; without, nothing is given.
        weight: A number or an :class:`Anneal`.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.
    """

    across_rows = True

    def __init__(
        self,
        first: str,
        second: str,
        within: str = "",
        weight: float | Anneal = 1.0,
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(plate_nesting)
        check_range(f"weight of GaussianInformation({first!r}, {second!r})", weight)
        self.first, self.second, self.within, self.weight = first, second, within, weight

    @property
    def formula(self) -> str:
        """The term as added to a bound."""
        given = f" | {self.within}" if self.within else ""
        return f"-{written(self.weight)} I_Gauss({self.first}; {self.second}{given})"

    @property
    def part_names(self) -> tuple[str, ...]:
        """``gaussian_information``, with its codes and the label."""
        sites = (self.first, self.second, *((self.within,) if self.within else ()))
        return (name_of(self, *sites),)

    def rows(self, run: Evaluation) -> Tensor:
        """The term, the same for every row."""
        weight = value_at(self.weight, self.progress)
        if weight == 0:
            return zero_loss(run)
        if self.within and self.within not in run.batch:
            if self.within in run.drawn.guide.nodes:
                return zero_loss(run)
            raise UnhandledSite(
                f"{self!r} is given {self.within!r}, which is no site of these rows; they have "
                f"{list(run.batch)}"
            )
        own = [run.codes(s).only(type(self).__name__) for s in (self.first, self.second)]
        sizes = [value[0].numel() for value in own]
        codes = run.every_row(torch.cat([v.reshape(len(v), -1) for v in own], 1), 0)
        if len(codes) <= codes.shape[1]:
            return zero_loss(run)
        given = run.every_row(run.batch[self.within], 0) if self.within else None
        left = codes - codes.mean(0) if given is None else residuals(codes, given)
        places = range(sum(sizes))
        information = gaussian_information(
            left.T @ left / len(left), places[: sizes[0]], places[sizes[0] :]
        )
        return (weight * information).expand(run.batch.count)
