"""DCI: which codes boosted trees use to tell a factor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from scipy.stats import entropy

from ppl_models.config import check_seed
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.inference.metrics.disentanglement.boosting import (
    DEPTH,
    RATE,
    ROUNDS,
    Boosted,
    boosted,
    presorted,
)
from ppl_models.inference.metrics.disentanglement.code_table import CodeTable
from ppl_models.inference.metrics.disentanglement.linear_probes import check_alike
from ppl_models.inference.metrics.disentanglement.results import mean_known, result

Array = np.ndarray[Any, Any]
SMALL = 1e-11  # added to importances before logarithms, as in the study's code


def booster(
    table: CodeTable, factor: int, seed: int = 0, codes: tuple[int, ...] | None = None
) -> Boosted:
    """Boosted trees that tell a factor from codes, fitted once and kept with the table.

    Args:
        table: Rows to fit on, in which the factor has more than one value.
        factor: By position.
        seed: Chooses among splits that are equally good.
        codes: Which codes they see, by position; all by default.
    """

    def made() -> Boosted:
        seen = table.codes if codes is None else table.codes[:, codes]
        sorted_codes = table.once(("presorted", codes), lambda: presorted(seen))
        return boosted(sorted_codes, table.factors[:, factor], numpy_generator(seed, factor))

    return table.once(("booster", factor, seed, codes), made)


def dci(train: CodeTable, test: CodeTable, seed: int = 0) -> xr.Dataset:
    """Disentanglement, completeness and informativeness by boosted trees.

    Per factor gradient boosted trees (100 rounds, depth 3, rate 0.1: those of scikit-learn) tell
    it from all codes. R is the share of each code in what their splits took away of the squared
    error. Disentanglement is 1 less the entropy of each row of R to base K, weighted by the
    row's share of R; completeness 1 less the entropy of each column to base D, weighted by the
    column's share; informativeness is the share of rows whose factor is told, averaged over
    factors: larger is better, though Eastwood and Williams (ICLR 2018) speak of errors. Settings
    are those of Locatello et al. (2019, arXiv 1811.12359).

    Args:
        train: Rows that the trees are fitted on.
        test: Other rows.
        seed: Chooses among splits that are equally good.

    Returns:
        ``dci_disentanglement`` and ``dci_completeness``, from 0 to 1, with ``_per_code`` and
        ``_per_factor``; ``dci_informativeness_train`` and ``_test`` with ``_per_factor``; and
        ``dci_importance`` over code and factor, whose columns sum to 1, or to 0 where no code
        varies. If all are 0, both scores are 0. Disentanglement is NaN of one factor,
        completeness of one code, each with a ``reason``. Factors of one value are left out: NaN.

    Raises:
        ValueError: If the tables differ in codes or factors.
    """

    def fitted(factor: int) -> tuple[Array, Array, Array]:
        trees = booster(train, factor, seed)
        return trees.importance, trees.predict_fitted(), trees.predict(test.codes)

    return _dci("dci", train, test, fitted, seed)


def dci_hist(train: CodeTable, test: CodeTable, seed: int = 0) -> xr.Dataset:
    """What :func:`dci` asks, of histogram boosters: faster, and another number.

    ``sklearn.ensemble.HistGradientBoostingClassifier`` of 100 rounds, depth 3 and rate 0.1 puts
    codes into 255 bins and leaves at least 20 rows in a leaf; R is the share of each code in the
    gains of its splits, which weigh gradients by curvature. Scores differ from those of
    :func:`dci` by up to 0.08 where codes are noisy, so compare them among themselves only.

    Args:
        train: Rows that the trees are fitted on.
        test: Other rows.
        seed: Of the rows that bins are made from, where there are more than 200,000.

    Returns:
        As :func:`dci`, with names that begin with ``dci_hist``.

    Raises:
        ValueError: If the tables differ in codes or factors.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    def fitted(factor: int) -> tuple[Array, Array, Array]:
        model = HistGradientBoostingClassifier(
            max_depth=DEPTH, max_iter=ROUNDS, learning_rate=RATE, early_stopping=False,
            random_state=check_seed(seed) % 2**32,
        ).fit(train.codes, train.factors[:, factor])  # fmt: skip
        gains = np.zeros(train.codes.shape[1])
        for tree in (tree for trees in model._predictors for tree in trees):
            nodes = tree.nodes[tree.nodes["is_leaf"] == 0]
            np.add.at(gains, nodes["feature_idx"], nodes["gain"])
        shares = gains / gains.sum() if gains.sum() > 0 else gains
        return shares, model.predict(train.codes), model.predict(test.codes)

    return _dci("dci_hist", train, test, fitted, seed)


def importance_scores(importance: Array) -> tuple[Array, Array, float, float]:
    """Disentanglement of each code ``(D,)``, completeness of each factor ``(K,)``, and both means.

    Args:
        importance: ``(D, K)``, at least 0. Means are weighted by shares of rows and columns; if
            all are 0, every code and factor weighs the same and scores 0.

    Returns:
        NaN for disentanglement where K is 1, and for completeness where D is 1.
    """
    codes, factors = importance.shape
    weights = importance if importance.sum() > 0 else np.ones_like(importance)
    weights = weights / weights.sum()
    with np.errstate(invalid="ignore"):  # 0 / 0 of one code or factor
        per_code = 1 - entropy(importance + SMALL, axis=1) / np.log(factors)
        per_factor = 1 - entropy(importance + SMALL, axis=0) / np.log(codes)
    return (
        per_code,
        per_factor,
        float(weights.sum(1) @ per_code),
        float(weights.sum(0) @ per_factor),
    )


def _dci(
    name: str,
    train: CodeTable,
    test: CodeTable,
    fitted: Callable[[int], tuple[Array, Array, Array]],
    seed: int,
) -> xr.Dataset:
    """Scores of classifiers that give, of a factor, importances and its values in both tables."""
    check_alike(train, test)
    told = np.flatnonzero(train.told)
    dims, factors = train.codes.shape[1], len(train.told)
    importance = np.full((dims, factors), np.nan)
    accuracy = np.full((2, factors), np.nan)
    for factor in told:
        importance[:, factor], *guesses = fitted(int(factor))
        for at, (guess, table) in enumerate(zip(guesses, (train, test), strict=True)):
            accuracy[at, factor] = (guess == table.factors[:, factor]).mean()
    per_code, completeness = np.full(dims, np.nan), np.full(factors, np.nan)
    means = [float("nan")] * 2
    if len(told):
        per_code, completeness[told], *means = importance_scores(importance[:, told])
    settings: dict[str, Any] = {}
    if len(told) < 2:
        settings = {"reason": "fewer than two factors have more than one value"}
    elif dims < 2:
        settings = {"reason": "there is one code"}
    values: dict[str, Any] = {
        f"{name}_disentanglement": means[0],
        f"{name}_disentanglement_per_code": (("code",), per_code),
        f"{name}_completeness": means[1],
        f"{name}_completeness_per_factor": (("factor",), completeness),
        f"{name}_importance": (("code", "factor"), importance),
    }
    for part, of_part in zip(("train", "test"), accuracy, strict=True):
        values[f"{name}_informativeness_{part}"] = mean_known(of_part)
        values[f"{name}_informativeness_{part}_per_factor"] = (("factor",), of_part)
    return result(train, values, seed=seed, test_rows=len(test), **settings)
