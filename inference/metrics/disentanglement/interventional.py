"""How much of a code setting a factor leaves (IRS), and whether factors share codes (UC)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import xarray as xr

from ppl_models.config import at_least
from ppl_models.inference.metrics.disentanglement.code_table import CodeTable
from ppl_models.inference.metrics.disentanglement.information import equal_width, factor_levels
from ppl_models.inference.metrics.disentanglement.results import result, several

Array = np.ndarray[Any, Any]


def irs(table: CodeTable, quantile: float = 0.99, bins: int | None = 20) -> xr.Dataset:
    """Interventional robustness score: how still a code stands while all factors but one move.

    For each value of a factor, the ``quantile`` of the distances of a code to its mean among the
    rows of that value; their mean over the values, over the largest distance of the code to its
    mean among all rows, taken from 1. A code's score is that of its best factor, its parent, and
    IRS the mean over codes weighted by their largest distances (Suter et al. 2019, arXiv
    1811.00007; with quantile 1.0 the paper's version, with 0.99 that of the study's code). It
    takes factors to be independent.

    Args:
        table: Codes and factors of N rows.
        quantile: Above 0, at most 1.
        bins: Equal-width bins that factors are cut into, which join neighbouring values of a
            factor of more than 20, as in the study's code; None takes values as they are.

    Returns:
        ``irs``, ``irs_per_code``, ``irs_matrix`` over code and factor, ``irs_parent`` (number of
        the parent of each code) and ``irs_active_codes``: at most 1. Constant codes are left out:
        NaN, with parent -1; where all are, ``irs`` is 0. Factors of one value are NaN; without
        any other ``irs`` is NaN with a ``reason``.

    Raises:
        ValueError: If ``quantile`` or ``bins`` are out of range.
    """
    matrix = irs_matrix(table, quantile, bins)
    active, told = table.varying, table.told
    per_code = np.full(len(matrix), np.nan)
    parent = np.full(len(matrix), -1)
    reason: dict[str, Any] = {}
    if not told.any():
        score = np.nan
        reason = {"reason": "no factor has more than one value"}
    elif not active.any():
        score = 0.0
    else:
        known = matrix[np.ix_(active, told)]
        per_code[active] = known.max(1)
        parent[active] = np.flatnonzero(told)[known.argmax(1)]
        score = np.average(per_code[active], weights=_reach(table)[active])
    values = {
        "irs": score,
        "irs_per_code": (("code",), per_code),
        "irs_matrix": (("code", "factor"), matrix),
        "irs_parent": (("code",), parent),
        "irs_active_codes": int(active.sum()),
    }
    return result(table, values, quantile=quantile, bins=_told_bins(bins), **reason)


def unconfoundedness(
    table: CodeTable,
    rho: Sequence[int] = (1,),
    quantile: float = 0.99,
    bins: int | None = 20,
) -> xr.Dataset:
    """UC: whether each factor has codes of its own.

    The ``rho`` codes of a factor are those with the largest entries in its column of the matrix
    of :func:`irs`; UC is 1 less the mean overlap of the codes of two factors, as codes in both
    over codes in either (Reddy et al. 2022, arXiv 2112.05746). It does not see whether a code is
    mixed: read it beside counterfactual generativeness, and over several ``rho``. More than D / K
    codes overlap by necessity.

    Args:
        table: Codes and factors of N rows.
        rho: Numbers of codes per factor.
        quantile: As of :func:`irs`.
        bins: As of :func:`irs`.

    Returns:
        ``unconfoundedness`` over ``rho``, from 0 (all factors have the same codes) to 1 (no two
        share one), and ``unconfoundedness_codes``, the codes of each factor as truth values over
        rho, factor and code. NaN with a ``reason`` where fewer than two factors have more than
        one value, or no code varies.

    Raises:
        ValueError: If a ``rho`` is not between 1 and the number of codes, or other options are
            out of range.
    """
    numbers = several("rho", rho)
    sets = np.stack([strongest_codes(table, number, quantile, bins) for number in numbers])
    told = np.flatnonzero(table.told)
    reason: dict[str, Any] = {}
    scores = np.full(len(sets), np.nan)
    if len(told) < 2 or not table.varying.any():
        reason = {"reason": "fewer than two factors have more than one value, or no code varies"}
    else:
        for place, of_factor in enumerate(sets):
            overlap = [
                (of_factor[i] & of_factor[j]).sum() / (of_factor[i] | of_factor[j]).sum()
                for i, j in combinations(told, 2)
            ]
            scores[place] = 1 - np.mean(overlap)
    values = {
        "unconfoundedness": (("rho",), scores),
        "unconfoundedness_codes": (("rho", "factor", "code"), sets),
    }
    settings = {"quantile": quantile, "bins": _told_bins(bins)}
    return result(table, values, {"rho": numbers}, **settings, **reason)


def strongest_codes(
    table: CodeTable, rho: int, quantile: float = 0.99, bins: int | None = 20
) -> Array:
    """The ``rho`` codes of each factor with the largest entries in its column of IRS's matrix.

    Args:
        table: Codes and factors of N rows.
        rho: How many; all codes that vary where these are fewer. Of entries that are equal (to
            1e-12) the first.
        quantile: As of :func:`irs`.
        bins: As of :func:`irs`.

    Returns:
        Truth values ``(K, D)``; none of a factor of one value.

    Raises:
        ValueError: If ``rho`` is not between 1 and the number of codes.
    """
    matrix = irs_matrix(table, quantile, bins)
    (rho,) = at_least(rho=(rho, 1))
    if rho > len(matrix):
        raise ValueError(f"rho is {rho}, expected at most the number of codes, {len(matrix)}")
    sets = np.zeros(matrix.T.shape, bool)
    active = np.flatnonzero(table.varying)
    for factor in np.flatnonzero(table.told):
        order = np.argsort(-matrix[active, factor].round(12), kind="stable")
        sets[factor, active[order[:rho]]] = True
    return sets


def irs_matrix(table: CodeTable, quantile: float = 0.99, bins: int | None = 20) -> Array:
    """The matrix ``(D, K)`` of :func:`irs`, kept with the table."""
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile is {quantile}, expected a number above 0 and at most 1")
    if bins is not None:
        at_least(bins=(bins, 2))

    def made() -> Array:
        active = np.flatnonzero(table.varying)
        codes = np.ascontiguousarray(table.codes[:, active].T)
        matrix = np.full((table.codes.shape[1], len(table.told)), np.nan)
        if not len(active):
            return matrix
        for factor in np.flatnonzero(table.told):
            groups = factor_levels(table).values[factor]
            if bins is not None:
                groups = equal_width(table.factors[:, factor], bins)
            by_value = codes.take(np.argsort(groups, kind="stable"), axis=1)
            ends = np.cumsum(counts := np.bincount(groups))
            spreads = [
                _spread(by_value[:, end - count : end], quantile)
                for end, count in zip(ends, counts, strict=True)
                if count
            ]
            matrix[active, factor] = 1 - np.mean(spreads, 0) / _reach(table)[active]
        return matrix

    return table.once(("irs", quantile, bins), made)


def _spread(codes: Array, quantile: float) -> Array:
    """The quantile of the distances of each code to its mean ``(D,)``, of codes ``(D, n)``.

    Between two distances it is linear, as numpy's. One partition and a minimum are faster than
    numpy's partition at two places.
    """
    apart = codes - codes.mean(1, keepdims=True)
    np.abs(apart, out=apart)
    at = quantile * (apart.shape[1] - 1)
    below = int(at)
    apart.partition(below, axis=1)
    low = apart[:, below]
    high = apart[:, below + 1 :].min(1) if at > below else low
    spread: Array = low + (at - below) * (high - low)
    return spread


def _reach(table: CodeTable) -> Array:
    """Largest distance of each code to its mean ``(D,)``, kept with the table."""

    def made() -> Array:
        low, mean, high = table.codes.min(0), table.codes.mean(0), table.codes.max(0)
        reach: Array = np.maximum(high - mean, mean - low)
        return reach

    return table.once("reach", made)


def _told_bins(bins: int | None) -> int | str:
    return "none" if bins is None else bins
