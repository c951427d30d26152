"""DCI: which codes boosted trees use to tell a factor, exactly and with codes in bins."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from scipy.stats import entropy

from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.inference.metrics.boosting import Boosted, boosted, presorted
from ppl_models.inference.metrics.code_table import CodeTable
from ppl_models.inference.metrics.linear_probes import check_alike
from ppl_models.inference.metrics.results import mean_known, result

Array = np.ndarray[Any, Any]
SMALL = 1e-11  # added to importances before logarithms, as in the study's code
BINS = 255  # of a code in :func:`dci_hist`, as histogram boosters have


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
    return _dci("dci", train, test, seed, {})


def dci_hist(train: CodeTable, test: CodeTable, seed: int = 0) -> xr.Dataset:
    """What :func:`dci` gives of codes in bins: faster, and close to it but not equal.

    Each code is put into 255 bins of as many training rows each, as histogram boosters do (Ke et
    al. 2017); trees, importances and scores are those of :func:`dci`. Boosters of scikit-learn
    and LightGBM weigh splits by curvature, too, so that their shares are other numbers.

    Args:
        train: Rows that the bins are made from and the trees fitted on.
        test: Other rows.
        seed: Chooses among splits that are equally good.

    Returns:
        As :func:`dci`, with names that begin with ``dci_hist``.

    Raises:
        ValueError: If the tables differ in codes or factors.
    """
    check_alike(train, test)

    def made() -> tuple[Array, CodeTable]:
        edges = np.quantile(train.codes, np.arange(1, BINS) / BINS, axis=0)
        return edges, _in_bins(train, edges)

    edges, binned = train.once("in bins of equal counts", made)
    return _dci("dci_hist", binned, _in_bins(test, edges), seed, {"bins": BINS})


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
    name: str, train: CodeTable, test: CodeTable, seed: int, settings: dict[str, Any]
) -> xr.Dataset:
    check_alike(train, test)
    told = np.flatnonzero(train.told)
    dims, factors = train.codes.shape[1], len(train.told)
    importance = np.full((dims, factors), np.nan)
    accuracy = np.full((2, factors), np.nan)
    for factor in told:
        trees = booster(train, factor, seed)
        importance[:, factor] = trees.importance
        for part, guess, table in (
            (0, trees.predict_fitted(), train),
            (1, trees.predict(test.codes), test),
        ):
            accuracy[part, factor] = (guess == table.factors[:, factor]).mean()
    per_code, completeness = np.full(dims, np.nan), np.full(factors, np.nan)
    means = [float("nan")] * 2
    if len(told):
        per_code, completeness[told], *means = importance_scores(importance[:, told])
    if len(told) < 2:
        settings["reason"] = "fewer than two factors have more than one value"
    elif dims < 2:
        settings["reason"] = "there is one code"
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


def _in_bins(table: CodeTable, edges: Array) -> CodeTable:
    """The table with each code as the number of its bin."""
    from dataclasses import replace

    columns = [
        np.searchsorted(edge, code, side="right")
        for edge, code in zip(edges.T, table.codes.T, strict=True)
    ]
    return replace(table, codes=np.stack(columns, 1).astype(np.float64))
