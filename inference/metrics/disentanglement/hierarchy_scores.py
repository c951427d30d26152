"""DCI of a hierarchy of factors: codes of child factors apart from those of all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ppl_models.config import check_seed, names, unknown, whole
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.inference.metrics.disentanglement.boosted_trees import importance_scores
from ppl_models.inference.metrics.disentanglement.boosting import Trees, presorted
from ppl_models.inference.metrics.disentanglement.code_table import CodeTable
from ppl_models.inference.metrics.disentanglement.linear_probes import check_alike
from ppl_models.inference.metrics.disentanglement.regression_trees import regressed
from ppl_models.inference.metrics.disentanglement.results import mean_known, result

Array = np.ndarray[Any, Any]
NAME = "hierarchical_dci"


def hierarchical_dci(
    train: CodeTable,
    test: CodeTable,
    children: Sequence[str],
    periods: Mapping[str, int] | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Disentanglement and completeness of child factors, and of all other factors, by trees.

    Per factor gradient boosted regression trees (100 rounds, depth 3, rate 0.1: those of
    scikit-learn) tell it from all codes; R is the share of each code in what their splits took
    away of the squared error. A code is a child code if the largest entry of its row of R among
    the child factors is at least the largest among the others. The child scores are those of
    :func:`dci` of R restricted to child codes and child factors; the overall scores those of the
    other codes and factors. From the released code of Boxhead (Chen et al. 2021, arXiv
    2110.03628), whose trees tell class numbers; factors of ``periods`` are told as points on a
    circle here, so that nothing hangs on where their numbers begin.

    Args:
        train: Rows that the trees are fitted on.
        test: Other rows, for R squared.
        children: Names of the child factors; all others are overall factors, a parent of the
            children among them.
        periods: Number of classes around the circle, of each factor that lies on one: it is told
            by cosine and sine of 2 pi class / period, whose gains are summed.
        seed: Chooses among splits that are equally good.

    Returns:
        ``hierarchical_dci_child_disentanglement``, ``_child_completeness``,
        ``_overall_disentanglement`` and ``_overall_completeness``, from 0 to 1, 0 where no code
        is of that kind. Disentanglement is NaN of one factor, completeness of one code.
        ``_child_code`` says which codes are child codes (1) and ``_importance`` over code and
        factor is R, whose columns sum to 1, or to 0 where no code varies. ``_r2_train`` and
        ``_r2_test`` with ``_per_factor`` are shares of the variance that are told; of a circle,
        of that of its points in the plane. Factors of one value are left out: NaN.

    Raises:
        ValueError: If the tables differ in codes or factors, a factor is unknown, all or none
            are children, or a class is outside its period.
    """
    check_alike(train, test)
    child = _children(train, children)
    around = _periods(train, test, periods or {})
    told = np.flatnonzero(train.told)
    dims, factors = train.codes.shape[1], len(train.told)
    importance, r2 = np.full((dims, factors), np.nan), np.full((2, factors), np.nan)
    for factor in told:
        period = around.get(train.factor_names[factor])
        trees = _trees(train, int(factor), period, check_seed(seed))
        importance[:, factor] = trees.importance
        guesses = trees.fitted, trees.scores(test.codes)
        for at, (guess, table) in enumerate(zip(guesses, (train, test), strict=True)):
            r2[at, factor] = _r2(_targets(table, int(factor), period), guess)
    found = np.nan_to_num(importance)  # what has one value has no say
    of_children = found[:, child].max(1) >= found[:, ~child].max(1)
    values: dict[str, Any] = {}
    for kind, codes, group in (
        ("child", of_children, child),
        ("overall", ~of_children, ~child),
    ):
        scores = _scores(importance[codes][:, group & train.told])
        for what, score in zip(("disentanglement", "completeness"), scores, strict=True):
            values[f"{NAME}_{kind}_{what}"] = score
    values[f"{NAME}_child_code"] = (("code",), of_children.astype(np.int64))
    values[f"{NAME}_importance"] = (("code", "factor"), importance)
    for part, of_part in zip(("train", "test"), r2, strict=True):
        values[f"{NAME}_r2_{part}"] = mean_known(of_part)
        values[f"{NAME}_r2_{part}_per_factor"] = (("factor",), of_part)
    asked: dict[str, Any] = {"children": ", ".join(children), "seed": seed}
    circles = ", ".join(f"{name} {period}" for name, period in around.items())
    return result(train, values, periods=circles, test_rows=len(test), **asked)


def _scores(importance: Array) -> tuple[float, float]:
    """Disentanglement and completeness of a group's codes and factors."""
    codes, factors = importance.shape
    if not factors:
        return float("nan"), float("nan")
    if not codes:
        return 0.0, 0.0
    _, _, disentanglement, completeness = importance_scores(importance)
    return disentanglement, completeness


def _children(table: CodeTable, children: Sequence[str]) -> Array:
    """Which factors ``(K,)`` are children."""
    for name in names("children", children):
        if name not in table.factor_names:
            raise ValueError(unknown("child factor", name, table.factor_names))
    child = np.isin(table.factor_names, children)
    if child.all() or not child.any():
        raise ValueError(
            f"children are {tuple(children)}, expected some of the factors "
            f"{', '.join(table.factor_names)} and not all"
        )
    return child


def _periods(train: CodeTable, test: CodeTable, periods: Mapping[str, int]) -> dict[str, int]:
    """Periods by factor, checked."""
    found = {}
    for name, period in periods.items():
        if name not in train.factor_names:
            raise ValueError(unknown("factor in periods", name, train.factor_names))
        found[name] = whole(f"the period of {name}", period, 2)
        place = train.factor_names.index(name)
        most = max(table.factors[:, place].max() for table in (train, test))
        if most >= period:
            raise ValueError(f"{name} has the class {most}, expected 0..{period - 1} of a circle")
    return found


def _trees(table: CodeTable, factor: int, period: int | None, seed: int) -> Trees:
    """The trees of a factor, fitted once and kept with the table."""

    def made() -> Trees:
        codes = table.once(("presorted", None), lambda: presorted(table.codes))
        return regressed(codes, _targets(table, factor, period), numpy_generator(seed, factor))

    return table.once(("regressed", factor, period, seed), made)


def _targets(table: CodeTable, factor: int, period: int | None) -> Array:
    """What trees tell of a factor ``(N, 1)``, or of a circle ``(N, 2)``."""
    classes = table.factors[:, factor]
    if period is None:
        return classes[:, None].astype(np.float64)
    angle = 2 * np.pi * classes / period
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _r2(told: Array, guess: Array) -> float:
    """The share of the variance that is told, summed over columns; NaN where there is none."""
    whole_error = float(((told - told.mean(0)) ** 2).sum())
    left = float(((told - guess) ** 2).sum())
    return 1 - left / whole_error if whole_error > 0 else float("nan")
