r"""How far the empirical distribution of N numbers may stray from the uniform one.

Bands hold at all points at once: the least pointwise level :math:`\gamma` is taken at which
the whole curve stays inside with the wanted probability (Säilynoja, Bürkner and Vehtari 2022,
arXiv 2103.10522). The number of draws below each point is a Poisson process that is known to
end at N, so the probability of a path within bounds is a product of convolutions, exact and
without simulation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

Array = np.ndarray[Any, Any]

POINTS = 100  # most points at which the curve is looked at
FINE = 1e-4  # relative precision of the pointwise level
# The p-value is 1 minus a probability, and at most 2 POINTS times the pointwise one: below this
# it is rounding, and SciPy's quantiles overflow at 1e-200.
LEAST = 1e-18


def points(count: int) -> Array:
    """Where the curve of so many numbers is looked at, up to 100 points between 0 and 1."""
    inner = min(count, POINTS)
    return np.arange(1, inner) / inner


def bounds(count: int, gamma: float) -> tuple[Array, Array]:
    """Numbers below each point that are not unusual at a pointwise level, both included.

    Args:
        count: Numbers N.
        gamma: Probability of a more unusual count at one point, half of it on each side.

    Returns:
        Least and largest count at each of the :func:`points`.
    """
    where = points(count)
    low, high = (stats.binom.ppf(tail, count, where) for tail in (gamma / 2, 1 - gamma / 2))
    return low.astype(int), high.astype(int)


def inside(count: int, low: Array, high: Array) -> float:
    """Probability that the curve of N uniform numbers stays within bounds at all points."""
    rate = count / (len(low) + 1)
    steps = stats.poisson.pmf(np.arange(count + 1), rate)
    steps = steps[: 1 + int(np.flatnonzero(steps > 1e-300).max())]
    first, paths = 0, np.ones(1)
    for least, most in zip([*low, count], [*high, count], strict=True):
        paths = np.convolve(paths, steps)
        reach = np.arange(first, first + len(paths))
        paths = paths[(reach >= least) & (reach <= most)]
        first = max(first, int(least))
        if not len(paths):
            return 0.0
    return float(paths[0] / stats.poisson.pmf(count, count))


def band(count: int, level: float) -> tuple[Array, Array]:
    """Bounds within which the whole curve stays with at least a probability.

    Args:
        count: Numbers N.
        level: The probability.

    Returns:
        Least and largest share below each of the :func:`points`.
    """
    tight, wide = 1.0, (1 - level) / (2 * POINTS)
    while tight / wide > 1 + FINE:
        middle = float(np.sqrt(tight * wide))
        if inside(count, *bounds(count, middle)) >= level:
            wide = middle
        else:
            tight = middle
    low, high = bounds(count, wide)
    return low / count, high / count


def below(values: Array) -> Array:
    """Numbers at or below each of the :func:`points`.

    Args:
        values: ``(..., N)``, from 0 to 1.

    Returns:
        ``(..., points)``.
    """
    ordered = np.sort(values, -1)
    where = points(values.shape[-1])
    flat = ordered.reshape(-1, values.shape[-1])
    found = np.stack([np.searchsorted(row, where, side="right") for row in flat])
    return found.reshape(*values.shape[:-1], len(where))


def p_value(values: Array) -> Array:
    """Probability that uniform numbers stray from the diagonal as unusually as these.

    Args:
        values: ``(..., N)``, from 0 to 1.

    Returns:
        ``(...)``; small where they are not uniform and independent.
    """
    count = values.shape[-1]
    counts = below(values)
    where = points(count)
    tails = np.minimum(
        stats.binom.cdf(counts, count, where), stats.binom.sf(counts - 1, count, where)
    )
    least = 2 * tails.min(-1)
    found = np.empty(least.shape)
    for place in np.ndindex(least.shape):
        gamma = min(float(least[place]), 1.0)
        if gamma < LEAST:
            found[place] = 0.0
            continue
        # Paths that are less unusual everywhere: the counts at the level itself are outside.
        low, high = bounds(count, gamma * (1 - 1e-9))
        edge = (stats.binom.cdf(low, count, where) <= gamma / 2 * (1 + 1e-9)).astype(int)
        ridge = (stats.binom.sf(high - 1, count, where) <= gamma / 2 * (1 + 1e-9)).astype(int)
        found[place] = 1 - inside(count, low + edge, high - ridge)
    return found.clip(0, 1)
