r"""Distances between two samples of features: Frechet's, its limit of many rows, and the kernel's.

.. math:: FD = |m_x - m_y|^2 + tr S_x + tr S_y - 2 tr (S_x S_y)^{1/2}

is the squared 2-Wasserstein distance of two Gaussians with the means and covariances of the
features (Heusel et al. 2017, arXiv 1706.08500, eq. 6). Everything is computed in float64: at 512
features of 300 rows the distance of a sample to itself is -0.2 in float32.

Here are numbers alone; :mod:`ppl_models.inference.metrics.feature_distance` says of which images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ppl_models.config import check_seed, whole
from ppl_models.data.tables.seeds import generator

SIZES = 15  # subsets of the extrapolation, from a tenth of the rows to all (Chong and Forsyth)
LEAST = 20  # rows that an extrapolation needs: its smallest subset has two
PARTS = 10  # of the rows, from which the standard error of the kernel distance is told
BLOCK = 256  # rows of either side whose kernel is made at once, and stays in the cache

Features = Tensor  # (n, d)


@dataclass(frozen=True)
class Moments:
    """Count, mean and covariance of features that came in parts.

    Parts are merged pairwise (Chan et al. 1979): sums of squares less the square of the sum would
    cancel where the mean is large.

    Attributes:
        count: Number of rows n.
        mean: ``(d,)``, float64.
        scatter: Sum over rows of the outer products of what they differ from the mean
            ``(d, d)``, float64.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Features) -> Moments:
        """Those of features ``(n, d)``, one row or more.

        Raises:
            ValueError: If they have another shape, or are not finite.
        """
        values = as_features("features", features, 1)
        mean = values.mean(0)
        centred = values - mean
        return cls(len(values), mean, centred.T @ centred)

    def merge(self, other: Moments) -> Moments:
        """Those of both samples together.

        Raises:
            ValueError: If their numbers of features differ.
        """
        _same_width(len(self.mean), len(other.mean))
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        between = torch.outer(apart, apart) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Tensor:
        """With n - 1 as the divisor ``(d, d)``.

        Raises:
            ValueError: If there is but one row.
        """
        if self.count < 2:
            raise ValueError(f"moments are of {self.count} row, expected at least 2")
        return self.scatter / (self.count - 1)


class Extrapolated(NamedTuple):
    """The limit of many rows.

    Attributes:
        value: The intercept a of FD = a + b / n.
        slope: b.
        residual: Root of the mean squared difference of the distances from the line.
    """

    value: float
    slope: float
    residual: float


class Kernel(NamedTuple):
    """The kernel distance.

    Attributes:
        value: Of all rows.
        error: Standard error of the mean over parts of the rows.
    """

    value: float
    error: float


def frechet_distance(first: Features | Moments, second: Features | Moments) -> float:
    """Squared 2-Wasserstein distance of the Gaussians with the moments of two samples.

    Of features, where one sample has fewer rows than features, the cross term is a nuclear norm
    (:func:`root_trace_of_rows`); otherwise, and of moments, it comes from eigenvalues
    (:func:`root_trace`).

    Args:
        first: Features ``(n, d)``, or their moments.
        second: Others ``(m, d)``, or theirs.

    Returns:
        At least 0 but for rounding. It grows as n falls: see :func:`frechet_bias`.

    Raises:
        ValueError: If a sample has fewer than two rows, is not finite, or has another number of
            features.
    """
    sides = [
        v if isinstance(v, Moments) else as_features(f"{what} features", v, 2)
        for what, v in (("first", first), ("second", second))
    ]
    found = [v if isinstance(v, Moments) else Moments.of(v) for v in sides]
    d = len(found[0].mean)
    _same_width(d, len(found[1].mean))
    covariances = [m.covariance for m in found]
    rows = [v for v in sides if isinstance(v, Tensor)]
    if len(rows) == 2 and min(map(len, rows)) < d:
        cross = root_trace_of_rows(*rows)
    else:
        cross = root_trace(*covariances)
    apart = (found[0].mean - found[1].mean).square().sum()
    return float(apart + covariances[0].trace() + covariances[1].trace() - 2 * cross)


def root_trace(first: Tensor, second: Tensor) -> Tensor:
    r"""The trace of :math:`(S_x S_y)^{1/2}`, from eigenvalues of symmetric matrices alone.

    With :math:`R = S_x^{1/2}` it is that of :math:`(R S_y R)^{1/2}`: there are no complex parts to
    be cut, and nothing has to be added to a diagonal.

    Args:
        first: Covariance ``(d, d)``, float64.
        second: Covariance ``(d, d)``, float64.
    """
    values, vectors = torch.linalg.eigh(first)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    inner = root @ second @ root
    found: Tensor = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp(min=0).sqrt().sum()
    return found


def root_trace_of_rows(first: Features, second: Features) -> Tensor:
    r"""The same as the nuclear norm of :math:`A B^T`, of centred rows over :math:`\sqrt{n - 1}`.

    Exact where rows are few: no covariance of less than full rank is made and no root of
    its rounded zeros is taken. A sample of more rows than features counts by the triangular
    factor of its rows, which has the same covariance.

    Args:
        first: Features ``(n, d)``, float64.
        second: Features ``(m, d)``, float64.
    """
    sides = []
    for rows in (first, second):
        scaled = (rows - rows.mean(0)) / math.sqrt(len(rows) - 1)
        tall = scaled.shape[0] > scaled.shape[1]
        sides.append(torch.linalg.qr(scaled, mode="r").R if tall else scaled)
    found: Tensor = torch.linalg.svdvals(sides[0] @ sides[1].T).sum()
    return found


