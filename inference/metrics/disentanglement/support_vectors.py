"""Linear support vector machines that see one number: exact, from sums over sorted values.

The rows inside the margin of a machine on a line are those on one side of a threshold. Of values
sorted once, every sum over them is read off running sums, so a step of Newton's method costs a
search and not a pass over the rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
STEPS, SMALL = 200, 1e-9
DONE = 1e-24  # of the value: Newton's method is exact once it is among the right rows


class Sorted(NamedTuple):
    """Rows of a code in its order.

    Attributes:
        values: Ascending ``(n,)``.
        sums: Running sums of 1, x and x^2 ``(3, n + 1)``, from 0.
    """

    values: Array
    sums: Array


def in_order(values: Array) -> Sorted:
    """Ascending values ``(n,)`` with their running sums."""
    sums = np.zeros((3, len(values) + 1))
    sums[0] = np.arange(len(values) + 1)
    np.cumsum(values, out=sums[1, 1:])
    np.cumsum(values * values, out=sums[2, 1:])
    return Sorted(values, sums)


def machines(everyone: Sorted, classes: Array, cost: float = 0.01) -> Array:
    """Slope and offset ``(S, 2)`` of a machine for each class against the rest.

    Each makes ``(w^2 + b^2) / 2 + sum_i C_i max(0, 1 - t_i (w x_i + b))^2`` least, where t is 1
    for the rows of the class and -1 for the rest. This is liblinear's machine of squared hinge
    loss (Fan et al. 2008), whose offset is regularised too, with balanced classes as scikit-learn
    asks for them: ``C_i`` is ``cost N / (S n_c)`` in class c, and ``cost`` in the rest of it. Of
    two classes both have their own, and the two machines are each other's negative.

    Args:
        everyone: N rows of a code in its order.
        classes: ``(N,)`` in that order, from 0, none of the S without a row.
        cost: What a row inside the margin costs.
    """
    counts = np.bincount(classes)
    costs = cost * len(classes) / (len(counts) * counts)
    by_class = everyone.values[np.argsort(classes, kind="stable")]
    found = []
    for c, end in enumerate(np.cumsum(counts)):
        hits = in_order(by_class[end - counts[c] : end])
        rest = costs[1 - c] if len(counts) == 2 else cost
        found.append(_machine(hits, everyone, float(costs[c]), float(rest)))
    return np.array(found)


def _machine(hits: Sorted, everyone: Sorted, cost: float, rest: float) -> tuple[float, float]:
    """Newton's method with halved steps: what is made least is quadratic by parts, and convex."""
    w = b = 0.0
    value, gradient, curvature = _objective(w, b, hits, everyone, cost, rest)
    for _ in range(STEPS):
        ww, wb, bb = curvature
        down = ww * bb - wb * wb
        by_w = (wb * gradient[1] - bb * gradient[0]) / down
        by_b = (wb * gradient[0] - ww * gradient[1]) / down
        slope = gradient[0] * by_w + gradient[1] * by_b  # minus twice what is left to gain
        if -slope <= DONE * value:
            break
        share = 1.0
        while share > SMALL:
            found = _objective(w + share * by_w, b + share * by_b, hits, everyone, cost, rest)
            if found[0] <= value + 1e-4 * share * slope:
                break
            share /= 2
        else:  # of a convex function a gain below its rounding: the whole step is as good
            return w + by_w, b + by_b
        w, b = w + share * by_w, b + share * by_b
        value, gradient, curvature = found
    return w, b


def _objective(
    w: float, b: float, hits: Sorted, everyone: Sorted, cost: float, rest: float
) -> tuple[float, tuple[float, float], tuple[float, float, float]]:
    """What is made least, its gradient by w and b, and its second derivatives ww, wb and bb."""
    value, by_w, by_b, ww, wb, bb = (w * w + b * b) / 2, w, b, 1.0, 0.0, 1.0
    others = _inside(-w, -b, everyone) - _inside(-w, -b, hits)
    for t, c, sums in ((1.0, cost, _inside(w, b, hits)), (-1.0, rest, others)):
        n, x, xx = sums.tolist()
        # Over rows inside the margin, of u = w x + b - t.
        of_u = w * x + (b - t) * n
        of_ux = w * xx + (b - t) * x
        value += c * (w * of_ux + (b - t) * of_u)
        by_w += 2 * c * of_ux
        by_b += 2 * c * of_u
        ww += 2 * c * xx
        wb += 2 * c * x
        bb += 2 * c * n
    return value, (by_w, by_b), (ww, wb, bb)


def _inside(w: float, b: float, rows: Sorted) -> Array:
    """Sums of 1, x and x^2 ``(3,)`` over the rows with ``w x + b < 1``."""
    if w == 0:
        return rows.sums[:, -1 if b < 1 else 0]
    edge = (1 - b) / w
    if w > 0:
        return rows.sums[:, rows.values.searchsorted(edge, side="left")]
    return rows.sums[:, -1] - rows.sums[:, rows.values.searchsorted(edge, side="right")]
