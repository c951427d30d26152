"""Whether counterfactuals can be trusted, and the probabilities that are given of masks.

Of pairs whose card has causes. The figures are those of
:mod:`ppl_models.inference.posterior.axioms`, on the first rows of a posterior.

- **Null intervention**: a cause that is set to what it is changes nothing. What has a density
  keeps its noise, and stays but for rounding: 1e-4 of its range (:data:`ROUNDED`), ten times what
  float32 leaves. What is made anew and not scored comes back as its reconstruction, which must be
  nearer to the row than half of the way to another row (:data:`HALF`).
- **Non-descendants**: what does not depend on a cause stays where the cause is set, but for the
  same rounding.
- **Composition** and **reversibility**: two interventions in turn are both at once, and a way
  back undoes the way out, but for half of what they moved: beyond that, more is made up by the
  guide, which tells what stays from the rows as they have become, than is kept. What is told anew
  in any case, moved or not, must be nearer to what it was than half of the way to another row:
  what is made, what is not observed, and a class, whose noise is drawn.
- **Effectiveness**, where an oracle reads the cause in the data: what it reads must come nearer
  to what was set than half of the way there from what it reads in the row as it is.
- **Masks**, where the truth is known, of entries that are probably there and of the others, which
  may be many: their mean probability against the share that is there, with the limit of label
  probabilities: 20 points (:data:`APART`) and two standard errors, were the probabilities right.
  Each chain for itself: the chains of one mask are no further entries of it.
- **Mask rate**: where few are there, masks that are all closed are right about most. The number
  that are there must be more than half of what the probabilities come to, and less than twice
  that (:data:`HALF`), again but for two standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from ppl_models.inference.diagnostics.finding import Finding
from ppl_models.inference.diagnostics.label_checks import APART
from ppl_models.inference.posterior.axioms import SET, SITE
from ppl_models.inference.posterior.groups import Array

ROUNDED, HALF = 1e-4, 0.5
GROUP, REASON = "axioms", "no_counterfactuals"
BINS = 10

Datasets = Mapping[str, xr.Dataset]


@dataclass(frozen=True)
class MaskCalibration:
    """How often entries of masks are there, against the probabilities that are given of it.

    Attributes:
        probability: Mean probability of the entries of each bin ``(bins,)``; NaN of empty ones.
        share: Share of them that are there ``(bins,)``.
        count: How many they are ``(bins,)``.
        sure: Mean of the larger of p and 1 - p.
        right: Share of entries where the more probable one is true.
        error: Mean distance of the two over bins, by their counts (the ECE).
    """

    probability: Array
    share: Array
    count: Array
    sure: float
    right: float
    error: float


def mask_calibration(probabilities: Any, truth: Any, bins: int = BINS) -> MaskCalibration:
    """Whether probabilities of masks are as often right as they say.

    Args:
        probabilities: That each entry is there ``(...)``; or draws of the mask ``(S, ...)``.
        truth: Whether it is ``(...)``.
        bins: Bins of equal width.

    Raises:
        ValueError: If shapes differ, a probability is none, or a truth is neither 0 nor 1.
    """
    given, truth = np.asarray(probabilities, float), np.asarray(truth, float)
    shape = given.shape
    if given.ndim == truth.ndim + 1:
        given = given.mean(0)
    if given.shape != truth.shape or not truth.size:
        raise ValueError(
            f"probabilities have shape {shape} and the truth {truth.shape}, expected the same, or "
            "draws in front"
        )
    if not ((given >= 0) & (given <= 1)).all():
        raise ValueError(f"a probability of a mask is {_first(given)}, expected 0 to 1")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError(f"an entry of the true mask is {_first(truth)}, expected 0 or 1")
    p, there = given.ravel(), truth.ravel()
    place = np.minimum((p * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, p, bins) / count
        share = np.bincount(place, there, bins) / count
    full = count > 0
    error = float((np.abs(mean - share)[full] * count[full]).sum() / len(p))
    right = np.where(p == 0.5, 0.5, (p > 0.5) == there)
    return MaskCalibration(
        mean, share, count, float(np.maximum(p, 1 - p).mean()), float(right.mean()), error
    )


def _first(values: Array) -> float:
    """The first that is not from 0 to 1, or else not one of the two."""
    outside = ~((values >= 0) & (values <= 1))
    wrong = outside if outside.any() else ~np.isin(values, (0, 1))
    return float(values[wrong][0])


def mask_checks(groups: Datasets, masks: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether probabilities in the group ``structure`` agree with masks that are known.

    Args:
        groups: With ``structure``.
        masks: The truth by variable.

    Raises:
        ValueError: If there is no such variable, or it has another shape.
    """
    structure = groups.get("structure", xr.Dataset())
    for name, truth in masks.items():
        if name not in structure:
            raise ValueError(f"masks: no {name!r} in group structure, which has {[*structure]}")
        values = structure[name]
        chains = values.values if values.dims[:1] == ("chain",) else values.values[None]
        truth = np.asarray(truth)
        if truth.shape not in (chains.shape, chains.shape[1:]):
            raise ValueError(
                f"masks: {name!r} has shape {chains.shape[1:]} and the truth {truth.shape}, "
                "expected the same, or chains in front"
            )
        by_chain = truth if truth.shape == chains.shape else [truth] * len(chains)
        for place, (probs, true) in enumerate(zip(chains, by_chain, strict=True)):
            of = f" of chain {place}" if len(chains) > 1 else ""
            yield from _of_mask(str(name), of, probs, true)


