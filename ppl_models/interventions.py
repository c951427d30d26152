"""What rows would look like had some sites had other values.

One site is moved and what depends on it follows, in two ways. :func:`intervene` starts from rows
of data: their other sites are inferred, and what the model's structure puts below the moved site
is drawn anew. :func:`follow` starts from values of all latent sites, one row for each value of the
moved one: what does change with it takes its mean, so that a picture along a code has no noise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from pyro import poutine
from pyro.infer.inspect import is_sample_site
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.centres import at_centres, centre_of, data_centre, is_class, mean_of
from ppl_models.config import unknown, whole
from ppl_models.covariates import covariate_value, covariates_of, emptied, empty
from ppl_models.devices import check_device
from ppl_models.guides.inverse_guide import dependencies
from ppl_models.inference.traces.sites import random_sites
from ppl_models.quiet import evaluating
from ppl_models.sample_sites import in_plates, is_local, plates_within, rows_first
from ppl_models.site_values import site_value

if TYPE_CHECKING:
    from ppl_models.pair import Pair

READ = 4  # rows from which dependencies are read; they are the same for all
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
    coded = {name: _code(pair, name, value) for name, value in values.items()}
    return _intervene(pair, batch, coded, How(mean, codes, draws), tuple(values))


def _code(pair: Pair, name: str, value: Any) -> Any:
    """The code of a class that is given by its name; a covariate's value in its type."""
    if name in covariates_of(pair):
        return covariate_value(pair, name, value)
    site = None if pair.schema is None else pair.schema.sites.get(name)
    if not isinstance(value, str) or site is None or not site.classes:
        return value
    if value not in site.classes:
        raise ValueError(f"site {name!r}: {unknown('class', value, site.classes)}")
    return site.classes.index(value)


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
    with _evaluating(pair):
        inferred = _over_draws(pair, source, how, lambda rows, _: _inferred(pair, rows, how))
    found = {**inferred, **source}
    for name in sites:
        if name not in found:
            raise ValueError(unknown("site of the source", name, found))
    return _intervene(pair, target, {name: found[name] for name in sites}, how, ())


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
    """Mean of every data site as one latent site moves.

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


@contextlib.contextmanager
def _evaluating(pair: Pair) -> Iterator[None]:
    check_device("the pair", pair.like().device)
    with evaluating(pair), torch.no_grad():
        yield


def _intervene(
    pair: Pair, batch: Batch, values: Mapping[str, Any], how: How, given: Sequence[str]
) -> dict[str, Tensor]:
    """What :func:`intervene` does; values of the ``given`` sites are the user's own."""
    with _evaluating(pair):
        parents = _parents(pair, batch, values)
        if how.draws is None:
            return _moved(pair, batch, values, how, parents, given)
        return _drawn(pair, batch, values, how, parents, given)


def _drawn(
    pair: Pair,
    batch: Batch,
    values: Mapping[str, Any],
    how: How,
    parents: Mapping[str, Sequence[str]],
    given: Sequence[str],
) -> dict[str, Tensor]:
    """The same for S draws of everything, ``(S, ...)``."""
    like = _model_sites(pair, batch)
    wide = {
        name: site_value(name, value, like.get(name), batch, name in given, how.draws)
        for name, value in values.items()
    }

    def run(rows: Batch, place: int | None) -> dict[str, Tensor]:
        if place is not None:
            return _moved(pair, rows, {n: v[place] for n, v in wide.items()}, how, parents)
        axes = {name: _row_axis(value[0], like.get(name)) for name, value in wide.items()}
        flat = {n: v.movedim(0, axes[n]).flatten(axes[n], axes[n] + 1) for n, v in wide.items()}
        return _moved(pair, rows, flat, how, parents)

    return _over_draws(pair, batch, how, run)


