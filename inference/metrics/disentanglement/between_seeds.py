"""Whether codes of several fits agree: MCC on held-out rows, and a test between kinds of fits.

Willetts and Paige 2021 (arXiv 2106.05238) take the strong and the weak correlation from Khemakhem
et al. 2020 (ICE-BeeM, arXiv 2002.11537).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_models.config import at_least, check_seed
from ppl_models.inference.metrics.canonical import canonical_space
from ppl_models.inference.metrics.disentanglement.matching import (
    PermutationTest,
    correlations,
    matching,
    mean_correlation,
)

Array = np.ndarray[Any, Any]
ROUNDING = 1e-9  # by which equal statistics of exchanged fits may differ


def held_out_correlation(
    codes: Tensor, factors: Tensor, ranks: bool = False, seed: int = 0
) -> float:
    """Strong MCC: codes are matched on one half of the rows, and correlated on the other.

    On the rows that they were matched on the mean is the largest that there is, so that
    :func:`mean_correlation` is above this one on average.

    Args:
        codes: ``(N, D)``.
        factors: ``(N, F)``, F at most D.
        ranks: As in :func:`correlations`.
        seed: Of the halves.

    Raises:
        ValueError: As :func:`correlations` and :func:`matching`, and if there are fewer than four
            rows.
    """
    one, other = _halves(codes, factors, seed)
    order = matching(correlations(codes[one], factors[one], ranks))
    found = correlations(codes[other], factors[other], ranks)
    return float(found[torch.arange(len(order)), order].mean())


def canonical_correlation(
    codes: Tensor,
    factors: Tensor,
    dimensions: int | None = None,
    ranks: bool = False,
    seed: int = 0,
) -> float:
    """Weak MCC: that of the canonical directions of one half of the rows, on the other half.

    It is 1 for any linear map that can be inverted; see :func:`canonical_space`.

    Args:
        codes: ``(N, D)``.
        factors: ``(N, F)``.
        dimensions: Number of directions; as many as there are if None.
        ranks: As in :func:`correlations`.
        seed: Of the halves.

    Raises:
        ValueError: As :func:`canonical_space`, and if there are fewer than four rows.
    """
    one, other = _halves(codes, factors, seed)
    space = canonical_space(codes[one], factors[one], dimensions)
    return mean_correlation(*space.project(codes[other], factors[other]), ranks=ranks)


def seed_agreement(
    codes: Sequence[Tensor], measure: Callable[[Tensor, Tensor], float] = mean_correlation
) -> Tensor:
    """How well the codes of each two of several fits agree ``(S, S)``, 1 of a fit with itself.

    Agreement is no recovery: a VAE's codes of several seeds may agree and be wrong.

    Args:
        codes: ``(N, D)`` of the same rows by each of S fits.
        measure: Of two tables of codes; not always the same either way round, so that both are
            taken, and their mean counts.
    """
    found = torch.eye(len(codes), dtype=torch.float64)
    for i, j in itertools.combinations(range(len(codes)), 2):
        both = (measure(codes[i], codes[j]) + measure(codes[j], codes[i])) / 2
        found[i, j] = found[j, i] = both
    return found


def seed_permutation_test(
    agreements: Sequence[Tensor], first: int, permutations: int = 10_000, seed: int = 0
) -> PermutationTest:
    """Whether fits of one kind agree with each other more, or less, than those of another do.

    Pairs of fits share seeds and so are not independent; what is exchanged are whole fits. The
    statistic is the mean agreement of two fits of the first kind minus that of two of the second,
    averaged over data sets, and the hypothesis is that kinds do not matter: fits may change
    kinds, those of each data set among themselves. p is two-sided: the share of exchanges whose
    statistic is at least as large in absolute value. All exchanges are looked at where they are
    no more than ``permutations``; else random ones, p = (1 + how many) / (1 + permutations).

    Args:
        agreements: Of each data set, those of all its fits ``(S, S)``, as
            :func:`seed_agreement` gives them, fits of the first kind first.
        first: How many are of the first kind; at least two, and at least two fewer than S.
        permutations: Number of exchanges.
        seed: Of random ones.

    Returns:
        The statistic, its p-value, and the statistics of exchanged fits.

    Raises:
        ValueError: If there is no data set, a matrix is not square, a value is not finite, a kind
            has fewer than two fits, or there is less than one exchange.
    """
    first, permutations = at_least(first=(first, 2), permutations=(permutations, 1))
    at_least(agreements=(len(agreements), 1))
    tables, most = [], 1
    for table in agreements:
        if table.dim() != 2 or len(table) != table.shape[1] or len(table) < first + 2:
            raise ValueError(
                f"agreements have shape {tuple(table.shape)}, expected (S, S) with S of at least "
                f"{first + 2}"
            )
        if not bool(table.isfinite().all()):
            raise ValueError("agreements have a value that is not finite")
        fits = len(table)
        most *= math.comb(fits, first)
        tables.append(table.detach().cpu().double().numpy())
    own = [_differences(table, np.arange(len(table))[None] < first)[0] for table in tables]
    score = float(np.mean(own))
    if most <= permutations:
        each = [_differences(table, _all_kinds(len(table), first)) for table in tables]
        null = functools.reduce(np.add.outer, each).ravel() / len(each)
    else:
        draw = np.random.default_rng(check_seed(seed))
        orders = [np.tile(np.arange(len(table)), (permutations, 1)) for table in tables]
        kinds = [draw.permuted(order, axis=1) < first for order in orders]
        null = np.mean([_differences(*both) for both in zip(tables, kinds, strict=True)], 0)
    as_large = int((abs(null) >= abs(score) - ROUNDING).sum())
    left_out = most > permutations  # random exchanges need not have the fits as they are
    p_value = (left_out + as_large) / (left_out + len(null))
    return PermutationTest(score, p_value, torch.from_numpy(null))


def _all_kinds(fits: int, first: int) -> Array:
    """Which fits ``(exchanges, fits)`` are of the first kind, in every exchange."""
    chosen = list(itertools.combinations(range(fits), first))
    found: Array = np.zeros((len(chosen), fits), bool)
    np.put_along_axis(found, np.array(chosen), True, 1)
    return found


def _differences(table: Array, kinds: Array) -> Array:
    """The mean within one kind minus that within the other ``(exchanges,)``.

    Args:
        table: Agreements ``(fits, fits)``.
        kinds: Which fits are of the first kind ``(exchanges, fits)``.
    """
    others = table * (1 - np.eye(len(table)))
    means = []
    for mark in (kinds, ~kinds):
        count = mark.sum(1)
        total = np.einsum("rs,st,rt->r", mark, others, mark)
        means.append(total / (count * (count - 1)))
    found: Array = means[0] - means[1]
    return found


def _halves(codes: Tensor, factors: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    if len(codes) != len(factors):
        raise ValueError(f"codes have {len(codes)} rows and factors {len(factors)}")
    at_least(rows=(len(codes), 4))
    generator = torch.Generator().manual_seed(check_seed(seed))
    order = torch.randperm(len(codes), generator=generator)
    return order[: len(order) // 2], order[len(order) // 2 :]
