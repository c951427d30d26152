"""Mutual information of binned codes and factors, and what is read off it: MIG, modularity.

Everything is counted: one histogram of whole numbers per code holds its joint counts with all
factors. No random numbers, nothing fitted. In nats.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy.special import xlogy

from ppl_models.config import at_least
from ppl_models.inference.metrics.disentanglement.code_table import CodeTable
from ppl_models.inference.metrics.disentanglement.results import mean_known, result

Array = np.ndarray[Any, Any]
NONE = 1e-10  # information of less than this, in nats, is rounding
CELLS = 1 << 21  # joint counts that are held at a time


class Levels(NamedTuple):
    """Variables as numbers of their values.

    Attributes:
        values: ``(M, N)``, from 0.
        sizes: How many values each has ``(M,)``.
    """

    values: Array
    sizes: Array


class Information(NamedTuple):
    """Plug-in estimates for every code with every other variable.

    Attributes:
        nats: ``(D, M)``, at least 0.
        bias: What Miller and Madow's correction takes off each ``(D, M)``, in nats.
    """

    nats: Array
    bias: Array


def equal_width(values: Array, bins: int) -> Array:
    """The bin of each value ``(N,)``, from 0, of equal-width bins between minimum and maximum.

    A value on an edge belongs to the bin above it, and the maximum to the last bin.
    """
    edges = np.linspace(values.min(), values.max(), bins + 1)
    return np.searchsorted(edges[1:-1], values, side="right")


def binned_codes(table: CodeTable, bins: int = 20) -> Levels:
    """Codes in equal-width bins, kept with the table; a constant code is all in bin 0."""
    at_least(bins=(bins, 2))

    def made() -> Levels:
        found = np.zeros(table.codes.shape[::-1], np.min_scalar_type(bins - 1))
        for code in np.flatnonzero(table.varying):
            found[code] = equal_width(np.ascontiguousarray(table.codes[:, code]), bins)
        return Levels(found, np.full(len(found), bins))

    return table.once(("binned codes", bins), made)


def factor_levels(table: CodeTable) -> Levels:
    """Factors as numbers of the values that these rows have, kept with the table."""

    def made() -> Levels:
        levels = [np.unique(column, return_inverse=True) for column in table.factors.T]
        numbers = np.stack([inverse.reshape(-1) for _, inverse in levels])
        return Levels(numbers, np.array([len(values) for values, _ in levels]))

    return table.once("levels of factors", made)


def factor_entropy(table: CodeTable) -> Array:
    """Empirical entropies of the factors ``(K,)`` in nats, kept with the table."""

    def made() -> Array:
        levels, rows = factor_levels(table), len(table)
        counts = (np.bincount(values) for values in levels.values)
        return np.array([np.log(rows) - xlogy(c, c).sum() / rows for c in counts])

    return table.once("entropy of factors", made)


def information_between(codes: Levels, others: Levels) -> Information:
    """Plug-in mutual information of each code with each other variable.

    Counts are held for some codes at a time, about 16 MB of them. With ``m`` cells, rows and
    columns of a histogram that are not empty, the bias is ``(m_cells - m_rows - m_columns + 1) /
    2N`` (Miller 1955), which for independent variables without empty cells is ``(B - 1)(S - 1) /
    2N``.

    Args:
        codes: D variables; the number of their values is the same for all.
        others: M variables of the same rows.
    """
    rows, bins = codes.values.shape[1], int(codes.sizes[0])
    starts = np.concatenate([[0], np.cumsum(others.sizes)])
    total, starts = int(starts[-1]), starts[:-1]
    placed = others.values.astype(np.intp) + starts[:, None]  # M x N, places among all values
    index = np.empty_like(placed)
    count_log = np.log(np.maximum(np.arange(rows + 1), 1)) * np.arange(rows + 1)  # n log n
    nats, bias = (np.empty((len(codes.values), len(others.values))) for _ in range(2))
    at_once = max(1, CELLS // (bins * total))
    for first in range(0, len(nats), at_once):
        chunk = codes.values[first : first + at_once]
        joint = np.empty((len(chunk), bins, total), np.intp)
        for place, code in enumerate(chunk):
            np.add(placed, code.astype(np.intp) * total, out=index)
            joint[place] = np.bincount(index.ravel(), minlength=bins * total).reshape(bins, total)
        of_code = joint[:, :, : others.sizes[0]].sum(2)  # d x B
        of_other = joint[0].sum(0)  # total
        both = np.add.reduceat(count_log[joint].sum(1), starts, axis=1)  # d x M
        one = count_log[of_code].sum(1)[:, None]
        other = np.add.reduceat(count_log[of_other], starts)
        here = slice(first, first + len(chunk))
        nats[here] = np.maximum(np.log(rows) + (both - one - other) / rows, 0.0)
        cells = np.add.reduceat((joint > 0).sum(1), starts, axis=1)
        lines = (of_code > 0).sum(1)[:, None] + np.add.reduceat(of_other > 0, starts, dtype=int)
        bias[here] = (cells - lines + 1) / (2 * rows)
    return Information(nats, bias)


def code_information(table: CodeTable, bins: int = 20) -> Information:
    """Of every code with every factor ``(D, K)``, kept with the table; 0 of a constant code."""

    def made() -> Information:
        found = information_between(binned_codes(table, bins), factor_levels(table))
        return Information(*(np.where(table.varying[:, None], of, 0.0) for of in found))

    at_least(bins=(bins, 2))
    return table.once(("information", bins), made)


def mutual_information(table: CodeTable, bins: int = 20) -> xr.Dataset:
    """Mutual information of every binned code with every factor, in nats.

    Codes are cut into equal-width bins between their minimum and maximum; the estimate is the
    plug-in one. For a code that tells nothing of a factor of S values it is about ``(bins - 1)
    (S - 1) / 2N`` and not 0.

    Args:
        table: Codes and factors of N rows.
        bins: Of each code; 20 in the study (Locatello et al. 2019, arXiv 1811.12359).

    Returns:
        ``mutual_information`` over code and factor, from 0 to ``factor_entropy`` over factor.

    Raises:
        ValueError: If there are fewer than 2 bins.
    """
    values = {
        "mutual_information": (("code", "factor"), code_information(table, bins).nats),
        "factor_entropy": (("factor",), factor_entropy(table)),
    }
    return result(table, values, bins=bins)


def mig(table: CodeTable, bins: int = 20) -> xr.Dataset:
    """Mutual information gap: how far the best code of a factor is ahead of the second.

    For each factor the difference of the two largest mutual informations with a code, over the
    factor's entropy; the mean over factors (Chen et al. 2018, arXiv 1802.04942, equation 6). Of
    one code alone the second is 0.

    Args:
        table: Codes and factors of N rows.
        bins: Of each code.

    Returns:
        ``mig`` and ``mig_per_factor``, from 0 to 1; NaN for a factor of one value, which the
        mean leaves out.

    Raises:
        ValueError: If there are fewer than 2 bins.
    """
    ranked = -np.sort(-code_information(table, bins).nats, axis=0)
    gap = ranked[0] - (ranked[1] if len(ranked) > 1 else 0.0)
    told = table.told
    per_factor = np.full(len(told), np.nan)
    per_factor[told] = gap[told] / factor_entropy(table)[told]
    values = {"mig": mean_known(per_factor), "mig_per_factor": (("factor",), per_factor)}
    return result(table, values, bins=bins)


def modularity(table: CodeTable, bins: int = 20) -> xr.Dataset:
    """Modularity: whether each code tells of one factor only.

    Of each code 1 less the squared informations with all factors but its best one, over ``K - 1``
    times the best one squared; the mean over codes (Ridgeway and Mozer 2018, arXiv 1802.05312).
    A code without information scores 0 and stays in the mean, as in the study's code.

    Args:
        table: Codes and factors of N rows.
        bins: Of each code.

    Returns:
        ``modularity`` and ``modularity_per_code``, from 0 to 1; NaN with a ``reason`` where there
        are fewer than two factors with more than one value.

    Raises:
        ValueError: If there are fewer than 2 bins.
    """
    squares = code_information(table, bins).nats[:, table.told] ** 2
    per_code = np.full(len(squares), np.nan)
    reason: dict[str, Any] = {}
    if squares.shape[1] < 2:
        reason = {"reason": "fewer than two factors have more than one value"}
    else:
        best = squares.max(1)
        known = best >= NONE**2
        others = squares.sum(1) - best
        per_code = np.zeros(len(squares))
        per_code[known] = 1 - others[known] / (best[known] * (squares.shape[1] - 1))
    values = {"modularity": per_code.mean(), "modularity_per_code": (("code",), per_code)}
    return result(table, values, bins=bins, **reason)
