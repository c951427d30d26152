"""Codes that are found up to their order: which code is which true factor, and how well."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


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


def correlations(codes: Tensor, factors: Tensor, ranks: bool = False) -> Tensor:
    """Absolute correlations ``(F, D)`` of each factor with each code, 0 of a constant.

    Args:
        codes: ``(N, D)``.
        factors: ``(N, F)``.
        ranks: Of ranks (Spearman's), not of the values (Pearson's).

    Raises:
        ValueError: If the numbers of rows differ.
    """
    if len(codes) != len(factors):
        raise ValueError(f"codes have {len(codes)} rows and factors {len(factors)}")
    both = []
    for values in (factors, codes):
        values = values.detach().cpu().double()
        if ranks:
            from scipy.stats import rankdata

            values = torch.from_numpy(rankdata(values.numpy(), axis=0))
        centred = values - values.mean(0)
        norm = centred.norm(dim=0)
        both.append(centred / torch.where(norm > 0, norm, 1.0))
    found: Tensor = (both[0].T @ both[1]).abs()
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
    similarity = correlations(codes, factors, ranks)
    order = matching(similarity)
    return float(similarity[torch.arange(len(order)), order].mean())


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
