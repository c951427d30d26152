"""Counterfactual generativeness: whether a factor's codes change that factor in what is decoded.

Reddy, Godfrey and Balasubramanian. On Causally Disentangled Representations. AAAI 2022,
arXiv 2112.05746. Which codes are a factor's own is told by :func:`unconfoundedness`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ppl_models.config import at_least, check_seed
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.inference.metrics.classifiers import ImageClassifier
from ppl_models.inference.metrics.disentanglement.code_table import Array, CodeTable
from ppl_models.inference.metrics.disentanglement.decoding import PairDecoder
from ppl_models.inference.metrics.disentanglement.results import CODE, FACTOR, result

Decode = Callable[[Tensor], Any] | PairDecoder
Classify = Callable[[Any], Mapping[str, Any]]
RHO = "rho"
ROUNDING = 1e-3  # how far the probabilities of a row may be from 1 in sum


def counterfactual_generativeness(
    table: CodeTable,
    sets: Array | xr.DataArray,
    decode: Decode,
    classify: Classify,
    batch: int = 512,
) -> xr.Dataset:
    """CG: how far a factor's own codes change it in the decoded image more than all others do.

    In each row, codes are set to whichever of the table's maximum and minimum is further away (to
    the maximum where both are as far): a factor's own codes, then all but these. With p0, p1 and
    p2 the classifier's probabilities of the row's class of the factor in the reconstruction and
    in these two, ``|p0 - p1|`` is the effect of its own codes and ``|p0 - p2|`` that of the
    others; CG is the mean over rows of the absolute difference of the two, then over factors
    (section 5 of the paper). The difference being absolute, a model in which the wrong codes
    matter is scored as one in which the right ones do: read both effects beside it.

    Args:
        table: Codes of N rows, and the K factors that the rows show.
        sets: Which codes are a factor's own, truth values ``(R, K, D)`` of R numbers of codes,
            such as ``unconfoundedness(table, rho).unconfoundedness_codes``; or ``(K, D)``.
        decode: From codes ``(n, D)``, in torch's default type, to n images, or whatever the
            classifier reads; or what :func:`decoder` makes of a pair.
        classify: From these to probabilities ``(n, C)`` of each factor's classes, by the factor's
            name; other names are passed over. Such as what :func:`image_classifier` gives.
        batch: Rows that are decoded at once.

    Returns:
        Over ``rho`` (of sets without names, the most codes that a factor owns):
        ``counterfactual_generativeness``, from 0 to 1, and the means
        ``counterfactual_own_effect`` and ``counterfactual_others_effect``; these three
        ``_per_factor``, too; the sets as ``counterfactual_codes``; and
        ``counterfactual_reconstructed_per_factor``, the mean of p0: where that is near chance, CG
        says nothing. Of an :func:`image_classifier` also its accuracy on real test images,
        ``counterfactual_classifier_accuracy_per_factor``. Factors of one value are left out.

    Raises:
        ValueError: If ``sets`` do not fit, or a factor has no code in them; or if what comes of
            ``decode`` or ``classify`` are no probabilities of these rows and classes.
    """
    owned, rhos = _checked_sets(table, sets)
    _check_rows(table, decode)
    (batch,) = at_least(batch=(batch, 1))
    most, least = table.codes.max(0), table.codes.min(0)
    far = np.where(most - table.codes >= table.codes - least, most, least)
    p = _asked(table, owned, far, decode, classify, batch)
    told = _told(table, owned, rhos, p, "counterfactual")
    told |= _accuracy(table, classify, "counterfactual")
    return result(table, told, {RHO: rhos}, **_settings(decode))


def donor_generativeness(
    table: CodeTable,
    sets: Array | xr.DataArray,
    decode: Decode,
    classify: Classify,
    batch: int = 512,
    seed: int = 0,
) -> xr.Dataset:
    """As CG, with the codes of another row of the table, drawn at random, in place of far ones.

    Far values lie where a decoder has hardly been, all of them at once; the codes of a donor have
    been met, each set of them together. A donor that shares the row's class changes nothing, so
    a perfect model is scored ``1 - sum_c P(c)^2``: values are comparable with each other alone.

    Args:
        table: As of :func:`counterfactual_generativeness`.
        sets: As there.
        decode: As there.
        classify: As there.
        batch: As there.
        seed: Of the donors: one for each row, for all factors.

    Returns:
        As there, with names that begin with ``donor``: ``donor_generativeness`` and so on.

    Raises:
        ValueError: As there, and if there is a single row.
    """
    owned, rhos = _checked_sets(table, sets)
    _check_rows(table, decode)
    rows, batch = at_least(rows=(len(table), 2), batch=(batch, 1))
    # A step of 1 to N - 1 round the circle: any other row is as likely, the row itself never is.
    step = numpy_generator(check_seed(seed), 0).integers(1, rows, size=rows)
    donors = table.codes[(np.arange(rows) + step) % rows]
    p = _asked(table, owned, donors, decode, classify, batch)
    told = _told(table, owned, rhos, p, "donor") | _accuracy(table, classify, "donor")
    return result(table, told, {RHO: rhos}, **_settings(decode), seed=seed)


def _asked(
    table: CodeTable,
    owned: Array,
    moved: Array,
    decode: Decode,
    classify: Classify,
    batch: int,
) -> Array:
    """Probabilities of the rows' classes ``(2 R + 1, K, N)``.

    Those where each factor's own codes are moved, for R sets ``(R, K, D)``; those where all
    others are; and those of the reconstruction.
    """
    asked = np.concatenate([owned, ~owned, np.zeros((1, *owned.shape[1:]), dtype=bool)])
    # Decoded once: what two factors own at any rho, and what one owns and another alone does not.
    masks, which = np.unique(asked.reshape(-1, asked.shape[2]), axis=0, return_inverse=True)
    which = np.where(table.told, which.reshape(asked.shape[:2]), -1)
    dtype, out = torch.get_default_dtype(), np.full((*which.shape, len(table)), np.nan)
    for start in range(0, len(table), batch):
        rows = slice(start, min(start + batch, len(table)))
        for place in np.unique(which[which >= 0]):
            codes = np.where(masks[place], moved[rows], table.codes[rows])
            with torch.no_grad():
                found = classify(_decoded(decode, torch.as_tensor(codes, dtype=dtype), rows))
            for factor in np.flatnonzero((which == place).any(0)):
                p = _of_class(table.factor_names[factor], found, table.factors[rows, factor])
                out[which[:, factor] == place, factor, rows] = p
    return out


def _decoded(decode: Decode, codes: Tensor, rows: slice) -> Any:
    return decode(codes, rows) if isinstance(decode, PairDecoder) else decode(codes)


def _of_class(name: str, found: Mapping[str, Any], classes: Array) -> Array:
    """The probability of each row's class ``(n,)`` in what a classifier says of a factor."""
    if name not in found:
        raise ValueError(
            f"classify says nothing of the factor {name!r} but of {sorted(found)}; expected all "
            "factors of the table (table.with_factors chooses)"
        )
    value = found[name]
    p = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    least = int(classes.max()) + 1
    if p.ndim != 2 or len(p) != len(classes) or p.shape[1] < least:
        raise ValueError(
            f"classify gives shape {p.shape} for the factor {name!r}, expected ({len(classes)}, "
            f"C) with C at least {least}"
        )
    p = p.astype(np.float64)
    good = (np.abs(p.sum(1) - 1) <= ROUNDING) & (p >= -ROUNDING).all(1)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise ValueError(
            f"classify gives {np.array2string(p[row], precision=3, threshold=6)} for the factor "
            f"{name!r}, expected probabilities that sum to 1 (a softmax, no scores)"
        )
    chosen: Array = p[np.arange(len(classes)), classes]
    return chosen


