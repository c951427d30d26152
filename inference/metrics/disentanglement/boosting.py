"""Gradient boosted trees that equal scikit-learn's, with splits found in codes sorted once.

Friedman (2001), Greedy function approximation, algorithm 6, with the settings that
``sklearn.ensemble.GradientBoostingClassifier`` has by default: 100 rounds of one tree for each
class (one tree for two classes), depth 3, rate 0.1, splits by squared error halfway between
values, one Newton step in each leaf. Only splits that rounding cannot tell apart may differ.

What makes it faster: codes are sorted once for all trees of all classes and factors, and a node
keeps its rows in the order of every code. With gradients centred in the node, a split after n of
N rows whose gradients sum to S lessens the squared error by S^2 N / (n (N - n)): one cumulative
sum for each code. A code of few values is summed over its values instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import expit

Array = np.ndarray[Any, Any]
ROUNDS, DEPTH, RATE = 100, 3, 0.1
CLOSE = np.float32(1e-7)  # values no further apart than this are not split, in single precision
PURE = np.finfo(np.float64).eps  # a node of no more squared error than this is not split
TIED = 1e-10  # splits whose gains differ by less, relative to the best, are equally good
FEW = 8  # a code with at most a value for so many rows is summed over its values
BLOCK = 1 << 17  # entries of codes in work at once: what a cache holds
INNER, LEAVES = 2**DEPTH - 1, 2**DEPTH


@dataclass(frozen=True, eq=False)
class Presorted:
    """Codes ``(N, D)`` in single precision, in the orders that trees need.

    Attributes:
        values: ``(D, N)``, single precision, as scikit-learn has them.
        many: Codes of many values, by position.
        order: For each of them its rows in ascending order.
        few: Codes of few values, by position.
        places: For each of them and row the place of its value in ``levels``.
        levels: Values of these codes, ascending, one code after the other.
        first: Where in ``levels`` each code begins.
    """

    values: Array
    many: Array
    order: Array
    few: Array
    places: Array
    levels: Array
    first: Array


def presorted(codes: Array) -> Presorted:
    """Sorts codes, once for all trees.

    Args:
        codes: ``(N, D)``, finite. Codes whose values are all within 1e-7 are never split.
    """
    values = np.ascontiguousarray(codes.T.astype(np.float32))
    order = np.argsort(values, 1, kind="stable")
    ascending = np.take_along_axis(values, order, 1)
    apart = ascending[:, 1:] > ascending[:, :-1] + CLOSE
    distinct = ascending[:, 1:] != ascending[:, :-1]
    told = ascending[:, -1] > ascending[:, 0] + CLOSE
    # values nearer to each other than CLOSE are compared in each node, so they stay in order
    grouped = (apart == distinct).all(1) & ((1 + distinct.sum(1)) * FEW <= values.shape[1])
    few, many = np.flatnonzero(told & grouped), np.flatnonzero(told & ~grouped)
    found = [np.unique(values[code], return_inverse=True) for code in few]
    first = np.cumsum([0, *(len(levels) for levels, _ in found)])[:-1].astype(np.intp)
    places = [begin + place for begin, (_, place) in zip(first, found, strict=True)]
    return Presorted(
        values,
        many,
        np.ascontiguousarray(order[many]),
        few,
        np.stack(places) if places else np.empty((0, values.shape[1]), np.intp),
        np.concatenate([levels for levels, _ in found]) if found else np.empty(0, np.float32),
        first,
    )


@dataclass(frozen=True, eq=False)
class Trees:
    """Fitted trees, T in each round, whose leaves add up to scores.

    Attributes:
        prior: Scores before the first round ``(T,)``.
        code: Which code each inner node asks ``(rounds, T, 7)``; children of node n are 2 n + 1
            and 2 n + 2.
        threshold: The largest value that goes left ``(rounds, T, 7)``; infinite where a node is
            not split.
        leaf: What each leaf adds to the scores ``(rounds, T, 8)``.
        gain: Squared error that the splits on each code took away ``(D,)``.
        fitted: Scores of the rows that they were fitted on ``(N, T)``.
    """

    prior: Array
    code: Array
    threshold: Array
    leaf: Array
    gain: Array
    fitted: Array

    @property
    def importance(self) -> Array:
        """Share of each code in what splits took away ``(D,)``; zeros if nothing was split."""
        whole = self.gain.sum()
        shares: Array = self.gain / whole if whole > 0 else np.zeros_like(self.gain)
        return shares

    def scores(self, codes: Array) -> Array:
        """Scores of rows ``(N, T)``.

        Args:
            codes: ``(N, D)``.
        """
        values = codes.astype(np.float32)
        found = np.tile(self.prior, (len(values), 1))
        rows, trees = np.arange(len(values))[:, None], np.arange(found.shape[1])
        for code, threshold, leaf in zip(self.code, self.threshold, self.leaf, strict=True):
            node = np.zeros(found.shape, np.intp)
            for _ in range(DEPTH):
                right = values[rows, code[trees, node]] > threshold[trees, node]
                node = 2 * node + 1 + right
            found += leaf[trees, node - INNER]
        return found


@dataclass(frozen=True, eq=False)
class Boosted(Trees):
    """A fitted booster: one tree in each round for two classes, C for more.

    Scores are log odds of the second class, or up to a constant log p.

    Attributes:
        classes: Labels of the C classes, ascending.
    """

    classes: Array

    def probabilities(self, codes: Array) -> Array:
        """Of each class ``(N, C)``."""
        of = _probabilities(self.scores(codes).T).T
        return np.concatenate([1 - of, of], 1) if of.shape[1] == 1 else of

    def predict(self, codes: Array) -> Array:
        """The most probable class of each row ``(N,)``."""
        return self._most(self.scores(codes))

    def predict_fitted(self) -> Array:
        """The most probable class of each row that it was fitted on ``(N,)``."""
        return self._most(self.fitted)

    def _most(self, scores: Array) -> Array:
        best = scores.argmax(1) if scores.shape[1] > 1 else (scores[:, 0] >= 0).astype(np.intp)
        labels: Array = self.classes[best]
        return labels


def boosted(
    codes: Presorted, labels: Array, rng: np.random.Generator, rounds: int = ROUNDS
) -> Boosted:
    """Fits a booster.

    Args:
        codes: Of N rows.
        labels: ``(N,)``, of at least two classes.
        rng: Draws among splits of the same gain to the last digit, as scikit-learn does, too.
        rounds: Trees for each class.

    Raises:
        ValueError: If there is but one class.
    """
    classes, of = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"labels are all {classes[0]}, expected two classes or more")
    share = np.bincount(of) / len(of)
    told = (of == np.arange(len(classes))[:, None]).astype(np.float64)
    if len(classes) == 2:
        prior, told, step = np.log(share[1:] / share[:1]), told[1:], 1.0
    else:
        prior = np.log(share) - np.log(share).mean()
        step = (len(classes) - 1) / len(classes)  # Friedman's factor
    trees = len(told)
    code = np.zeros((rounds, trees, INNER), np.intp)
    threshold = np.full((rounds, trees, INNER), np.inf)
    leaf = np.zeros((rounds, trees, LEAVES))
    grower = Grower(codes, rng)
    scores = np.repeat(prior[:, None], len(of), 1)
    for at in range(rounds):
        p = _probabilities(scores)
        for tree in range(trees):
            gradient = told[tree] - p[tree]
            places = grower.tree(gradient, code[at, tree], threshold[at, tree])
            slope = np.bincount(places, gradient, LEAVES)
            curvature = np.bincount(places, p[tree] * (1 - p[tree]), LEAVES)
            known = curvature >= 1e-150
            leaf[at, tree, known] = RATE * step * slope[known] / curvature[known]
            scores[tree] += leaf[at, tree].take(places)
    return Boosted(prior, code, threshold, leaf, grower.gain, scores.T, classes)


def _probabilities(scores: Array) -> Array:
    """Of the trees' classes ``(T, N)``."""
    if len(scores) == 1:
        second: Array = expit(scores)
        return second
    shares: Array = np.exp(scores - scores.max(0))
    shares /= shares.sum(0)
    return shares


