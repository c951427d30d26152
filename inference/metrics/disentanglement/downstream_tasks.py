"""Downstream tasks on codes: few labels, lost codes, shifted factors, and fairness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from ppl_models.config import at_least
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.inference.metrics.disentanglement.boosted_trees import booster
from ppl_models.inference.metrics.disentanglement.code_table import CodeTable
from ppl_models.inference.metrics.disentanglement.linear_probes import check_alike
from ppl_models.inference.metrics.disentanglement.results import mean_known, result
from ppl_models.inference.metrics.disentanglement.told_factors import (
    FOLDS,
    Classifier,
    Predict,
    check_classifier,
    teller,
)

Array = np.ndarray[Any, Any]
FEW, MANY = 100, 10_000  # rows whose accuracies statistical efficiency compares
ONE_FACTOR = "fewer than two factors have more than one value"


def downstream(
    train: CodeTable,
    test: CodeTable,
    sizes: Sequence[int] = (10, 100, 1_000, 10_000),
    classifier: Classifier = "logistic",
    seed: int = 0,
) -> xr.Dataset:
    """How well factors are told from codes after few or many labelled rows.

    Per size and factor a classifier is fitted on as many training rows at random, the same for
    all factors and the first of those of a larger size, and asked of all test rows. Statistical
    efficiency is the mean accuracy after 100 rows over that after 10,000 (Locatello et al. 2019,
    arXiv 1811.12359, section 5.5).

    Args:
        train: Rows to fit on.
        test: Other rows.
        sizes: Numbers of training rows, at least 5.
        classifier: ``logistic``: logistic regression whose C is chosen among 10 by five-fold
            cross-validation; ``boosting``: the trees of :func:`dci`.
        seed: Of the rows, and of ties of trees.

    Returns:
        By size ``downstream_{classifier}_train`` and ``_test``, means over factors from 0 to 1,
        with the smallest as ``_min`` and all as ``_per_factor``; and
        ``statistical_efficiency_{classifier}``. NaN of sizes above that of the training table,
        which ``reason`` tells, and of factors of one value in it. A factor that has one value in
        the rows drawn is told as that value.

    Raises:
        ValueError: If the tables differ in codes or factors, a size is below 5, or the
            classifier is unknown.
    """
    check_alike(train, test)
    check_classifier(classifier)
    at_least(sizes=(min(sizes, default=0), FOLDS))
    order = numpy_generator(seed, 0).permutation(len(train))
    accuracy = np.full((2, len(sizes), len(train.told)), np.nan)
    for at, size in enumerate(sizes):
        if size > len(train):
            continue
        # Trees do not see the order of rows, so those of all rows are the ones of DCI.
        whole = size == len(train) and classifier == "boosting"
        rows = train if whole else train.rows(order[:size])
        for factor in _told(train):
            tell = teller(rows, factor, classifier, seed)
            accuracy[:, at, factor] = _accuracies(tell, (rows, test), factor)
    values: dict[str, Any] = {}
    for part, of_part in zip(("train", "test"), accuracy, strict=True):
        name = f"downstream_{classifier}_{part}"
        means = np.array([mean_known(row) for row in of_part])
        values[name] = (("size",), means)
        # numpy's nanmin warns of rows without any number
        smallest = np.where(np.isnan(of_part), np.inf, of_part).min(1)
        values[f"{name}_min"] = (("size",), np.where(np.isinf(smallest), np.nan, smallest))
        values[f"{name}_per_factor"] = (("size", "factor"), of_part)
    by_size = dict(zip(sizes, means, strict=True))
    nan = float("nan")
    efficiency = by_size.get(FEW, nan) / by_size.get(MANY, nan)
    values[f"statistical_efficiency_{classifier}"] = efficiency
    settings: dict[str, Any] = {}
    if max(sizes) > len(train):
        settings["reason"] = f"the training table has {len(train)} rows"
    return result(
        train, values, {"size": list(sizes)}, classifier=classifier, seed=seed,
        test_rows=len(test), **settings,
    )  # fmt: skip


def reduced_downstream(
    train: CodeTable,
    test: CodeTable,
    removed: int = 1,
    classifier: Classifier = "logistic",
    seed: int = 0,
) -> xr.Dataset:
    """How well factors are told without the codes that tell one of them best.

    Per factor the code of the largest importance for it, see :func:`dci`, is taken away, as often
    as is asked for, each time with trees fitted anew on what is left; then all factors are told
    from the codes that remain. A factor whose information is in one code is lost, and the others
    are not (metric of the released code of Locatello et al. 2019).

    Args:
        train: Rows to fit on.
        test: Other rows.
        removed: How many codes are taken away.
        classifier: As for :func:`downstream`.
        seed: Of ties of trees.

    Returns:
        ``reduced_downstream_{classifier}_own``, the mean test accuracy on the factor whose codes
        are gone, and ``_others`` on all others, from 0 to 1; accuracies as ``_matrix`` over
        ``reduced`` (whose codes are gone) and ``factor``. NaN of factors of one value, and of
        others where there is one factor.

    Raises:
        ValueError: If the tables differ in codes or factors, no code would be left, or the
            classifier is unknown.
    """
    check_alike(train, test)
    check_classifier(classifier)
    at_least(removed=(removed, 1))
    if removed >= train.codes.shape[1]:
        raise ValueError(f"removed is {removed}, expected fewer than {train.codes.shape[1]} codes")
    told = _told(train)
    matrix = np.full((len(train.told),) * 2, np.nan)
    accuracies: dict[tuple[int, ...], Array] = {}
    for reduced in told:
        kept: tuple[int, ...] = tuple(range(train.codes.shape[1]))
        for times in range(removed):
            trees = booster(train, reduced, seed, kept if times else None)
            gone = int(trees.importance.argmax())
            kept = kept[:gone] + kept[gone + 1 :]
        if kept not in accuracies:
            parts = train.with_codes(np.array(kept)), test.with_codes(np.array(kept))
            accuracies[kept] = np.full(len(train.told), np.nan)
            for factor in told:
                tell = teller(parts[0], factor, classifier, seed)
                accuracies[kept][factor] = _accuracies(tell, parts[1:], factor)[0]
        matrix[reduced] = accuracies[kept]
    own = np.eye(len(matrix), dtype=bool)
    name = f"reduced_downstream_{classifier}"
    values = {
        f"{name}_own": mean_known(matrix[own]),
        f"{name}_others": mean_known(matrix[~own]),
        f"{name}_matrix": (("reduced", "factor"), matrix),
    }
    reason: dict[str, Any] = {"reason": ONE_FACTOR} if len(told) < 2 else {}
    return result(
        train, values, {"reduced": list(train.factor_names)}, removed=removed,
        classifier=classifier, seed=seed, test_rows=len(test), **reason,
    )  # fmt: skip


def strong_downstream(
    train: CodeTable,
    test: CodeTable,
    repetitions: int = 10,
    classifier: Classifier = "logistic",
    seed: int = 0,
) -> xr.Dataset:
    """How much worse a factor is told where another one takes values that were never seen.

    Per factor and repetition another factor and a value of it are drawn. A classifier is fitted
    on the training rows of that value and asked of the test rows of all other values; beside it
    one that is fitted on as many training rows at random and asked of all test rows. The gap is
    1 less the mean accuracy of the first over that of the second (Locatello et al. 2020, arXiv
    2002.02886, the released code of Locatello et al. 2019). It is about shift alone where factors
    are independent in both tables; where they are not, rows of a value differ in other factors.

    Args:
        train: Rows to fit on.
        test: Other rows.
        repetitions: Draws for each factor.
        classifier: As for :func:`downstream`.
        seed: Of all draws.

    Returns:
        ``strong_downstream_{classifier}_gap``, at most 1 and 0 where nothing is lost; the mean
        accuracies ``_shifted`` and ``_ordinary``, and both ``_per_factor``. NaN with a
        ``reason`` where there are fewer than two factors of several values.

    Raises:
        ValueError: If the tables differ in codes or factors, or the classifier is unknown.
    """
    check_alike(train, test)
    check_classifier(classifier)
    at_least(repetitions=(repetitions, 1))
    accuracy = np.full((2, len(train.told), repetitions), np.nan)  # shifted, ordinary
    told = _told(train)
    for factor in told:
        for time in range(repetitions):
            draw = numpy_generator(seed, factor, time)
            shifts = _shifts(train, test, [other for other in told if other != factor])
            if not len(shifts):
                continue
            other = int(draw.choice(list(shifts)))
            value = draw.choice(shifts[other])
            seen = np.flatnonzero(train.factors[:, other] == value)
            rows = draw.permutation(seen), draw.permutation(len(train))[: len(seen)]
            asked = test.rows(test.factors[:, other] != value), test
            for kind in range(2):
                tell = teller(train.rows(rows[kind]), factor, classifier, seed)
                accuracy[kind, factor, time] = _accuracies(tell, asked[kind : kind + 1], factor)[0]
    per_factor = np.array([[mean_known(row) for row in part] for part in accuracy])
    means = [mean_known(part.ravel()) for part in accuracy]
    name = f"strong_downstream_{classifier}"
    values: dict[str, Any] = {
        f"{name}_gap": 1 - means[0] / means[1] if means[1] > 0 else float("nan")
    }
    for part, mean, of_kind in zip(("shifted", "ordinary"), means, per_factor, strict=True):
        values[f"{name}_{part}"] = mean
        values[f"{name}_{part}_per_factor"] = (("factor",), of_kind)
    reason: dict[str, Any] = {"reason": ONE_FACTOR} if len(told) < 2 else {}
    return result(
        train, values, repetitions=repetitions, classifier=classifier, seed=seed,
        test_rows=len(test), **reason,
    )  # fmt: skip


def fairness(
    train: CodeTable, test: CodeTable, classifier: Classifier = "boosting", seed: int = 0
) -> xr.Dataset:
    """How far predictions of a factor depend on another one: 0 is fair, larger is not.

    Per factor a classifier is fitted, with no regard to the others. Of each sensitive factor, the
    total variation between the distribution of its predictions in the test rows of one value and
    that in all test rows; its mean over values, weighted by their rows, and its maximum
    (Locatello et al. 2019, arXiv 1905.13662). Rows of a value stand for an intervention, as they
    do where factors are independent; where they are not, even a perfect classifier has a score.
    So has noise: of n rows of a value and C equally frequent predictions that do not depend on it
    about ``sqrt((C - 1) / (2 pi n))``.

    Args:
        train: Rows to fit on.
        test: Other rows.
        classifier: As for :func:`downstream`; the trees of :func:`dci` in the study.
        seed: Of ties of trees.

    Returns:
        ``fairness_{classifier}_mean``, the mean over pairs of the mean distances, and ``_max``,
        the largest distance of all, from 0 to 1; of each pair ``_mean_matrix`` and
        ``_max_matrix`` over ``factor`` (told) and ``sensitive``. NaN of a factor with itself and
        of factors of one value.

    Raises:
        ValueError: If the tables differ in codes or factors, or the classifier is unknown.
    """
    check_alike(train, test)
    check_classifier(classifier)
    count = len(train.told)
    mean, most = np.full((count, count), np.nan), np.full((count, count), np.nan)
    told = _told(train)
    for factor in told:
        guesses = teller(train, factor, classifier, seed)(test.codes)
        for sensitive in told:
            if sensitive == factor or not test.told[sensitive]:
                continue
            distance, rows = total_variations(guesses, test.factors[:, sensitive])
            mean[factor, sensitive] = distance @ rows / rows.sum()
            most[factor, sensitive] = distance.max()
    name = f"fairness_{classifier}"
    values = {
        f"{name}_mean": mean_known(mean.ravel()),
        f"{name}_max": np.nan if np.isnan(most).all() else np.nanmax(most),
        f"{name}_mean_matrix": (("factor", "sensitive"), mean),
        f"{name}_max_matrix": (("factor", "sensitive"), most),
    }
    reason: dict[str, Any] = {"reason": ONE_FACTOR} if np.isnan(mean).all() else {}
    return result(
        train, values, {"sensitive": list(train.factor_names)}, classifier=classifier, seed=seed,
        test_rows=len(test), **reason,
    )  # fmt: skip


def total_variations(guesses: Array, groups: Array) -> tuple[Array, Array]:
    """Distances of each group's distribution of guesses from that of all rows, and its rows.

    Args:
        guesses: ``(N,)``.
        groups: ``(N,)``.

    Returns:
        Total variation of each of G groups ``(G,)``, from 0 to 1, and its rows ``(G,)``.
    """
    of_guess, of_group = (np.unique(of, return_inverse=True)[1] for of in (guesses, groups))
    shape = of_group.max() + 1, of_guess.max() + 1
    counts = np.bincount(of_group * shape[1] + of_guess, minlength=shape[0] * shape[1])
    counts = counts.reshape(shape)
    rows = counts.sum(1)
    share = counts / rows[:, None] - counts.sum(0) / len(guesses)
    return np.abs(share).sum(1) / 2, rows


def _told(table: CodeTable) -> list[int]:
    return [int(factor) for factor in np.flatnonzero(table.told)]


def _accuracies(tell: Predict, tables: Sequence[CodeTable], factor: int) -> list[float]:
    return [float((tell(table.codes) == table.factors[:, factor]).mean()) for table in tables]


def _shifts(train: CodeTable, test: CodeTable, others: Sequence[int]) -> dict[int, Array]:
    """Values of other factors that some training rows have and some test rows lack."""
    found = {}
    for other in others:
        values = np.unique(train.factors[:, other])
        left = [value for value in values if (test.factors[:, other] != value).any()]
        if left:
            found[other] = np.array(left)
    return found
