"""MED: disentanglement from the entropies of mutual informations, also of the few best codes.

Cao et al. 2022 (arXiv 2206.04756). Nothing is fitted and nothing drawn, so codes of a thousand
dimensions can be judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import xlogy

from ppl_models.inference.metrics.disentanglement.code_table import CodeTable
from ppl_models.inference.metrics.disentanglement.information import NONE, code_information
from ppl_models.inference.metrics.disentanglement.results import result, several

Array = np.ndarray[Any, Any]
SMALL = 1e-11  # added to every share, so that a code without information counts as uniform


def med(table: CodeTable, bins: int = 20, top_k: Sequence[int] = (1, 2)) -> xr.Dataset:
    """Mutual-information entropy disentanglement, and that of the ``k`` best codes of each factor.

    Informations of a factor are divided by their sum over codes, so that each factor has weight
    1. Of a code ``s`` is 1 less the entropy of its shares in base K, and MED the mean of ``s``
    weighted by what the code has of all shares. Top-k walks the codes by falling ``s`` (ties by
    index), gives each to its best factor, keeps at most ``k`` of a factor, and averages over
    these alone; shares stay as they are. Completeness is the same with codes and factors
    exchanged (Cao et al. 2022, arXiv 2206.04756, and its released code).

    The plug-in information of codes that tell nothing enters the shares, so MED falls with every
    such code and rises with N: compare it at equal N and D, and use top-k otherwise.

    Args:
        table: Codes and factors of N rows.
        bins: Of each code; 20 in the released code.
        top_k: How many codes of each factor to keep; 1 in the released configuration.

    Returns:
        ``med`` and ``med_completeness``, ``med_per_code`` (the ``s``), ``med_importance`` (the
        shares, over code and factor), and over ``top_k`` ``med_top_k``, ``med_top_k_completeness``
        and ``med_kept`` (truth values, also over code): from 0 to 1. Factors of one value, and
        those of which no code tells anything (listed as ``without_information``), are left out,
        with shares of NaN. Where fewer than two factors are left, all but the completeness of all
        codes is NaN with a ``reason``, and none is kept; the completeness of one code is NaN.

    Raises:
        ValueError: If there are fewer than 2 bins, or a ``k`` is less than 1.
    """
    return _med(table, bins, top_k, "med")


def med_miller_madow(
    table: CodeTable, bins: int = 20, top_k: Sequence[int] = (1, 2)
) -> xr.Dataset:
    """MED of informations without their bias, which is another metric than MED.

    Miller and Madow's first-order correction is taken off each information, which is then at
    least 0 (Miller 1955). A code that tells nothing keeps 0.4 standard deviations of the estimate
    on average, ``0.4 sqrt((bins - 1)(S - 1) / 2) / N``, which still adds up over many codes.

    Args:
        table: Codes and factors of N rows.
        bins: Of each code.
        top_k: How many codes of each factor to keep.

    Returns:
        As :func:`med`, with names that begin with ``med_miller_madow``.

    Raises:
        ValueError: If there are fewer than 2 bins, or a ``k`` is less than 1.
    """
    return _med(table, bins, top_k, "med_miller_madow")


def _med(table: CodeTable, bins: int, top_k: Sequence[int], name: str) -> xr.Dataset:
    ks = several("top_k", top_k)
    nats, bias = code_information(table, bins)
    if name == "med_miller_madow":
        nats = nats - bias
    nats = np.where(nats < NONE, 0.0, nats)
    used = table.told & (nats.sum(0) > 0)
    shares = np.full(nats.shape, np.nan)
    shares[:, used] = nats[:, used] / nats[:, used].sum(0)
    of_used = shares[:, used]
    kept = np.zeros((len(ks), len(nats)), bool)
    scores = np.full((1 + len(ks), 2), np.nan)
    per_code = np.full(len(nats), np.nan)
    settings: dict[str, Any] = {}
    if used.any():
        scores[0] = _both(of_used)
    if used.sum() < 2:
        settings["reason"] = "fewer than two factors of which a code tells anything"
    else:
        per_code = _focus(of_used)
        for place, k in enumerate(ks):
            kept[place] = _best_of_each(per_code, of_used.argmax(1), k)
            scores[place + 1] = _both(of_used[kept[place]])
    if (none := table.told & ~used).any():
        named = (n for n, without in zip(table.factor_names, none, strict=True) if without)
        settings["without_information"] = ", ".join(named)
    values = {
        name: scores[0, 0],
        f"{name}_completeness": scores[0, 1],
        f"{name}_per_code": (("code",), per_code),
        f"{name}_importance": (("code", "factor"), shares),
        f"{name}_top_k": (("top_k",), scores[1:, 0]),
        f"{name}_top_k_completeness": (("top_k",), scores[1:, 1]),
        f"{name}_kept": (("top_k", "code"), kept),
    }
    return result(table, values, {"top_k": ks}, bins=bins, **settings)


def _focus(shares: Array) -> Array:
    """1 less the entropy of each line's shares, in base of their number; NaN of one share."""
    if shares.shape[1] < 2:
        return np.full(len(shares), np.nan)
    p = shares + SMALL
    p = p / p.sum(1, keepdims=True)
    focus: Array = 1 + xlogy(p, p).sum(1) / np.log(shares.shape[1])
    return focus


def _both(shares: Array) -> tuple[float, float]:
    """Disentanglement and completeness of shares, weighted by what lines and columns have."""
    total = shares.sum()
    if total == 0:  # kept codes without information
        return 0.0, 0.0
    return (
        float(_focus(shares) @ shares.sum(1) / total),
        float(_focus(shares.T) @ shares.sum(0) / total),
    )


def _best_of_each(per_code: Array, best: Array, k: int) -> Array:
    """The codes ``(D,)`` that are kept: at most k of each factor, those of the largest score."""
    kept = np.zeros(len(per_code), bool)
    left = np.full(best.max() + 1, k)
    for code in np.argsort(-per_code, kind="stable"):
        if left[best[code]] > 0:
            left[best[code]] -= 1
            kept[code] = True
    return kept
