r"""How far a code's support is from a product of intervals: Hausdorff factorised support.

Where factors are correlated, codes that are independent are the wrong ones; but every value of
one factor is still *possible* beside every value of another. So not the distribution of the codes
is asked to factorise, only its support (Roth et al. 2023, arXiv 2210.07347).
"""

from __future__ import annotations

from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_models.config import at_least
from ppl_models.inference.objectives.arithmetic import zero_loss
from ppl_models.inference.objectives.base import Objective, check_choice
from ppl_models.inference.objectives.loss_parts import name_of
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.nesting import without_plates
from ppl_models.inference.traces.sites import UnhandledSite

Scale = Literal["variance", "minimal_support"]
SCALES = ("variance", "minimal_support")
AT_ONCE = 1 << 16  # distances that stay in a processor's cache
ROUNDING = 1e-6  # in the square root of a variance, as in the paper's code


def support_distance(means: Tensor, pairs: Tensor, points: Tensor | None = None) -> Tensor:
    r"""The squared Hausdorff distance of codes in two dimensions from all their combinations.

    :math:`h_{ij} = \max_{a, b} \min_s (m_{ai} - m_{si})^2 + (m_{bj} - m_{sj})^2`: the point of the
    product of both marginals that is furthest from any row (Section 3.2; the other direction is
    0, as each row is a point of the product). Which rows a, b and s these are is looked for
    without gradient; the gradient is that of the distance between them.

    Args:
        means: ``(B, D)``.
        pairs: Places i and j of the dimensions, ``(P, 2)``.
        points: Rows a and b of the points of the product that are looked at, ``(P, K, 2)``; by
            default all ``B^2``. The cost is then P B^3, else P K B.

    Returns:
        ``(P,)``, in the squared unit of the codes.
    """
    first, second = means.T[pairs[:, 0]], means.T[pairs[:, 1]]  # P x B
    with torch.no_grad():
        if points is None:
            a, b = _furthest_of_all(first, second)
        else:
            a, b = _furthest_of(first, second, points)
    away = (first.gather(1, a) - first).square() + (second.gather(1, b) - second).square()
    return away.amin(1)


