"""What each of a row's modalities says by itself: of the code, and of what the row is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.guides.experts import MixtureOfNormals
from ppl_models.inference.posterior.axioms import Oracle
from ppl_models.inference.posterior.draws import guide_parameters
from ppl_models.inference.posterior.groups import Variables, event_dims, host
from ppl_models.inference.posterior.rows import Sites
from ppl_models.interventions import Codes, intervene
from ppl_models.modalities import has, mark
from ppl_models.pair import Pair

DIM = "modality"  # the dimension of what a code is told from


def told_alone(
    pair: Pair,
    batch: Batch,
    sites: Sites,
    oracle: Mapping[str, Oracle] = MappingProxyType({}),
) -> Variables:
    """Means and standard deviations of codes given one modality and no other.

    Args:
        pair: The pair.
        batch: The rows.
        sites: Their random variables.
        oracle: By modality, what tells a row's class from it.

    Returns:
        For each code whose factor is a Normal or a mixture of them, and a function of the row,
        ``z_loc`` and ``z_scale`` over the modalities of the batch, ``datum`` and the code's own
        dimensions; NaN in rows that lack the modality. For each oracle ``t_told``, the class that
        it sees in the t that is generated from a draw of these codes; -1 in such rows. Nothing
        where the batch has but one modality, or the guide cannot do without another one.

    Raises:
        ValueError: If an oracle is given, and the guide cannot.
    """
    names = [name for name in pair.may_lack if name in batch]
    if len(names) < 2:
        return {}
    dims: dict[str, tuple[str, ...]] = {f"{m}_told": () for m in oracle}
    found: dict[str, list[Tensor]] = {}
    for name in names:
        others = [other for other in pair.may_lack if other != name]
        # Without marks, rows that lack it are told from what stands there, and not kept.
        alone, there = batch.without(*others, *map(mark, pair.may_lack)), has(batch, name)
        families = (dist.Normal, MixtureOfNormals)
        try:
            of_codes = guide_parameters(pair.guide, alone, sites, families)
        except (KeyError, ValueError):  # a guide that reads others, too, and does not do without
            if oracle:
                raise
            return {}
        for site, (labels, loc, scale) in of_codes.items():
            if not labels:  # else it has a code for each class
                for part, value in ((f"{site}_loc", loc), (f"{site}_scale", scale)):
                    dims[part] = event_dims(sites.latents[site])
                    found.setdefault(part, []).append(_in_rows(value, there, math.nan))
        for made, sees in oracle.items():
            classes = told(sees, generated(pair, alone, made)[0])
            found.setdefault(f"{made}_told", []).append(_in_rows(classes, there, -1))
    return {
        name: ((DIM, "datum", *dims[name]), np.stack([host(value) for value in values]))
        for name, values in found.items()
        if len(values) == len(names)
    }


def generated(
    pair: Pair,
    batch: Batch,
    made: str,
    draws: int = 1,
    mean: bool = True,
    codes: Codes = "draw",
) -> Tensor:
    """A site of the data generated from draws of the codes of rows ``(draws, B, ...)``.

    Args:
        pair: The pair.
        batch: The rows with what the codes are drawn from. Where the site is there, too, it is
            its reconstruction.
        made: The site.
        draws: Codes drawn of each row.
        mean: Whether it is its mean given the codes; else a draw.
        codes: ``"mean"`` for the codes at their means in place of draws.

    Raises:
        ValueError: If the site has no value for each row.
    """
    found = intervene(pair, batch, {}, mean=mean, codes=codes, draws=draws)
    if made in batch:
        # What hangs on the codes is made anew where they are set to what they are.
        kept = {n: v for n, v in found.items() if n in pair.card.latents and n not in batch}
        found = intervene(pair, batch, kept, mean=mean, codes=codes, draws=draws)
    values = found[made]
    if values.shape[:2] != (draws, batch.count):
        raise ValueError(
            f"site {made!r} has shape {tuple(values.shape[1:])}, expected a value for each of "
            f"{batch.count} rows"
        )
    return values


def told(oracle: Oracle, values: Tensor) -> Tensor:
    """What an oracle says of values ``(n, ...)``, as classes ``(n,)``.

    Raises:
        ValueError: If it gives neither classes ``(n,)`` nor scores ``(n, C)``.
    """
    said = torch.as_tensor(oracle(values))
    if said.dim() == 2:
        said = said.argmax(1)
    if said.shape != values.shape[:1]:
        raise ValueError(
            f"the oracle gives shape {tuple(said.shape)} for {len(values)} rows, expected "
            f"({len(values)},) or ({len(values)}, C)"
        )
    return said.to(values.device, torch.int64)


def _in_rows(value: Tensor, there: Tensor | bool, gap: float) -> Tensor:
    """Values ``(B, ...)`` in the rows that are there."""
    if not isinstance(there, Tensor):
        return value
    return torch.where(there.reshape(-1, *[1] * (value.dim() - 1)), value, gap)
