r"""Pareto shapes of importance weights (PSIS), all rows at once.

The largest of a row's weights are fitted by a generalised Pareto distribution, with the
empirical-Bayes estimate of Zhang and Stephens (2009) and the weak prior of Vehtari et al. 2024
(arXiv 1507.02646, appendix C). The numbers are ArviZ's, which fits one row after another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

LEAST_DRAWS = 25  # the tail of fewer draws has under 5 of them, and none is fitted
LEAST_TAIL = 5
CONSTANT = 1e-6  # nats; log weights that differ by less are equal
PRIOR_SHAPE, PRIOR_COUNT = 0.5, 10  # the shape is drawn to 0.5 as if by 10 more draws
LEAST_LOG = math.log(np.finfo(np.float64).tiny)
FIT_CELLS = 500_000  # numbers of a fit at a time, which fit a processor's cache


def khat(log_weights: Array) -> Array:
    """Pareto shape of the importance weights of each row (PSIS).

    Args:
        log_weights: ``(draw, datum)``, nats.

    Returns:
        ``(datum,)``: -inf where the weights, or the largest of them, are all equal (an exact
        guide, or weights at their bound), +inf where one is not finite, ties leave fewer than 5
        in the tail, or the tail spans more numbers than a float does (where ArviZ's fit
        overflows to a third), NaN for fewer than 25 draws, which cannot tell.
    """
    log_weights = np.asarray(log_weights)
    return np.concatenate([_shapes(block)[0] for block in _blocks(log_weights)])


def smoothed(log_weights: Array) -> tuple[Array, Array]:
    """Log weights whose tail follows the fitted Pareto distribution, and its shapes (PSIS).

    Args:
        log_weights: ``(draw, datum)``, nats.

    Returns:
        Log weights ``(draw, datum)`` whose exponentials sum to one in each row, no tail above
        the largest raw weight; and the shapes of :func:`khat`. Where these are not finite, the
        weights are only normalised.
    """
    parts = []
    for block in _blocks(np.asarray(log_weights)):
        shapes, scales, sizes = _shapes(block)
        with np.errstate(invalid="ignore"):
            block -= block.max(1, keepdims=True)
            _smooth(block, shapes, scales, sizes)
            block -= np.logaddexp.reduce(block, 1, keepdims=True)
        parts.append((block.T, shapes))
    smooth, found = zip(*parts, strict=True)
    return np.concatenate(smooth, 1), np.concatenate(found)


def _blocks(log_weights: Array) -> Iterator[Array]:
    """Some rows ``(rows, draws)`` at a time; one block of none where there are none."""
    draws, rows = log_weights.shape
    tail = _tail(draws)
    step = max(1, FIT_CELLS // (tail * _grid(tail)))
    for start in range(0, max(rows, 1), step):
        yield log_weights[:, start : start + step].T.astype(np.float64)


def _tail(draws: int) -> int:
    return math.ceil(min(draws / 5, 3 * math.sqrt(draws)))


def _shapes(weights: Array) -> tuple[Array, Array, Array]:
    """Shape and scale of the tail, and how many draws are in it, of ``(rows, draws)``."""
    rows, draws = weights.shape
    scales, counts = np.full(rows, np.nan), np.zeros(rows, int)
    if draws < LEAST_DRAWS or not rows:
        return np.full(rows, np.nan), scales, counts
    tail = _tail(draws)
    top = weights.max(1)
    # A draw of weight zero (-inf) is no failure; NaN, +inf and nothing but zeros are.
    fit = np.isfinite(top) & ~np.isnan(weights).any(1)
    shapes = np.full(len(weights), np.inf)
    place = weights.shape[1] - tail - 1
    kept = weights[fit] - top[fit, None]
    largest = np.sort(np.partition(kept, place, axis=1)[:, place:], axis=1)
    exact = -largest[:, 0] < CONSTANT
    cut = np.maximum(largest[:, 0], LEAST_LOG)[:, None]
    # Draws tied with the one below the tail leave it, so that rows differ in their tails.
    sizes = (largest > cut).sum(1)
    found = np.full(len(kept), np.inf)
    found[exact] = -np.inf
    excess = np.exp(largest) - np.exp(cut)
    for size in np.unique(sizes[~exact & (sizes >= LEAST_TAIL)]):
        chosen = ~exact & (sizes == size)
        at = np.flatnonzero(fit)[chosen]
        found[chosen], scales[at] = _fitted(excess[chosen, largest.shape[1] - size :])
        counts[at] = size
    shapes[fit] = found
    return shapes, scales, counts


def _smooth(weights: Array, shapes: Array, scales: Array, sizes: Array) -> None:
    """Put quantiles of the fitted distributions in place of the tails, largest weight 0."""
    for size in np.unique(sizes[np.isfinite(shapes)]):
        rows = np.flatnonzero(np.isfinite(shapes) & (sizes == size))
        order = np.argsort(weights[rows], 1)
        cut = np.take_along_axis(weights[rows], order[:, [-size - 1]], 1)
        start = np.exp(np.maximum(cut, LEAST_LOG))
        shape = shapes[rows, None]
        logs = np.log1p(-(np.arange(size) + 0.5) / size)
        with np.errstate(divide="ignore", invalid="ignore"):
            quantile = np.where(shape == 0, -logs, np.expm1(-shape * logs) / shape)
            new = np.log(scales[rows, None] * quantile + start).clip(max=0)
        weights[rows[:, None], order[:, -size:]] = new


def _grid(size: int) -> int:
    """Values of the other parameter that are averaged over, for a tail of so many draws."""
    return 30 + int(math.sqrt(size))


def _fitted(excess: Array) -> tuple[Array, Array]:
    """Shapes and scales of generalised Pareto distributions.

    Args:
        excess: What the draws of each tail have above its start ``(rows, n)``, increasing.
    """
    count = excess.shape[1]
    grid = _grid(count)
    quartile = excess[:, int(count / 4 + 0.5) - 1, None]
    steps = 1 - np.sqrt(grid / (np.arange(grid) + 0.5))
    with np.errstate(all="ignore"):
        slopes = steps / (3 * quartile) + 1 / excess[:, -1:]
        mean_logs = np.log1p(-slopes[:, :, None] * excess[:, None, :]).mean(2)
        log_like = count * (np.log(-slopes / mean_logs) - mean_logs - 1)
        weights = np.exp(log_like - log_like.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        weights[weights < 10 * np.finfo(np.float64).eps] = 0
        slope = (slopes * weights).sum(1) / weights.sum(1)
        shape = np.log1p(-slope[:, None] * excess).mean(1)
        scale = -shape / slope
    fitted = (count * shape + PRIOR_COUNT * PRIOR_SHAPE) / (count + PRIOR_COUNT)
    return np.where(np.isnan(fitted), np.inf, fitted), scale