def _of_mask(name: str, of: str, probs: Array, truth: Array) -> Iterator[Finding]:
    """Of one mask, whose entries are as many independent chances."""
    mask_calibration(probs, truth)  # checks values
    advice = "train longer, start with other probabilities, or take another sparsity"
    sides = [probs > 0.5, probs <= 0.5]
    told = [_apart(probs[side], truth[side]) for side in sides if side.any()]
    place = int(np.argmax([apart / limit for apart, limit in told]))
    side, (apart, limit) = [side for side in sides if side.any()][place], told[place]
    probably = "probably" if probs[side][0] > 0.5 else "probably not"
    yield Finding(
        "masks", apart <= limit,
        f"{side.sum()} of {truth.size} entries of {name}{of} are {probably} there, by "
        f"{probs[side].mean():.0%} on average, and {truth[side].mean():.0%} of them are (at most "
        f"{100 * limit:.0f} points apart)",
        advice, name, apart, limit,
    )  # fmt: skip
    there, expected = float(truth.sum()), float(probs.sum())
    limit = HALF * max(there, expected) + 2 * _deviation(probs)
    yield Finding(
        "mask rate", abs(there - expected) <= limit,
        f"{there:.0f} of {truth.size} entries of {name}{of} are there, and its probabilities come "
        f"to {expected:.1f} (at most {limit:.1f} apart: half of the larger)",
        advice, name, abs(there - expected), limit,
    )  # fmt: skip


def _apart(probs: Array, truth: Array) -> tuple[float, float]:
    """How far the mean probability is from the share that is there, and how far it may be."""
    limit = APART + 2 * _deviation(probs) / probs.size
    return abs(float(probs.mean() - truth.mean())), limit


def _deviation(probs: Array) -> float:
    """Of the number of entries that are there."""
    return math.sqrt(float((probs * (1 - probs)).sum()))


def counterfactual_checks(groups: Datasets, attrs: Mapping[Any, Any]) -> Iterator[Finding]:
    """Checks of a posterior of a pair whose card has causes; none of others.

    Args:
        groups: With ``axioms``.
        attrs: Of the posterior; ``no_counterfactuals`` says why there are none.
    """
    if attrs.get(REASON):
        told = f"{attrs[REASON]}: axioms of counterfactuals are left out"
        yield Finding("null intervention", True, told, "", left_out=True)
        return
    if GROUP not in groups:
        return
    axioms = groups[GROUP]
    yield _null(axioms)
    if axioms.get("non_descendants_largest", xr.DataArray(np.nan)).notnull().any():
        yield _staying(axioms)
    yield _halved(
        axioms, "composition", "two interventions in turn miss both at once in {site}",
        "train the guide longer, which tells other codes of rows that the model has made; keep to "
        "values at which no mechanism saturates",
    )  # fmt: skip
    yield _halved(
        axioms, "reversibility", "{cause} set and set back leaves {site} off",
        "train the guide longer, which tells other codes of rows that the model has made; keep to "
        "values at which no mechanism saturates",
    )  # fmt: skip
    if "effectiveness_error" in axioms:
        yield _effective(axioms)


