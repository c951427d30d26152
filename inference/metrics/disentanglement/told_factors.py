"""Classifiers that tell a factor from codes: the ones that downstream metrics ask."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from ppl_models.inference.metrics.disentanglement.boosted_trees import booster
from ppl_models.inference.metrics.disentanglement.code_table import CodeTable

Array = np.ndarray[Any, Any]
Predict = Callable[[Array], Array]
Classifier = Literal["logistic", "boosting"]
FOLDS, STRENGTHS = 5, np.logspace(-4, 4, 10)  # of the cross-validation, as in the study's code


def check_classifier(classifier: str) -> None:
    """Refuse other names.

    Raises:
        ValueError: If it is neither ``logistic`` nor ``boosting``.
    """
    if classifier not in ("logistic", "boosting"):
        raise ValueError(f"classifier is {classifier!r}, expected 'logistic' or 'boosting'")


def teller(table: CodeTable, factor: int, classifier: Classifier, seed: int) -> Predict:
    """Fits a classifier of a factor.

    Args:
        table: Rows to fit on. If the factor has one value in them, that is what is told.
        factor: By position.
        classifier: ``logistic``, whose strength of regularisation is chosen by cross-validation
            over folds of the rows in their order, or ``boosting``, kept with the table.
        seed: Of ties of boosted trees.

    Returns:
        From codes ``(n, D)`` to values ``(n,)``.
    """
    labels = table.factors[:, factor]
    if (labels == labels[0]).all():
        return lambda codes: np.full(len(codes), labels[0])
    if classifier == "boosting":
        return booster(table, factor, seed).predict
    return chosen_logistic(table.codes, labels)


def chosen_logistic(codes: Array, labels: Array) -> Predict:
    """Logistic regression (L2) with the C, of 10 from 1e-4 to 1e4, that is best on left-out folds.

    The five folds are rows in their order, each left out once; of equally good C the smallest.
    Codes are not standardised, as in the study's code, so their scale weighs.

    Args:
        codes: ``(N, D)``.
        labels: ``(N,)``, of two values or more.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    hits = np.zeros(len(STRENGTHS))
    known = np.ones(len(labels), bool)
    # It warns where rows can be separated, so that the optimum of a weak prior is far away.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for left_out in np.array_split(np.arange(len(labels)), min(FOLDS, len(labels))):
            known[:] = True
            known[left_out] = False
            if (labels[known] == labels[known][0]).all():
                hits += (labels[left_out] == labels[known][0]).mean()
                continue
            model = LogisticRegression(solver="newton-cholesky", warm_start=True)
            for at, strength in enumerate(STRENGTHS):
                model.set_params(C=strength).fit(codes[known], labels[known])
                hits[at] += (model.predict(codes[left_out]) == labels[left_out]).mean()
        best = STRENGTHS[hits.argmax()]
        model = LogisticRegression(C=best, solver="newton-cholesky").fit(codes, labels)
    return lambda asked: np.asarray(model.predict(asked))