@dataclass(frozen=True, eq=False)
class _Node:
    """Rows ``(n,)`` of a node, in the orders of codes, and their sums by value."""

    rows: Array
    order: Array
    count: Array
    sums: Array


class Grower:
    """Grows trees on gradients, one after another; ``gain`` sums what their splits took away."""

    def __init__(self, codes: Presorted, rng: np.random.Generator) -> None:
        self.codes, self.rng = codes, rng
        dims, rows = codes.values.shape
        self.gain = np.zeros(dims)
        self.centred, self.side = np.empty(rows), np.empty(rows, bool)
        self.all = np.arange(rows)
        self.sizes = np.diff(codes.first, append=len(codes.levels))
        self.slot = np.full(dims, -1)  # of each code its place among those of many values
        self.slot[codes.many] = np.arange(len(codes.many))
        self.count = np.bincount(codes.places.ravel(), minlength=len(codes.levels))

    def tree(self, gradient: Array, code: Array, threshold: Array) -> Array:
        """Grows a tree into ``code`` and ``threshold`` ``(7,)``; the leaf of each row ``(N,)``."""
        self.gradient, self.code, self.threshold = gradient, code, threshold
        self.leaf = np.empty(len(gradient), np.intp)
        self.grow(0, 0, _Node(self.all, self.codes.order, self.count, self.sums(self.all)))
        return self.leaf

    def grow(self, place: int, depth: int, node: _Node) -> None:
        """Splits a node and what is below it; what cannot be split goes to the left."""
        split = self.best(node)
        if split is None:
            self.leaf[node.rows] = (place + 1) * 2 ** (DEPTH - depth) - 1 - INNER
            return
        code, threshold, gain = split
        self.code[place], self.threshold[place] = code, threshold
        self.gain[code] += gain
        # In double precision, in which the middle of two neighbours is between them.
        right = self.codes.values[code].take(node.rows) > np.float64(threshold)
        if depth + 1 == DEPTH:
            self.leaf[node.rows] = 2 * place + 1 + right - INNER
            return
        for side, child in enumerate(self.children(node, right)):
            self.grow(2 * place + 1 + side, depth + 1, child)

    def children(self, node: _Node, right: Array) -> tuple[_Node, _Node]:
        """Both sides of a split, each in the orders of the node."""
        rows = np.compress(~right, node.rows), np.compress(right, node.rows)
        orders = [node.order, node.order]
        if len(node.order):
            self.side[node.rows] = right
            goes, flat = self.side.take(node.order).ravel(), node.order.ravel()
            orders[1] = np.compress(goes, flat).reshape(len(node.order), -1)
            orders[0] = np.compress(np.logical_not(goes, out=goes), flat).reshape(
                len(node.order), -1
            )
        small = int(len(rows[1]) < len(rows[0]))  # the other is what is left of the node
        count, sums = node.count, node.sums
        if len(count):
            places = self.codes.places.take(rows[small], axis=1).ravel()
            count = np.bincount(places, minlength=len(count))
            sums = self.sums(rows[small], places)
        first = _Node(rows[small], orders[small], count, sums)
        other = _Node(rows[1 - small], orders[1 - small], node.count - count, node.sums - sums)
        return (other, first) if small else (first, other)

    def sums(self, rows: Array, places: Array | None = None) -> Array:
        """Gradients summed over each value of codes of few values."""
        if not len(self.codes.few):
            return np.empty(0)
        places = self.codes.places.ravel() if places is None else places
        weights = np.tile(self.gradient.take(rows), len(self.codes.few))
        return np.bincount(places, weights, len(self.codes.levels))

    def best(self, node: _Node) -> tuple[int, float, float] | None:
        """The code, threshold and gain of the best split; none if there is none."""
        gradient = self.gradient.take(node.rows)
        mean = gradient.mean()
        gradient -= mean
        if gradient @ gradient <= PURE * len(gradient):
            return None
        codes, values = self.codes, self.codes.values
        gains, places = np.full(len(values), -1.0), np.zeros(len(values), np.intp)
        if len(node.order):
            self.centred[node.rows] = gradient
            gains[codes.many], places[codes.many] = self.by_order(node.order)
        if len(codes.few):
            gains[codes.few], places[codes.few] = self.by_value(node, mean)
        while (top := gains.max()) >= 0:
            tied = np.flatnonzero(gains >= top * (1 - TIED))
            code = int(tied[0] if len(tied) == 1 else self.first_of(tied, places, node))
            place = places[code]
            if self.slot[code] < 0:
                above = place + 1 + np.flatnonzero(node.count[place + 1 :])[0]
                low, high = codes.levels[place], codes.levels[above]
                return code, float(low) / 2 + float(high) / 2, float(top)
            line = node.order[self.slot[code]]
            low, high = values[code, line[place]], values[code, line[place + 1]]
            if high > low + CLOSE:
                return code, float(low) / 2 + float(high) / 2, float(top)
            # the best place is between equal values: look again, between others only
            ascending = values[code].take(line)
            of_all = self.split_gains(line[None])[0]
            of_all[ascending[1:] <= ascending[:-1] + CLOSE] = -1
            places[code] = of_all.argmax()
            gains[code] = of_all[places[code]]
        return None

    def first_of(self, tied: Array, places: Array, node: _Node) -> int:
        """Of splits that are equally good the one that scikit-learn's rounding puts first.

        Codes that tell a class equally well are not rare, and rounding then decides a whole tree:
        so it has to be the same rounding, of sums in the order of the code. What is equal even
        then is drawn, as it is there.
        """
        total = self.gradient.take(node.rows).cumsum()[-1]
        heights = np.empty(len(tied))
        for at, code in enumerate(tied):
            place = places[code]
            if self.slot[code] >= 0:
                line = node.order[self.slot[code]]
            else:
                value = self.codes.places[np.searchsorted(self.codes.few, code)].take(node.rows)
                line = node.rows[np.argsort(value, kind="stable")]
                place = (value <= place).sum() - 1
            sums = self.gradient.take(line).cumsum()[place]
            left, right = place + 1, len(line) - place - 1
            heights[at] = sums * sums / left + (total - sums) * (total - sums) / right
        return int(self.rng.choice(tied[heights == heights.max()]))

    def by_order(self, order: Array) -> tuple[Array, Array]:
        """Gain and place of the best split of each code of many values."""
        gains, places = np.empty(len(order)), np.empty(len(order), np.intp)
        step = max(1, BLOCK // order.shape[1])
        for start in range(0, len(order), step):
            some = slice(start, start + step)
            of_all = self.split_gains(order[some])
            places[some] = of_all.argmax(1)
            gains[some] = of_all[np.arange(len(of_all)), places[some]]
        return gains, places

    def split_gains(self, order: Array) -> Array:
        """Gains ``(D, n - 1)`` of splits after each row of orders ``(D, n)``."""
        n = order.shape[1]
        sums = torch.from_numpy(self.centred.take(order)).cumsum(1).numpy()[:, :-1]  # 4 x numpy's
        left = np.arange(1.0, n)
        sums *= sums
        sums *= n / (left * (n - left))
        return sums

    def by_value(self, node: _Node, mean: float) -> tuple[Array, Array]:
        """Gain and place of the best split of each code of few values."""
        n, first = len(node.rows), self.codes.first
        left = np.cumsum(node.count)
        left -= np.repeat(n * np.arange(len(first)), self.sizes)
        gains = np.cumsum(node.sums - mean * node.count)
        gains *= gains
        product = left * (n - left)
        gains *= n / np.maximum(product, 1)
        gains[(product == 0) | (node.count == 0)] = -1
        best = np.maximum.reduceat(gains, first)
        hit = np.flatnonzero(gains == np.repeat(best, self.sizes))
        return best, hit[np.searchsorted(hit, first)]
