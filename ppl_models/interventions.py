"""What rows would look like had some sites had other values.

One site is moved and what depends on it follows, in two ways. :func:`intervene` starts from rows
of data: their other sites are inferred, and what the model's structure puts below the moved site
is drawn anew. :func:`follow` starts from values of all latent sites, one row for each value of the
moved one: what does change with it takes its mean, so that a picture along a code has no noise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.centres import at_centres, centre_of, data_centre, is_class
from ppl_models.config import unknown, whole
from ppl_models.covariates import empty
from ppl_models.inference.traces.sites import random_sites
from ppl_models.sample_sites import in_plates, plates_within, rows_first
from ppl_models.set_sites import (
    Changed,
    Sites,
    Soft,
    check_sites,
    descendants,
    evaluated,
    inferred,
    model_sites,
    over_draws,
    parents_of,
    set_to,
    sites_at,
)
from ppl_models.site_values import site_value

if TYPE_CHECKING:
    from ppl_models.pair import Pair

Codes = Literal["mean", "draw"]


@dataclass(frozen=True)
class How:
    """How sites get their values; see :meth:`ppl_models.Pair.intervene`."""

    mean: bool = True
    codes: Codes = "draw"
    draws: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no choice."""
        if self.codes not in ("mean", "draw"):
            raise ValueError(f"codes is {self.codes!r}, expected 'mean' or 'draw'")
        if self.draws is not None:
            object.__setattr__(self, "draws", whole("draws", self.draws, 1))


def intervene(
    pair: Pair,
    batch: Batch,
    values: Mapping[str, Any],
    mean: bool = True,
    codes: Codes = "draw",
    draws: int | None = None,
) -> dict[str, Tensor]:
    """See :meth:`ppl_models.Pair.intervene`."""
    return _intervene(pair, batch, values, How(mean, codes, draws))


def transfer(
    pair: Pair,
    source: Batch,
    target: Batch,
    sites: Sequence[str],
    mean: bool = True,
    codes: Codes = "draw",
    draws: int | None = None,
) -> dict[str, Tensor]:
    """See :meth:`ppl_models.Pair.transfer`."""
    how = How(mean, codes, draws)
    if source.count != target.count:
        raise ValueError(
            f"source has {source.count} rows and target {target.count}, expected as many"
        )
    with evaluated(pair):
        like = model_sites(pair, source)
        found = over_draws(source, how.draws, lambda rows, _: _inferred(pair, rows, how), like)
    found |= source
    for name in sites:
        if name not in found:
            raise ValueError(unknown("site of the source", name, found))
    return _intervene(pair, target, {name: found[name] for name in sites}, how, given=())


def traverse(
    pair: Pair, batch: Batch, site: str, values: Tensor, data: str = "x", codes: Codes = "draw"
) -> Tensor:
    """Mean pictures of rows as one of their codes takes other values and all else stays.

    Args:
        pair: A pair whose data hang on codes that its guide draws.
        batch: The rows B, with the labels that are known of them.
        site: The code.
        values: Its values ``(steps, K)``.
        data: The site of the pictures.
        codes: As of :meth:`ppl_models.Pair.intervene`.

    Returns:
        ``(steps, B, D)``.

    Raises:
        ValueError: If there is no such site, or the values have another size.
    """
    how = How(codes=codes)
    first = intervene(pair, batch, {site: values[0]}, codes=codes)
    # One draw for all steps: what is not the code must not change along the way.
    kept = {name: value for name, value in first.items() if name not in (*batch, site, data)}
    made = [_intervene(pair, batch, {**kept, site: value}, how, (site,)) for value in values]
    return torch.stack([found[data] for found in made])


@torch.no_grad()
def follow(
    pair: Pair,
    kept: Mapping[str, Tensor],
    moved: str,
    rows: int,
    covariates: Mapping[str, Any] | None = None,
) -> dict[str, Tensor]:
    """Mean of every data site as one latent site moves, as :func:`ppl_models.centres.data_centre`.

    A latent site whose density at its kept value differs between the rows depends on the moved
    one, and takes its mean (a label: its most probable value); all others keep their values.

    Args:
        pair: The pair, in evaluation mode.
        kept: A value ``(rows, *event)`` of every latent site, equal in all rows but for one.
        moved: The site that differs.
        rows: Number of rows.
        covariates: See :func:`ppl_models.covariates.empty`.

    Returns:
        ``(rows, *event)`` by data site.
    """
    batch = empty(pair, rows, covariates)
    with _Follow(kept, moved):
        nodes = dict(random_sites(poutine.trace(pair.model).get_trace(batch)))
    found = {}
    for name, node in nodes.items():
        if name not in kept:
            fn = node["fn"]
            centre = _or_sampled(data_centre(fn), fn)
            shape = (*(frame.size for frame in reversed(plates_within(node))), rows)
            wide = centre.expand(*shape, *fn.event_shape)
            found[name] = rows_first(node, wide, len(fn.event_shape))
    return found