def _null(axioms: xr.Dataset) -> Finding:
    made = axioms["null_made"].values.astype(bool)
    limits = np.where(made, HALF * axioms["null_change"].values, ROUNDED)
    figures = np.where(made, axioms["null_error"].values, axioms["null_largest"].values)
    cause, site, figure, limit = _worst(axioms, figures, limits)
    place = list(axioms[SITE].values).index(site)
    anew = " (made anew)" if made[place] else ""
    why = "half of the way to another row" if made[place] else "rounding"
    return Finding(
        "null intervention", figure <= limit,
        f"{cause} set to what it is moves {site}{anew} by {figure:.2g} of its range (at most "
        f"{limit:.2g}: {why})",
        "train longer: the generator does not give rows back" if made[place] else
        "look for a mechanism that is nearly constant, or flat, where rows are",
        site, figure, limit,
    )  # fmt: skip


def _staying(axioms: xr.Dataset) -> Finding:
    # What depends on the cause has no figure.
    figures = np.nan_to_num(axioms["non_descendants_largest"].values, nan=-1.0)
    cause, site, figure, limit = _worst(axioms, figures, np.full_like(figures, ROUNDED))
    return Finding(
        "non-descendants", figure <= limit,
        f"{cause} set as in other rows moves {site}, which does not depend on it, by "
        f"{figure:.2g} of its range (at most {limit:.2g}: rounding)",
        "look for a story that reads the batch, or draws, where it should read its own sites",
        site, figure, limit,
    )  # fmt: skip


def _halved(axioms: xr.Dataset, check: str, clause: str, advice: str) -> Finding:
    limits = np.maximum(HALF * axioms[f"{check}_change"].values, ROUNDED)
    anew = axioms["null_made"].values.astype(bool)
    if "null_drawn" in axioms:
        anew = anew | axioms["null_drawn"].values.astype(bool)
    far = HALF * axioms["null_change"].values
    cause, site, figure, limit = _worst(
        axioms, axioms[f"{check}_error"].values, np.where(anew, np.maximum(limits, far), limits)
    )
    told = anew[list(axioms[SITE].values).index(site)]
    why = "half of the way to another row" if told else "half of what it moved"
    return Finding(
        check, figure <= limit,
        f"{clause.format(cause=cause, site=site)} by {figure:.2g} of its range (at most "
        f"{limit:.2g}: {why})",
        advice, site, figure, limit,
    )  # fmt: skip


def _effective(axioms: xr.Dataset) -> Finding:
    error = axioms["effectiveness_error"].values
    # Without an oracle of the cause there is no figure.
    limits = np.where(np.isnan(error), np.inf, HALF * axioms["effectiveness_change"].values)
    place = int(np.argmax(np.nan_to_num(error / limits)))
    cause, figure, limit = (
        str(axioms[SET].values[place]),
        float(error[place]),
        float(limits[place]),
    )
    own = float(axioms["effectiveness_own"].values[place])
    return Finding(
        "effectiveness", figure <= limit,
        f"the oracle reads {cause} {figure:.2g} of its range off what it was set to (at most "
        f"{limit:.2g}: half of the way there), and {own:.2g} off in the rows themselves",
        f"train longer, or make the decoder see {cause}: the data do not show what is set",
        cause, figure, limit,
    )  # fmt: skip


def _worst(axioms: xr.Dataset, figures: Array, limits: Array) -> tuple[str, str, float, float]:
    """Where a figure stands highest against its limit: cause, site, both; NaN is worst of all."""
    ratio = np.nan_to_num(figures / np.maximum(limits, 1e-300), nan=np.inf)
    row, column = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    cause, site = str(axioms[SET].values[row]), str(axioms[SITE].values[column])
    return cause, site, float(figures[row, column]), float(limits[row, column])
