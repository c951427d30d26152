"""What each modality of a row tells of it, from what an export holds of them one by one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import arviz as az
import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ppl_models.config import unknown
from ppl_models.inference.metrics.canonical import canonical_space
from ppl_models.inference.metrics.few_shot import latent_accuracy
from ppl_models.inference.metrics.related import relatedness, wasserstein
from ppl_models.inference.posterior.groups import groups_of
from ppl_models.inference.posterior.told_alone import DIM

ROWS = 1000  # rows looked at, the first ones
OTHER = "other"  # the dimension of the second modality


def modality_scores(idata: az.InferenceData | xr.DataTree, label: str | None = None) -> xr.Dataset:
    """How codes given one modality alone and those given another one go together.

    Of the first 1,000 rows, and the first chain. What is fitted is fitted on every second of the
    rows, and asked of the others. No verdict leans on it: what is good depends on the purpose.

    Args:
        idata: From :func:`ppl_models.inference.posterior.export.posterior`, of a pair whose rows
            may lack modalities.
        label: A label of the table that was not conditioned on; the only one by default. Without
            one, ``canonical`` is all.

    Returns:
        Over ``modality`` and ``other``, NaN where it cannot be told: ``canonical``, the mean
        cosine of both codes of a row in the space of their canonical correlations
        (:func:`canonical_space`); ``relatedness`` of the :func:`wasserstein` distances of their
        posteriors; ``coherence``, the share of rows whose class an oracle sees in ``other`` as it
        is generated from a draw of the code. Over ``modality``: ``accuracy``, the
        :func:`latent_accuracy` of its means. Empty where the export tells of no two modalities.

    Raises:
        ValueError: If there is no such label.
    """
    groups = groups_of(idata)
    alone = groups.get("modalities", xr.Dataset())
    if DIM not in alone.dims:
        return xr.Dataset()
    truth = _truth(groups, label)
    alone = alone.isel(datum=slice(ROWS))
    alone = alone.isel(chain=0) if "chain" in alone.dims else alone
    names = [str(name) for name in alone[DIM].values]
    count = len(names)
    loc, scale = _codes(alone, "_loc"), _codes(alone, "_scale")
    found: dict[str, np.ndarray] = {"canonical": np.full((count, count), math.nan)}
    if truth is not None:
        truth = truth[: loc.shape[1]]
        found["relatedness"] = found["canonical"].copy()
        found["accuracy"] = np.array([_accuracy(codes, truth) for codes in loc])
        told = {m: alone[f"{m}_told"].values for m in names if f"{m}_told" in alone}
        if told:
            found["coherence"] = _coherence(told, names, truth.numpy())
    for i, j in itertools.combinations(range(count), 2):
        both = [i, j], [j, i]
        found["canonical"][both] = _canonical(loc[i], loc[j])
        if truth is not None:
            found["relatedness"][both] = _related(loc[[i, j]], scale[[i, j]], truth)
    dims = {name: (DIM, OTHER)[: values.ndim] for name, values in found.items()}
    return xr.Dataset({n: (dims[n], v) for n, v in found.items()}, {DIM: names, OTHER: names})


def _truth(groups: Mapping[str, xr.Dataset], label: str | None) -> Tensor | None:
    """A label's classes ``(N,)``, -1 where they are hidden; None where no label is meant."""
    constant = groups.get("constant_data", xr.Dataset())
    known = [str(name)[: -len("_true")] for name in constant if str(name).endswith("_true")]
    if label is not None and label not in known:
        raise ValueError(unknown("label of the export", label, known))
    if label is None and len(known) != 1:
        return None
    return torch.from_numpy(constant[f"{label or known[0]}_true"].values.astype(np.int64))


def _codes(alone: xr.Dataset, part: str) -> Tensor:
    """Means or deviations ``(M, N, D)``, of all codes side by side."""
    shape = alone.sizes[DIM], alone.sizes["datum"], -1
    parts = [
        values.transpose(DIM, "datum", ...).values.reshape(*shape)
        for name, values in alone.items()
        if str(name).endswith(part)
    ]
    return torch.from_numpy(np.concatenate(parts, -1)).double()


def _halves(rows: Tensor) -> tuple[Tensor, Tensor]:
    return rows[::2], rows[1::2]


def _canonical(first: Tensor, second: Tensor) -> float:
    both = (first.isfinite().all(1) & second.isfinite().all(1)).nonzero().flatten()
    fitted, asked = _halves(both)
    if not len(asked):
        return math.nan
    try:
        space = canonical_space(first[fitted], second[fitted])
    except ValueError:  # fewer rows than directions, or codes that are all alike
        return math.nan
    return float(space.pair_scores(first[asked], second[asked]).mean())


def _accuracy(codes: Tensor, truth: Tensor) -> float:
    fitted, asked = _halves((codes.isfinite().all(1) & (truth >= 0)).nonzero().flatten())
    if not len(asked) or len(truth[fitted].unique()) < 2:
        return math.nan
    return latent_accuracy(codes[fitted], truth[fitted], codes[asked], truth[asked])


def _related(loc: Tensor, scale: Tensor, truth: Tensor) -> float:
    """Of two modalities ``(2, N, D)``."""
    there = loc.isfinite().all(2) & (truth >= 0)
    (first, second), own, others = there, truth[there[0]], truth[there[1]]
    same = own.unsqueeze(1) == others
    if not bool(same.any()) or bool(same.all()):
        return math.nan
    distances = wasserstein(loc[0, first], scale[0, first], loc[1, second], scale[1, second])
    return relatedness(distances, own, others)


def _coherence(told: Mapping[str, np.ndarray], names: list[str], truth: np.ndarray) -> np.ndarray:
    found = np.full((len(names), len(names)), math.nan)
    for made, classes in told.items():
        for place, row in enumerate(classes):
            known = (row >= 0) & (truth >= 0)
            if known.any():
                found[place, names.index(made)] = (row == truth)[known].mean()
    return found