class _Follow(Messenger):
    def __init__(self, kept: Mapping[str, Tensor], moved: str) -> None:
        super().__init__()
        self.kept, self.moved = kept, moved

    def _pyro_sample(self, msg: Any) -> None:
        name, fn = msg["name"], msg["fn"]
        if msg["done"] or msg["is_observed"] or name not in self.kept:
            return
        value = in_plates(msg, self.kept[name])
        if name != self.moved:
            density = fn.log_prob(value).reshape(-1, value.shape[-1 - fn.event_dim]).sum(0)
            if not torch.allclose(density, density.flatten()[0], rtol=1e-4, atol=1e-4):
                value = _or_sampled(centre_of(fn), fn)
        msg["value"], msg["done"] = value, True


def _or_sampled(centre: Tensor | None, fn: Any) -> Tensor:
    return fn.sample((200,)).mean(0) if centre is None else centre


def _intervene(
    pair: Pair,
    batch: Batch,
    values: Mapping[str, Any],
    how: How,
    given: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """What :func:`intervene` does; only values of the ``given`` sites are the user's own."""
    with evaluated(pair):
        like = model_sites(pair, batch)
        parents = parents_of(pair, batch, like)
        check_sites(values, parents)
        own = {n: v for n, v in values.items() if given is None or n in given}
        hard, soft = set_to(pair, batch, own, how.draws, like)
        for name in (name for name in values if name not in own):
            value = values[name]
            hard[name] = site_value(name, value, like.get(name), batch, False, how.draws)

        def run(rows: Batch, here: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return _moved(pair, rows, here, soft, how, parents, like)

        return over_draws(batch, how.draws, run, like, hard, apart=bool(soft))


def _moved(
    pair: Pair,
    batch: Batch,
    values: Mapping[str, Tensor],
    soft: Mapping[str, Soft],
    how: How,
    parents: Mapping[str, Sequence[str]],
    like: Sites,
) -> dict[str, Tensor]:
    below = descendants(parents, {*values, *soft}) | set(soft)
    seen = {n: v for n, v in _inferred(pair, batch, how).items() if n in parents} | dict(batch)
    kept = {name: value for name, value in seen.items() if name not in below} | dict(values)
    for name in (name for name in parents if name not in kept and name not in below):
        children = descendants(parents, {name}) & set(seen) - below
        if children:
            raise ValueError(
                f"site {name!r} is not sampled by the guide, and {sorted(children)} depend on it; "
                "set it, or put it into the batch"
            )
    with _centred(how, pair.card.data), Changed(soft):
        found = sites_at(pair, batch, kept, like)
    result = {name: site["value"] for name, site in found.items()}
    if how.mean:
        made_of = {name for above in parents.values() for name in above} & set(pair.card.causes)
        for name in pair.card.data:
            # A cause keeps the draw that the others are made of.
            if name not in kept and name in found and name not in made_of:
                result[name] = _mean(name, found[name]["fn"], result[name])
    return result


def _inferred(pair: Pair, batch: Batch, how: How) -> dict[str, Tensor]:
    """One draw of the guide, or its means, at what the batch observes."""
    with _centred(how, ()):
        return inferred(pair, batch)


def _centred(how: How, data: Collection[str]) -> AbstractContextManager[Any]:
    return contextlib.nullcontext() if how.codes == "draw" else at_centres(data, how.mean)


def _mean(name: str, fn: Any, draw: Tensor) -> Tensor:
    if is_class(fn):
        return draw  # a class has no mean
    mean = data_centre(fn)
    if mean is None:
        raise ValueError(f"site {name!r} has no mean; ask for draws with mean=False")
    return mean.expand(draw.shape)
