"""What linear classifiers tell of factors: of all codes together, and of each code by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from ppl_models.inference.metrics.disentanglement.code_table import CodeTable
from ppl_models.inference.metrics.disentanglement.information import factor_levels
from ppl_models.inference.metrics.disentanglement.results import mean_known, result
from ppl_models.inference.metrics.disentanglement.support_vectors import in_order, machines

Array = np.ndarray[Any, Any]
COST = 0.01  # of a row inside the margin of a machine
STILL = 1e-12  # a code of less variance correlates with nothing, as in the study's code


class Probe(NamedTuple):
    """A fitted linear classifier of a factor.

    Attributes:
        values: The factor's values in the training rows ``(S,)``.
        scores: From codes ``(n, D)`` to how likely each value is ``(n, S)``, in any unit that
            rises with it.
    """

    values: Array
    scores: Callable[[Array], Array]


def explicitness(train: CodeTable, test: CodeTable) -> xr.Dataset:
    """Explicitness: how well a linear classifier of all codes orders the values of each factor.

    Per factor a multinomial logistic regression (L2, C = 1) of codes standardised with mean and
    deviation of the training rows; the score is the mean over the factor's values of the area
    under the ROC curve of that value against the rest; the mean over factors (Ridgeway and Mozer
    2018, arXiv 1802.05312).

    Args:
        train: Rows that the classifiers are fitted on.
        test: Other rows.

    Returns:
        ``explicitness_train`` and ``explicitness_test``, and both ``_per_factor``: 0.5 by chance,
        at most 1. A value that one of the tables lacks is left out, and listed as
        ``without_value``; its rows still belong to the rest. NaN for factors of one value in
        the training rows, and in tables that have no value of both or no rest.

    Raises:
        ValueError: If the tables differ in codes or factors.
    """
    probes = logistic_probes(train, test)
    per_factor = np.full((2, len(probes)), np.nan)
    absent = []
    for factor, probe in enumerate(probes):
        if probe is None:
            continue
        asked = np.unique(test.factors[:, factor])
        both = np.intersect1d(probe.values, asked)
        missing = np.setxor1d(probe.values, asked)
        absent += [f"{train.factor_names[factor]} = {value}" for value in missing]
        for part, table in enumerate((train, test)):
            area = _mean_area(probe, table.codes, table.factors[:, factor], both)
            per_factor[part, factor] = area
    values = _means("explicitness", per_factor)
    listed: dict[str, Any] = {"without_value": ", ".join(absent)} if absent else {}
    return result(train, values, test_rows=len(test), C=1.0, **listed)


def logistic_informativeness(train: CodeTable, test: CodeTable) -> xr.Dataset:
    """Logistic informativeness: share of rows whose factor a linear classifier of all codes tells.

    Of the classifiers of :func:`explicitness`, the accuracy; the mean over factors. It stands
    beside MED in its released code, and is no part of it (Cao et al. 2022, arXiv 2206.04756).

    Args:
        train: Rows that the classifiers are fitted on.
        test: Other rows.

    Returns:
        ``logistic_informativeness_train`` and ``logistic_informativeness_test``, and both
        ``_per_factor``, from 0 to 1; NaN for factors of one value in the training rows.

    Raises:
        ValueError: If the tables differ in codes or factors.
    """
    probes = logistic_probes(train, test)
    per_factor = np.full((2, len(probes)), np.nan)
    for factor, probe in enumerate(probes):
        if probe is None:
            continue
        for part, table in enumerate((train, test)):
            told = probe.values[probe.scores(table.codes).argmax(1)]
            per_factor[part, factor] = (told == table.factors[:, factor]).mean()
    values = _means("logistic_informativeness", per_factor)
    return result(train, values, test_rows=len(test), C=1.0)


def sap(train: CodeTable, test: CodeTable) -> xr.Dataset:
    """Separated attribute predictability: how far the best code of a factor is ahead, as a class.

    Of every code and factor the test accuracy of a linear support vector machine (squared hinge,
    C = 0.01, classes balanced, one against the rest) that sees this code alone; the difference of
    the two largest accuracies of a factor, and its mean over factors (Kumar et al. 2018, arXiv
    1711.00848, with the settings of the study's code). Of one code alone the second is 0.

    One cut of a line cannot tell a middle class from both sides, so a perfect code scores far
    below 1. Machines are exact, see
    :mod:`~ppl_models.inference.metrics.disentanglement.support_vectors`.

    Args:
        train: Rows that the machines are fitted on.
        test: Other rows.

    Returns:
        ``sap`` and ``sap_per_factor``, from 0 to 1, and the accuracies ``sap_matrix`` over code
        and factor; NaN for factors of one value in the training rows.

    Raises:
        ValueError: If the tables differ in codes or factors.
    """
    check_alike(train, test)
    matrix = np.full((train.codes.shape[1], len(train.told)), np.nan)
    kinds = [np.unique(column) for column in train.factors.T]
    levels = factor_levels(train)
    classes = levels.values.astype(np.min_scalar_type(levels.sizes.max()))  # sorted faster
    for code, values in enumerate(train.codes.T):
        order = np.argsort(values, kind="stable")
        rows = in_order(values[order])
        for factor in np.flatnonzero(train.told):
            slope, offset = machines(rows, classes[factor][order], COST).T
            told = kinds[factor][(np.outer(test.codes[:, code], slope) + offset).argmax(1)]
            matrix[code, factor] = (told == test.factors[:, factor]).mean()
    return result(train, _gaps("sap", matrix), test_rows=len(test), C=COST)


def sap_continuous(table: CodeTable) -> xr.Dataset:
    """Separated attribute predictability of numbers: the same of squared correlations.

    The difference of the two largest squared correlations of a factor with a code, and its mean
    over factors (Kumar et al. 2018, arXiv 1711.00848). It takes values of factors as numbers, so
    their order counts. Of one code alone the second is 0.

    Args:
        table: Codes and factors of N rows.

    Returns:
        ``sap_continuous`` and ``sap_continuous_per_factor``, from 0 to 1, and
        ``sap_continuous_matrix`` over code and factor: 0 for codes of a variance of at most
        1e-12, and constant ones; NaN for factors of one value.
    """
    codes, factors = (of - of.mean(0) for of in (table.codes, table.factors))
    of_codes, of_factors = (codes**2).mean(0), (factors**2).mean(0)
    moving = table.varying & (of_codes > STILL)
    matrix = np.full((len(moving), len(table.told)), np.nan)
    matrix[:, table.told] = 0.0
    part = np.ix_(moving, table.told)
    shared = (codes[:, moving].T @ factors[:, table.told] / len(table)) ** 2
    matrix[part] = shared / np.outer(of_codes[moving], of_factors[table.told])
    return result(table, _gaps("sap_continuous", matrix))


def logistic_probes(train: CodeTable, test: CodeTable) -> list[Probe | None]:
    """Logistic regressions of each factor, fitted once per training table; None of one value.

    Codes are standardised with mean and deviation of the training rows; a constant code is 0
    there, and in the test rows what it differs by.

    Args:
        train: Rows that they are fitted on.
        test: Rows that they will be asked of, whose codes and factors must be the same.

    Raises:
        ValueError: If the tables differ in codes or factors.
    """
    check_alike(train, test)

    def made() -> list[Probe | None]:
        from sklearn.linear_model import LogisticRegression

        centre, deviation = train.codes.mean(0), train.codes.std(0)
        deviation[~train.varying] = 1.0
        inputs = (train.codes - centre) / deviation
        inputs[:, ~train.varying] = 0.0

        def fitted(column: Array) -> Probe:
            model = LogisticRegression(C=1.0, max_iter=1_000).fit(inputs, column)

            def scores(codes: Array) -> Array:
                return np.asarray(model.predict_proba((codes - centre) / deviation))

            return Probe(model.classes_, scores)

        return [
            fitted(column) if told else None
            for column, told in zip(train.factors.T, train.told, strict=True)
        ]

    return train.once("logistic probes", made)


def check_alike(train: CodeTable, test: CodeTable) -> None:
    """Refuse tables of other codes or factors.

    Raises:
        ValueError: If the names of codes or factors differ.
    """
    for what, one, other in (
        ("codes", train.code_names, test.code_names),
        ("factors", train.factor_names, test.factor_names),
    ):
        if len(one) != len(other):
            raise ValueError(f"the test table has {len(other)} {what}, expected {len(one)}")
        for mine, asked in zip(one, other, strict=True):
            if mine != asked:
                raise ValueError(f"{what} of the test table have {asked!r}, expected {mine!r}")


def _mean_area(probe: Probe, codes: Array, column: Array, values: Array) -> float:
    """Mean over values of the area under the ROC curve of each against the rest."""
    ranks = rankdata(probe.scores(codes)[:, np.isin(probe.values, values)], axis=0)
    hit = column[:, None] == values  # n x S
    positive = hit.sum(0)
    pairs = positive * (len(hit) - positive)
    if not (known := pairs > 0).any():
        return float("nan")
    won = (ranks * hit).sum(0) - positive * (positive + 1) / 2
    return float((won[known] / pairs[known]).mean())


def _means(name: str, per_factor: Array) -> dict[str, Any]:
    """Means and values of both tables ``(2, K)``, by name."""
    values: dict[str, Any] = {}
    for part, of_part in zip(("train", "test"), per_factor, strict=True):
        values[f"{name}_{part}"] = mean_known(of_part)
        values[f"{name}_{part}_per_factor"] = (("factor",), of_part)
    return values


def _gaps(name: str, matrix: Array) -> dict[str, Any]:
    """Differences of the two largest entries of each column, and their mean."""
    ranked = -np.sort(-matrix, axis=0)
    gap = ranked[0] - (ranked[1] if len(ranked) > 1 else 0.0)
    return {
        name: mean_known(gap),
        f"{name}_per_factor": (("factor",), gap),
        f"{name}_matrix": (("code", "factor"), matrix),
    }
