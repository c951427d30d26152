"""Codes that are found up to their order: which code is which true factor, and how well."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ppl_models.config import at_least, check_seed

AT_ONCE = 10_000_000  # numbers of permuted factors in memory
ROUNDING = 1e-9  # by which equal scores of permuted rows may differ


class Scores(NamedTuple):
    """How well one set is found by another.

    Attributes:
        precision: Share of what was found that is true; 0 where nothing was.
        recall: Share of what is true that was found.
        f1: Their harmonic mean.
    """

    precision: float
    recall: float
    f1: float


class PermutationTest(NamedTuple):
    """A score beside those of rows, or fits, that were exchanged.

    Attributes:
        score: Of the rows or fits as they are.
        p_value: Share of scores at least as large (two-sided: in absolute value), the own one
            counted among them.
        null: Scores after each exchange ``(permutations,)``.
    """

    score: float
    p_value: float
    null: Tensor


def correlations(codes: Tensor, factors: Tensor, ranks: bool = False) -> Tensor:
    """Absolute correlations ``(F, D)`` of each factor with each code, 0 of a constant.

    Args:
        codes: ``(N, D)``.
        factors: ``(N, F)``.
        ranks: Of ranks (Spearman's), not of the values (Pearson's).

    Raises:
        ValueError: If the numbers of rows differ, or a value is not finite.
    """
    one, other = _standardised(codes, factors, ranks)
    found: Tensor = (other.T @ one).abs()
    return found


def matching(similarity: Tensor) -> Tensor:
    """For each factor the code it is matched with ``(F,)``, no code twice; the best in sum.

    Args:
        similarity: ``(F, D)``, of factors and codes; D at least F.

    Raises:
        ValueError: If there are fewer codes than factors.
    """
    from scipy.optimize import linear_sum_assignment

    factors, codes = similarity.shape
    if codes < factors:
        raise ValueError(f"{codes} codes for {factors} factors, expected at least as many")
    _, chosen = linear_sum_assignment(similarity.cpu().numpy(), maximize=True)
    return torch.from_numpy(np.asarray(chosen))


def mean_correlation(codes: Tensor, factors: Tensor, ranks: bool = False) -> float:
    """MCC: the mean absolute correlation of each factor with the code it is matched with.

    Hyvarinen and Morioka 2016 (arXiv 1605.06336).

    Args:
        codes: ``(N, D)``.
        factors: ``(N, F)``.
        ranks: As in :func:`correlations`.
    """
    return _matched_mean(correlations(codes, factors, ranks))


def mcc_permutation_test(
    codes: Tensor,
    factors: Tensor,
    ranks: bool = False,
    permutations: int = 1_000,
    seed: int = 0,
) -> PermutationTest:
    """Whether the MCC is larger than that of codes that know nothing of the factors.

    The hypothesis is that whole rows of codes are independent of whole rows of factors. Rows of
    factors are exchanged together, so that what factors have in common with each other, and codes
    with each other, stays, and codes are matched anew each time. p = (1 + number of scores at
    least as large) / (1 + permutations), which is exact where rows are independent draws (Phipson
    and Smyth 2010, doi 10.2202/1544-6115.1585); rows of a time series are none.

    A small p says that codes know of some factors, not that each code is one: a rotation of the
    factors is told from noise as easily. ``null.mean()`` is the MCC's bias: without any relation
    a correlation of N rows is about sqrt(2 / (pi N)) in absolute value, and the best matching of
    several codes takes the largest, so that the MCC is far above 0 where N is small.

    Args:
        codes: ``(N, D)``.
        factors: ``(N, F)``, F at most D.
        ranks: As in :func:`correlations`.
        permutations: Number of random orders.
        seed: Of the orders.

    Raises:
        ValueError: If numbers of rows differ, there are fewer codes than factors, fewer than two
            rows, or a value is not finite.
    """
    at_least(rows=(len(codes), 2), permutations=(permutations, 1))
    generator = torch.Generator().manual_seed(check_seed(seed))
    one, other = _standardised(codes, factors, ranks)
    score = _matched_mean((other.T @ one).abs())
    null: list[float] = []
    while len(null) < permutations:
        count = min(permutations - len(null), max(1, AT_ONCE // max(1, other.numel())))
        orders = torch.rand(count, len(other), generator=generator).argsort(1)
        similarity = (other[orders].mT @ one).abs()
        null += map(_matched_mean, similarity)
    scores = torch.tensor(null, dtype=torch.float64)
    as_large = int((scores >= score - ROUNDING).sum())
    return PermutationTest(score, (1 + as_large) / (1 + permutations), scores)


def set_scores(found: Tensor, true: Tensor) -> Scores:
    """Precision, recall and F1 of the entries that are found.

    Args:
        found: Truth values of any shape.
        true: Truth values of the same shape.

    Raises:
        ValueError: If the shapes differ.
    """
    if found.shape != true.shape:
        raise ValueError(
            f"what is found has shape {tuple(found.shape)}, expected that of the truth, "
            f"{tuple(true.shape)}"
        )
    found, true = found.bool(), true.bool()
    hits = float((found & true).sum())
    precision, recall = (hits / max(1.0, float(v.sum())) for v in (found, true))
    total = precision + recall
    return Scores(precision, recall, 2 * precision * recall / total if total else 0.0)


def _standardised(codes: Tensor, factors: Tensor, ranks: bool) -> tuple[Tensor, Tensor]:
    """Columns of mean 0 and length 1, of constants 0; ranks' if asked for."""
    if len(codes) != len(factors):
        raise ValueError(f"codes have {len(codes)} rows and factors {len(factors)}")
    both = []
    for what, values in (("codes", codes), ("factors", factors)):
        if values.dim() != 2:
            raise ValueError(f"{what} have shape {tuple(values.shape)}, expected (N, numbers)")
        values = values.detach().cpu().double()
        if not bool(values.isfinite().all()):
            raise ValueError(f"{what} hold a value that is not finite, expected finite numbers")
        if ranks:
            from scipy.stats import rankdata

            values = torch.from_numpy(rankdata(values.numpy(), axis=0))
        centred = values - values.mean(0)
        norm = centred.norm(dim=0)
        both.append(centred / torch.where(norm > 0, norm, 1.0))
    return both[0], both[1]


def _matched_mean(similarity: Tensor) -> float:
    order = matching(similarity)
    return float(similarity[torch.arange(len(order)), order].mean())