def _told(table: CodeTable, owned: Array, rhos: list[int], p: Array, name: str) -> dict[str, Any]:
    """The numbers of one metric from the probabilities ``(2 R + 1, K, N)``."""
    own, others = np.split(np.abs(p[-1] - p[:-1]), 2)  # (R, K, N)
    parts = {
        f"{name}_generativeness": np.abs(own - others).mean(-1),
        f"{name}_own_effect": own.mean(-1),
        f"{name}_others_effect": others.mean(-1),
    }
    told = table.told
    values: dict[str, Any] = {}
    for of, per_factor in parts.items():
        whole = per_factor[:, told].mean(1) if told.any() else np.full(len(rhos), np.nan)
        values |= {of: ((RHO,), whole), f"{of}_per_factor": ((RHO, FACTOR), per_factor)}
    values[f"{name}_reconstructed_per_factor"] = ((FACTOR,), p[-1].mean(-1))
    values[f"{name}_codes"] = ((RHO, FACTOR, CODE), owned)
    return values


def _accuracy(table: CodeTable, classify: Classify, name: str) -> dict[str, Any]:
    """The classifier's accuracy on real images, where it knows it."""
    if not isinstance(classify, ImageClassifier) or not classify.test_accuracy:
        return {}
    known = [classify.test_accuracy.get(factor, np.nan) for factor in table.factor_names]
    return {f"{name}_classifier_accuracy_per_factor": ((FACTOR,), known)}


def _settings(decode: Decode) -> dict[str, Any]:
    return {"decoded_from": ", ".join(decode.shapes)} if isinstance(decode, PairDecoder) else {}


def _checked_sets(table: CodeTable, sets: Array | xr.DataArray) -> tuple[Array, list[int]]:
    """Which codes are whose ``(R, K, D)``, and how many of them a factor has."""
    rhos = None
    if isinstance(sets, xr.DataArray) and {FACTOR, CODE} <= set(sets.dims):
        rhos = None if RHO not in sets.coords else np.atleast_1d(sets[RHO].values).tolist()
        sets = sets.transpose(..., FACTOR, CODE)
    owned, expected = np.asarray(sets), (len(table.factor_names), len(table.code_names))
    if owned.ndim not in (2, 3) or owned.shape[-2:] != expected or owned.dtype != bool:
        raise ValueError(
            f"sets have shape {owned.shape} and type {owned.dtype}, expected truth values "
            f"{expected} or (R, {expected[0]}, {expected[1]}): which codes each factor owns"
        )
    owned = owned.reshape(-1, *expected)
    for name, of_factor in zip(table.factor_names, owned.swapaxes(0, 1), strict=True):
        if name not in table.excluded and not of_factor.any(1).all():
            raise ValueError(f"sets have no code of the factor {name!r}, expected at least one")
    return owned, owned.sum(2).max(1).tolist() if rhos is None else rhos


def _check_rows(table: CodeTable, decode: Decode) -> None:
    if isinstance(decode, PairDecoder) and len(decode) != len(table):
        raise ValueError(
            f"decode holds {len(decode)} rows and the table of codes has {len(table)}, expected "
            "the same rows"
        )