def _furthest_of_all(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``(P, 1)`` whose combination is furthest from all rows, in each pair."""
    rows = first.shape[1]
    found = []
    for f, s in zip(*(t.split(max(1, AT_ONCE // rows**2)) for t in (first, second)), strict=True):
        across, down = ((t.unsqueeze(1) - t.unsqueeze(2)).square() for t in (f, s))  # P x B x B
        nearest = across[:, 0, :, None] + down[:, 0, None]  # P x a x b, at the first row
        for row in range(1, rows):
            nearest = torch.minimum(nearest, across[:, row, :, None] + down[:, row, None])
        found.append(nearest.flatten(1).argmax(1, keepdim=True))
    place = torch.cat(found)
    return place // rows, place % rows


def _furthest_of(first: Tensor, second: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """The same of the points ``(P, K, 2)`` alone."""
    a, b = points.unbind(-1)
    away = (first.gather(1, a).unsqueeze(2) - first.unsqueeze(1)).square()
    away = away + (second.gather(1, b).unsqueeze(2) - second.unsqueeze(1)).square()  # P x K x B
    place = away.amin(2).argmax(1, keepdim=True)
    return a.gather(1, place), b.gather(1, place)


def support_shortfall(means: Tensor, kind: Scale = "variance") -> Tensor:
    r"""By how much codes are too small to fill their space, summed over their dimensions.

    ``"variance"``: :math:`\sum_j \max(0, 1 - s_j)`, with the deviation :math:`s_j` over the rows.
    ``"minimal_support"``: :math:`\sum_j \max(0, 1 - \max_b m_{bj}) + \max(0, \min_b m_{bj})`, by
    which each dimension reaches from 0 to 1. Both over the rows, which is what they are for; the
    paper's code has the maximum, minimum and variance over the dimensions of a row.

    Args:
        means: ``(B, D)``.
        kind: Which of the two.
    """
    if kind == "variance":
        missing = 1 - (means.var(0, correction=1) + ROUNDING).sqrt() if len(means) > 1 else 1.0
        return (missing + torch.zeros_like(means[0])).clamp_min(0).sum()
    least, most = means.amin(0), means.amax(0)
    return ((1 - most).clamp_min(0) + least.clamp_min(0)).sum()


def code_means(run: Evaluation, site: str) -> Tensor:
    """The mean of each row's code ``(B, D)``, of all rows of the batch.

    A missing label that the code is given is averaged over, as are draws that it is given.

    Args:
        run: The run.
        site: A site of the guide in every row, a vector of at least two numbers.

    Raises:
        UnhandledSite: If it is none, or has no mean.
    """
    codes = run.codes(site)
    q = codes.q
    if q.event_dim != 1 or q.event_shape[0] < 2 or not q.has_rsample:
        raise UnhandledSite(
            f"site {site!r} is {type(q).__name__} in the guide with event shape "
            f"{tuple(q.event_shape)}, expected a vector of at least two real numbers"
        )
    try:
        mean = without_plates(q.mean, codes.nesting, 1)
    except (NotImplementedError, AttributeError):
        raise UnhandledSite(
            f"site {site!r} is {type(q).__name__} in the guide, which tells no mean, expected a "
            "distribution that does, such as guides.Normal"
        ) from None
    mean = mean.expand((*codes.shape, mean.shape[-1])).reshape(codes.values.shape)
    return run.every_row(codes.mean(mean), 0)


class HausdorffSupport(Objective):
    r"""A penalty on combinations of code values that no row of the batch comes near.

    :math:`\sum_{(i, j)} h_{ij}` of :func:`support_distance`, over pairs of dimensions that are
    drawn anew in each step, of the means of the rows' codes: draws would fill the gaps with noise
    (Roth et al. 2023, arXiv 2210.07347, ``hausdorff_hard``). The sum is not divided by the number
    of pairs, and the term counts per row of the data set, as a bound does, so that the weight is
    the paper's beside a bound averaged over rows. Labelled and unlabelled rows each have their
    own. A code that does not vary has none, so that alone it also rewards codes that shrink or
    die: see :class:`SupportScale`.

    Args:
        site: A site of the guide in every row, a vector.
        weight: :math:`\gamma`, a number or an :class:`Anneal`.
        pairs: Pairs of dimensions per step, without repetition; all where there are no more.
        points: Points of the product that are looked at for each pair, drawn anew; 0 for all
            combinations of two rows, whose cost grows with the cube of the batch: 25 pairs of 64
            rows take 4 ms, of 256 rows 0.3 s.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Raises:
        ValueError: If an option is out of range.
    """

    across_rows = True

    def __init__(
        self,
        site: str,
        weight: float | Anneal = 1.0,
        pairs: int = 25,
        points: int = 0,
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(plate_nesting)
        check_range(f"weight of HausdorffSupport({site!r})", weight, 0)
        at_least(pairs=(pairs, 1), points=(points, 0))
        self.site, self.weight, self.pairs, self.points = site, weight, pairs, points

    @property
    def formula(self) -> str:
        """The term as added to a bound."""
        z, few = self.site, f" at {self.points} points" if self.points else ""
        return (
            f"-{written(self.weight)} sum of {self.pairs} pairs i, j of "
            f"d(supp {z}_i x supp {z}_j, supp {z}_ij)^2{few}"
        )

    @property
    def draws(self) -> bool:
        """It draws numbers of its own, beside the guide's: which pairs are taken."""
        return True

    def rows(self, run: Evaluation) -> Tensor:
        """The penalty, the same for every row."""
        weight, count = value_at(self.weight, self.progress), run.batch.count
        if weight == 0:
            return zero_loss(run)
        means = code_means(run, self.site)
        rows, size = means.shape
        pairs = torch.triu_indices(size, size, 1, device=means.device).T
        if len(pairs) > self.pairs:
            pairs = pairs[_uniform(len(pairs), means).argsort(stable=True)[: self.pairs]]
        points = None
        if self.points:
            share = _uniform(len(pairs) * self.points * 2, means)
            points = (share * rows).long().clamp_max(rows - 1).reshape(-1, self.points, 2)
        return weight * support_distance(means, pairs, points).sum().expand(count)


class SupportScale(Objective):
    r"""Holds codes at a size of about one: :func:`support_shortfall`, made small.

    Beside :class:`HausdorffSupport`, which the smallest codes make smallest (Roth et al. 2023,
    arXiv 2210.07347, scale term of the code). Of the means of the rows' codes, over the rows of
    the batch; it counts per row of the data set, as a bound does.

    Args:
        site: A site of the guide in every row, a vector.
        weight: :math:`\delta`, a number or an :class:`Anneal`.
        kind: ``"variance"``, a deviation of at least 1, or ``"minimal_support"``, from 0 to 1.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Raises:
        ValueError: If an option is out of range.
    """

    across_rows = True

    def __init__(
        self,
        site: str,
        weight: float | Anneal = 1.0,
        kind: Scale = "variance",
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(plate_nesting)
        check_range(f"weight of SupportScale({site!r})", weight, 0)
        check_choice("kind", kind, SCALES)
        self.site, self.weight, self.kind = site, weight, kind

    @property
    def formula(self) -> str:
        """The term as added to a bound."""
        z = self.site
        short = {
            "variance": f"sum_j max(0, 1 - std {z}_j)",
            "minimal_support": f"sum_j max(0, 1 - max {z}_j) + max(0, min {z}_j)",
        }
        return f"-{written(self.weight)} [{short[self.kind]}]"

    @property
    def part_names(self) -> tuple[str, ...]:
        """The term, with its site."""
        return (name_of(self, self.site),)

    def rows(self, run: Evaluation) -> Tensor:
        """The penalty, the same for every row."""
        weight = value_at(self.weight, self.progress)
        if weight == 0:
            return zero_loss(run)
        short = support_shortfall(code_means(run, self.site), self.kind)
        return weight * short.expand(run.batch.count)


def _uniform(count: int, like: Tensor) -> Tensor:
    """Numbers of the whole batch, drawn as a site outside the data plate is.

    All processes that share a batch see the same ones, which one process would have seen.
    """
    zeros = like.new_zeros(count, dtype=torch.float64)
    with torch.no_grad():
        found: Tensor = pyro.sample("_pairs", dist.Uniform(zeros, zeros + 1).to_event(1))
    return found