def frechet_bias(spectrum: Tensor, n: int) -> float:
    r"""What the distance of n rows from their own Gaussian comes to on average, to order 1/n.

    .. math:: \frac1n \Big[ \sum_i l_i + \frac12 \sum_{ij} (1 + [i = j])
        \frac{l_i l_j}{l_i + l_j} \Big]

    for eigenvalues l of the covariance: the first part is the mean's, the second the
    covariance's (its rows Gaussian). For l = 1 that is d / n + d (d + 1) / (4 n): quadratic
    in the number of features. The mean of the distance of two samples is the sum of both, within
    some per cent where each has more rows than features. With fewer it does not hold.

    Args:
        spectrum: Eigenvalues ``(d,)``, none below 0.
        n: Number of rows.

    Raises:
        ValueError: If an eigenvalue is negative or not finite, or n is below 2.
    """
    values = torch.as_tensor(spectrum).detach().cpu().double()
    n = whole("n", n, 2)
    if values.dim() != 1 or not bool((values.isfinite() & (values >= 0)).all()):
        raise ValueError(
            f"spectrum has shape {tuple(values.shape)}, expected (d,) finite numbers of at least 0"
        )
    sums = values.unsqueeze(1) + values
    pairs = torch.outer(values, values) / torch.where(sums > 0, sums, 1.0)
    return float(values.sum() + (pairs.sum() + pairs.diagonal().sum()) / 2) / n


def extrapolated_distance(
    distance: Callable[[Features], float], features: Features, seed: int = 0
) -> Extrapolated:
    """The distance of infinitely many rows: the intercept of a line through subsets' distances.

    15 subsets from a tenth of the rows to all, each without replacement, and a line in 1/n by
    least squares (Chong and Forsyth 2020, arXiv 1911.07023). All come from one pool of rows, whose
    own error of the mean stays in the intercept, and the residual does not tell of it.

    Args:
        distance: From features ``(k, d)`` to their distance from the reference.
        features: The pool ``(n, d)``.
        seed: Of the subsets.

    Raises:
        ValueError: If there are fewer than 20 rows.
    """
    pool = as_features("features", features, LEAST)
    draw = generator(check_seed(seed))
    # Evenly spaced, rounded; 20 rows have some sizes twice, and they are other subsets.
    sizes = torch.linspace(len(pool) / 10, len(pool), SIZES).round().long().tolist()
    found = [distance(pool[torch.randperm(len(pool), generator=draw)[:n]]) for n in sizes]
    y = torch.tensor(found, dtype=torch.float64)
    x = torch.tensor(sizes, dtype=torch.float64).reciprocal()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    value = y.mean() - slope * x.mean()
    residual = (y - value - slope * x).square().mean().sqrt()
    return Extrapolated(float(value), float(slope), float(residual))


def kernel_distance(first: Features, second: Features, seed: int = 0) -> Kernel:
    r"""KID: the unbiased squared MMD of two samples under the kernel :math:`(x^T y / d + 1)^3`.

    Binkowski et al. 2018 (arXiv 1801.01401). Its mean is 0 for equal distributions at any number
    of rows, so that single values may be negative; they are not clipped. It takes time
    quadratic in the rows and linear in the features.

    Args:
        first: Features ``(n, d)``.
        second: Features ``(m, d)``.
        seed: Of the parts that the standard error comes from: the rows of both samples in ten
            parts at random, no row twice. It is that of the mean over the parts, and so from
            above that of the value, which uses all pairs of rows.

    Raises:
        ValueError: If a sample has fewer than 20 rows, is not finite, or has another number of
            features.
    """
    one = as_features("first features", first, LEAST)
    other = as_features("second features", second, LEAST)
    _same_width(one.shape[1], other.shape[1])
    draw = generator(check_seed(seed))
    parts = [v[torch.randperm(len(v), generator=draw)].tensor_split(PARTS) for v in (one, other)]
    of_parts = torch.tensor([_mmd(a, b) for a, b in zip(*parts, strict=True)])
    return Kernel(_mmd(one, other), float(of_parts.double().std()) / math.sqrt(PARTS))


def _mmd(first: Features, second: Features) -> float:
    n, m = len(first), len(second)
    within = [
        (_kernel_sum(v, v) - float(((v.square().sum(1) / v.shape[1]) + 1).pow(3).sum()))
        / (len(v) * (len(v) - 1))
        for v in (first, second)
    ]
    return sum(within) - 2 * _kernel_sum(first, second) / (n * m)


def _kernel_sum(first: Features, second: Features) -> float:
    one, total = first.new_ones(()), 0.0
    for rows in first.split(BLOCK):
        for others in second.split(BLOCK):
            kernel = torch.addmm(one, rows, others.T, alpha=1 / first.shape[1]).flatten()
            total += float(kernel.square() @ kernel)
    return total


def as_features(what: str, features: Features, rows: int) -> Features:
    """Features ``(n, d)`` in float64, without gradient.

    Args:
        what: What to call them.
        features: What was given.
        rows: The least number of rows.

    Raises:
        ValueError: If they have another shape, too few rows, or a number that is not finite.
    """
    values = torch.as_tensor(features).detach().double()
    if values.dim() != 2 or not values.shape[1]:
        raise ValueError(f"{what} have shape {tuple(values.shape)}, expected (n, d)")
    if len(values) < rows:
        raise ValueError(f"{what} have {len(values)} rows, expected at least {rows}")
    if not bool((good := values.isfinite()).all()):
        row, column = (~good).nonzero()[0].tolist()
        raise ValueError(
            f"{what}, row {row}, column {column}: got {values[row, column].item()}, expected a "
            "finite number"
        )
    return values


def _same_width(one: int, other: int) -> None:
    if one != other:
        raise ValueError(f"samples have {one} and {other} features, expected as many")