def _over_draws(
    pair: Pair, batch: Batch, how: How, run: Callable[[Batch, int | None], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """What a function makes of the rows, once or for each of S draws ``(S, ...)``.

    The draws are rows of one run. Where a site is shared by all rows, each draw has a value of its
    own for it and so a run of its own: no network takes more than one set of weights.

    Args:
        pair: The pair.
        batch: The rows.
        how: How many draws, if any.
        run: Called with rows, and the number of the draw where they are of one only.
    """
    draws = how.draws
    if draws is None:
        return run(batch, None)
    like = _model_sites(pair, batch)
    if not all(map(is_local, like.values())):
        runs = [run(batch, place) for place in range(draws)]
        return {name: torch.stack([found[name] for found in runs]) for name in runs[0]}
    repeated = {
        name: value.repeat(draws, *[1] * (value.dim() - 1)) for name, value in batch.items()
    }
    found = run(Batch(repeated, batch.rows.repeat(draws), size=batch.size * draws), None)
    apart = {}
    for name, value in found.items():
        axis = _row_axis(value, like.get(name))
        apart[name] = value.unflatten(axis, (draws, batch.count)).movedim(axis, 0)
    return apart


def _row_axis(value: Tensor, site: Any) -> int:
    """The dimension of the rows in a site's value; plates within the rows stand left of it."""
    return 0 if site is None else value.dim() - 1 - len(site["fn"].event_shape)


def _model_sites(pair: Pair, batch: Batch) -> dict[str, Any]:
    return _sites(pair.model, emptied(pair, batch))


def _parents(pair: Pair, batch: Batch, values: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
    """What each site of the model depends on; all that are set are among them."""
    emptied(pair, batch)  # has every covariate, or says which it lacks
    rows = torch.arange(min(READ, batch.count), device=batch.rows.device)
    few = Batch({n: v[rows] for n, v in batch.items()}, batch.rows[rows])
    parents = dependencies(pair.model, few)
    for name in values:
        if name not in parents:
            raise ValueError(unknown("site", name, parents))
    return parents


def _moved(
    pair: Pair,
    batch: Batch,
    values: Mapping[str, Any],
    how: How,
    parents: Mapping[str, Sequence[str]],
    given: Sequence[str] = (),
) -> dict[str, Tensor]:
    below = _descendants(parents, set(values))
    inferred = {n: v for n, v in _inferred(pair, batch, how).items() if n in parents}
    kept = {n: v for n, v in {**inferred, **batch}.items() if n not in below and n not in values}
    left = [n for n in parents if n not in kept and n not in below and n not in values]
    for name in left:
        children = _descendants(parents, {name})
        seen = sorted(children & (set(batch) | set(inferred)) - below)
        if seen:
            raise ValueError(
                f"site {name!r} is not sampled by the guide, and {seen} depend on it; set it, or "
                "put it into the batch"
            )
    like = _model_sites(pair, batch)
    fixed = dict(kept)
    for name, value in values.items():
        fixed[name] = site_value(name, value, like.get(name), batch, name in given)
    seen_again = {n: v for n, v in fixed.items() if n in batch or n in pair.card.data}
    # What the batch has, the model reads there, whatever plates stand within its rows.
    set_here = {n: v for n, v in fixed.items() if n not in batch or n in values}
    model = poutine.condition(pair.model, data=set_here)
    with _centred(how, pair.card.data):
        found = _sites(model, batch.replace(seen_again))
    result = {name: site["value"] for name, site in found.items()}
    if how.mean:
        for name in pair.card.data:
            if name not in fixed and name in found:
                result[name] = _mean(name, found[name]["fn"], result[name])
    return result


def _inferred(pair: Pair, batch: Batch, how: How) -> dict[str, Tensor]:
    """One draw of the guide, or its means, at what the batch observes."""
    with _centred(how, ()):
        trace = poutine.trace(pair.guide).get_trace(batch)
    # A point is no random variable, but what the guide has for the site.
    sites = {n: s for n, s in trace.nodes.items() if is_sample_site(s, include_deterministic=True)}
    return {name: site["value"] for name, site in sites.items() if not site["is_observed"]}


def _centred(how: How, data: Collection[str]) -> AbstractContextManager[Any]:
    return contextlib.nullcontext() if how.codes == "draw" else at_centres(data, how.mean)


def _sites(function: Any, batch: Batch) -> dict[str, Any]:
    trace = poutine.trace(function).get_trace(batch)
    return {name: site for name, site in trace.nodes.items() if is_sample_site(site)}


def _descendants(parents: Mapping[str, Sequence[str]], roots: set[str]) -> set[str]:
    below: set[str] = set()
    for name, given in parents.items():  # parents stand before their children
        if set(given) & (below | roots) and name not in roots:
            below.add(name)
    return below


def _mean(name: str, fn: Any, draw: Tensor) -> Tensor:
    if is_class(fn):
        return draw  # a class has no mean
    mean = mean_of(fn)
    if mean is None:
        raise ValueError(f"site {name!r} has no mean; ask for draws with mean=False")
    return mean.expand(draw.shape)
