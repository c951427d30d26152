"""Canonical correlations of two tables of codes, and how well given pairs go together there.

Hotelling 1936. The score of given pairs, such as images beside the captions that were generated
for them, is that of Massiceti et al. (Visual dialogue without vision or dialogue, 2018) as MMVAE
(Shi et al. 2019, arXiv 1911.03393) and MEME (Joy et al. 2022, arXiv 2106.12570) take it: the
cosine of both in the space of correlations that was found on other pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_models.config import at_least


@dataclass(frozen=True)
class CanonicalSpace:
    """The directions of two tables that are correlated most.

    Attributes:
        correlations: Of the tables along each pair of directions ``(K,)``, the largest first.
        means: Of the columns of both tables, ``(D,)`` and ``(E,)``.
        weights: Directions ``(D, K)`` and ``(E, K)``, along which the tables they were found on
            have variance 1 and no correlation but that of a pair.
    """

    correlations: Tensor
    means: tuple[Tensor, Tensor]
    weights: tuple[Tensor, Tensor]

    def project(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of both tables in this space, ``(N, K)`` and ``(M, K)`` in double precision.

        Args:
            first: ``(N, D)``.
            second: ``(M, E)``.

        Raises:
            ValueError: If they have other columns than the tables of the fit, or numbers that are
                not finite.
        """
        found = []
        for which, table, mean, weights in zip(
            ("first", "second"), (first, second), self.means, self.weights, strict=True
        ):
            table = _checked(which, table)
            if table.shape[1] != len(mean):
                raise ValueError(
                    f"the {which} table has {table.shape[1]} columns, expected {len(mean)}, those "
                    "that the space was found on"
                )
            found.append((table - mean) @ weights)
        return found[0], found[1]

    def pair_scores(self, first: Tensor, second: Tensor) -> Tensor:
        """The cosine ``(N,)`` of both sides of each pair in this space; 0 of a row at the mean.

        Its mean over pairs is the score of MMVAE's and MEME's tables.

        Args:
            first: ``(N, D)``.
            second: Rows beside them ``(N, E)``.

        Raises:
            ValueError: As :meth:`project`, and if the numbers of rows differ.
        """
        _as_many(first, second)
        one, other = self.project(first, second)
        norm = one.norm(dim=1) * other.norm(dim=1)
        found: Tensor = (one * other).sum(1) / torch.where(norm > 0, norm, 1.0)
        return found


def canonical_space(
    first: Tensor, second: Tensor, dimensions: int | None = None, ridge: float = 0.0
) -> CanonicalSpace:
    """Find the directions along which two tables with the same rows are correlated.

    Directions in which a table does not vary are left out. In the other ones, more than there are
    rows for would go through any points with a correlation of 1: that is refused where nothing is
    added to the variances.

    Args:
        first: Codes ``(N, D)``.
        second: Codes ``(N, E)`` of the same rows.
        dimensions: Number K of directions; all that there are if None.
        ridge: What is added to the variance of each column, in its units squared; correlations
            are then smaller.

    Raises:
        ValueError: If rows do not fit, a table does not vary, or there are too few rows.
    """
    _as_many(first, second)
    at_least(rows=(len(first), 2))
    if not ridge >= 0:
        raise ValueError(f"ridge is {ridge}, expected at least 0")
    means, bases, maps = [], [], []
    for which, table in (("first", first), ("second", second)):
        small = torch.finfo(table.dtype).eps if table.is_floating_point() else 1e-12
        values = _checked(which, table)
        mean = values.mean(0)
        left, spread, right = torch.linalg.svd(values - mean, full_matrices=False)
        # What is left of a constant by rounding the mean is no direction.
        least = max(values.shape) * small * max(float(spread.max()), float(values.abs().max()))
        kept = spread > least
        if not bool(kept.any()):
            raise ValueError(f"the {which} table does not vary, expected codes that differ")
        spread = spread[kept]
        scale = (spread.square() + (len(values) - 1) * ridge).sqrt()
        means.append(mean)
        bases.append(left[:, kept] * (spread / scale))
        maps.append(right[kept].T / scale)
    ranks = [basis.shape[1] for basis in bases]
    if not ridge and sum(ranks) > len(first) - 1:
        raise ValueError(
            f"tables of {ranks[0]} and {ranks[1]} directions have {len(first)} rows, expected at "
            f"least {sum(ranks) + 1}; give more rows, or ridge above 0"
        )
    most = min(ranks)
    if dimensions is not None and not 1 <= dimensions <= most:
        raise ValueError(f"dimensions is {dimensions}, expected 1 to {most}")
    own, found, others = torch.linalg.svd(bases[0].T @ bases[1], full_matrices=False)
    root = (len(first) - 1) ** 0.5
    weights = (maps[0] @ own * root, maps[1] @ others.T * root)
    return CanonicalSpace(
        found[:dimensions].clamp(max=1),
        (means[0], means[1]),
        (weights[0][:, :dimensions], weights[1][:, :dimensions]),
    )


def _checked(which: str, table: Tensor) -> Tensor:
    """The table in double precision."""
    if table.dim() != 2 or not table.numel():
        raise ValueError(f"the {which} table has shape {tuple(table.shape)}, expected (N, D)")
    table = table.detach().cpu().double()
    if not bool(table.isfinite().all()):
        row, column = (~table.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"the {which} table holds {float(table[row, column])} at row {row}, column {column}, "
            "expected finite numbers"
        )
    return table


def _as_many(first: Tensor, second: Tensor) -> None:
    if len(first) != len(second):
        raise ValueError(
            f"the first table has {len(first)} rows and the second {len(second)}, expected as many"
        )
