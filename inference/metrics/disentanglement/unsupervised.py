"""Scores that need no factors: dependence among codes, and agreement of several models (UDR)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from ppl_models.config import unknown
from ppl_models.inference.metrics.disentanglement.code_table import CodeTable
from ppl_models.inference.metrics.disentanglement.information import (
    Levels,
    binned_codes,
    information_between,
)
from ppl_models.inference.metrics.disentanglement.results import result

Array = np.ndarray[Any, Any]
Agreement = Literal["lasso", "spearman"]
AT_ONCE = 16  # codes whose joint histograms stay in a processor's cache
INFORMATIVE = 0.01  # nats of KL; a code with no more is taken to be unused
PENALTY = 0.1  # of the Lasso


def unsupervised_scores(table: CodeTable, bins: int = 20) -> xr.Dataset:
    """Dependence among codes: Gaussian total correlation and Wasserstein dependence, mean MI.

    With the covariance ``S`` of the codes and its diagonal ``V``: the total correlation of a
    Gaussian is ``(sum log V - log det S) / 2`` nats; the squared Wasserstein distance between
    Gaussians of covariance ``S`` and ``V`` is ``2 tr S - 2 tr (V^1/2 S V^1/2)^1/2``, here also
    over ``tr S``; and the last score is the mean mutual information of two binned codes, in nats
    (Locatello et al. 2019, arXiv 1811.12359).

    Args:
        table: Codes of N rows; factors are not read.
        bins: Of each code.

    Returns:
        ``gaussian_total_correlation``, ``gaussian_total_correlation_active`` (of the codes that
        vary), ``gaussian_wasserstein``, ``gaussian_wasserstein_normalised`` and
        ``mutual_information_score``, all at least 0. With constant codes the first is NaN, and a
        warning says so; of codes that follow linearly from others both are infinite. Without two
        codes the last is NaN, and without a varying one the normalised distance is.

    Raises:
        ValueError: If there are fewer than 2 bins, or a single row.
    """
    if len(table) < 2:
        raise ValueError("1 row of codes, expected at least 2 for a covariance")
    nats = code_pairs(table, bins)
    varying = table.varying
    codes = table.codes[:, varying]
    active = _total_correlation(codes)
    if not varying.all():
        warnings.warn(
            f"{(~varying).sum()} of {len(varying)} codes are constant, so that the Gaussian total "
            "correlation of all is NaN; gaussian_total_correlation_active is that of the others",
            stacklevel=2,
        )
    distance, trace = _wasserstein(codes)
    count = len(varying)
    values = {
        "gaussian_total_correlation": active if varying.all() else np.nan,
        "gaussian_total_correlation_active": active,
        "gaussian_wasserstein": distance,
        "gaussian_wasserstein_normalised": distance / trace if trace else np.nan,
        "mutual_information_score": nats.sum() / (count * (count - 1)) if count > 1 else np.nan,
    }
    return result(table, values, bins=bins)


def code_pairs(table: CodeTable, bins: int = 20) -> Array:
    """Mutual information of every two binned codes ``(D, D)`` in nats, 0 on the diagonal."""

    def made() -> Array:
        codes = binned_codes(table, bins)
        nats = np.zeros((len(codes.values),) * 2)
        active = np.flatnonzero(table.varying)
        blocks = [active[n : n + AT_ONCE] for n in range(0, len(active), AT_ONCE)]
        for place, one in enumerate(blocks):
            for other in blocks[place:]:
                both = (Levels(codes.values[of], codes.sizes[of]) for of in (one, other))
                nats[np.ix_(one, other)] = information_between(*both).nats
        nats = np.triu(nats, 1)
        return nats + nats.T

    return table.once(("information of code pairs", bins), made)


def _total_correlation(codes: Array) -> float:
    """Of a Gaussian with the covariance of these codes, in nats."""
    if codes.shape[1] < 2:
        return 0.0
    spectrum = np.linalg.eigvalsh(np.corrcoef(codes, rowvar=False))
    if spectrum[0] <= len(spectrum) * np.finfo(float).eps * spectrum[-1]:
        return float("inf")
    return max(0.0, float(-np.log(spectrum).sum() / 2))


def _wasserstein(codes: Array) -> tuple[float, float]:
    """Squared distance of a Gaussian from itself without covariances, and the trace."""
    if not codes.shape[1]:
        return 0.0, 0.0
    covariance = np.cov(codes, rowvar=False).reshape((codes.shape[1],) * 2)
    deviation = np.sqrt(np.diag(covariance))
    spectrum = np.linalg.eigvalsh(deviation[:, None] * covariance * deviation)
    trace = float(np.trace(covariance))
    return max(0.0, 2 * trace - 2 * float(np.sqrt(np.maximum(spectrum, 0)).sum())), trace


def udr(
    tables: Sequence[CodeTable],
    kl: Sequence[Array] | None = None,
    kind: Agreement = "lasso",
) -> xr.Dataset:
    """Unsupervised disentanglement ranking: how well a model's codes are those of the others.

    Of every two models an absolute matrix over their codes, standardised: coefficients of a
    Lasso (penalty 0.1) that tells the second's codes from the first's, or rank correlations.
    Their score is the mean of ``max^2 / sum`` over columns and the same over rows, averaged; a
    model's score is the median over the others as the first (Duan et al. 2020, arXiv 1905.12614,
    with the study's code where it departs from the paper). Codes of a mean KL of at most 0.01
    nats are left out.

    Args:
        tables: Codes of the same rows by models that differ in their seed, or nearly so.
        kl: Of each model the mean KL of each code from the prior ``(D,)``; by default that of
            Gaussians of the tables' ``scale`` from a standard normal prior.
        kind: ``"lasso"`` or ``"spearman"``.

    Returns:
        ``udr_lasso`` or ``udr_spearman`` over ``model``, and ``..._pairwise`` over ``model`` (the
        first) and ``other``, NaN of a model with itself. 0 for models without an informative
        code; from 0 to 1 of rank correlations, and of coefficients about so.

    Raises:
        ValueError: If there are fewer than two tables, their rows differ, a table has no
            ``scale`` and ``kl`` is not given, ``kl`` does not fit, or ``kind`` is unknown.
    """
    if kind not in ("lasso", "spearman"):
        raise ValueError(unknown("kind", kind, ("lasso", "spearman")))
    if len(tables) < 2:
        raise ValueError(f"{len(tables)} table of codes, expected at least 2")
    for place, table in enumerate(tables):
        if not np.array_equal(table.factors, tables[0].factors):
            raise ValueError(f"table {place} is of other rows than table 0, expected the same")
    informative = [of > INFORMATIVE for of in _divergences(tables, kl)]
    pairwise = np.full((len(tables),) * 2, np.nan)
    codes = [
        _standard(table.codes if kind == "lasso" else rankdata(table.codes, axis=0)) * used
        for table, used in zip(tables, informative, strict=True)
    ]
    for one, other in combinations(range(len(tables)), 2):
        for first, second in ((one, other), (other, one)):
            matrix = _agreement(codes[first], codes[second], kind)
            kept = matrix[np.ix_(informative[first], informative[second])]
            pairwise[first, second] = (_strength(kept) + _strength(kept.T)) / 2
    name = f"udr_{kind}"
    values = {
        name: (("model",), np.nanmedian(pairwise, axis=0)),
        f"{name}_pairwise": (("model", "other"), pairwise),
    }
    places = list(range(len(tables)))
    return result(tables[0], values, {"model": places, "other": places}, kind=kind)


def _divergences(tables: Sequence[CodeTable], kl: Sequence[Array] | None) -> list[Array]:
    """Mean KL of each code ``(D,)`` of each model, given or from its Gaussians."""
    if kl is not None:
        given = [np.asarray(of, dtype=np.float64) for of in kl]
        shapes, wanted = [of.shape for of in given], [(t.codes.shape[1],) for t in tables]
        if shapes != wanted:
            raise ValueError(f"kl has shapes {shapes}, expected {wanted}, one number of each code")
        return given
    found = []
    for place, table in enumerate(tables):
        if table.scale is None:
            raise ValueError(f"table {place} has no scale, expected one, or kl of each code")
        if (table.scale <= 0).any():
            raise ValueError(f"the scale of table {place} is not above 0, expected so without kl")
        terms = (table.codes**2 + table.scale**2 - 1) / 2 - np.log(table.scale)
        found.append(terms.mean(0))
    return found


def _standard(values: Array) -> Array:
    """Columns of mean 0 and variance 1; a constant one is 0."""
    centred, deviation = values - values.mean(0), values.std(0)
    still = deviation <= 1e-9 * np.maximum(np.abs(values).max(0), 1e-300)
    standard: Array = np.where(still, 0.0, centred / np.where(still, 1.0, deviation))
    return standard


def _agreement(first: Array, second: Array, kind: Agreement) -> Array:
    """Absolute coefficients or correlations ``(D, D')``."""
    if kind == "spearman":
        correlations: Array = abs(first.T @ second) / len(first)
        return correlations
    from sklearn.linear_model import Lasso

    coefficients = Lasso(alpha=PENALTY).fit(first, second).coef_.reshape(second.shape[1], -1)
    return abs(np.asarray(coefficients).T)


def _strength(matrix: Array) -> float:
    """Mean over columns of the largest entry squared over the sum; 0 / 0 is 0."""
    if not matrix.size:
        return 0.0
    total = matrix.sum(0)
    return float((matrix.max(0) ** 2 / np.where(total > 0, total, 1.0)).mean())
