"""Sites that are set: what to, what hangs on them, what stays, and all of it for many draws."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine
from pyro.infer.inspect import is_sample_site
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution

from ppl_models.batch import Batch
from ppl_models.config import unknown
from ppl_models.covariates import covariate_value, covariates_of, emptied
from ppl_models.devices import check_device
from ppl_models.exogenous import noise_family, value_at
from ppl_models.guides.inverse_guide import dependencies
from ppl_models.modalities import predicted
from ppl_models.quiet import evaluating, quiet
from ppl_models.sample_sites import (
    Refused,
    base_of,
    is_delta,
    is_local,
    is_of_story,
    one_line,
    rows_first,
)
from ppl_models.site_values import site_value

if TYPE_CHECKING:
    from ppl_models.pair import Pair

READ = 4  # rows from which dependencies are read; they are the same for all
Sites = Mapping[str, Any]  # of a trace, by name
Soft = Callable[[Any], Any]  # of a site's distribution, the one that stands in its place


@contextlib.contextmanager
def evaluated(pair: Pair) -> Iterator[None]:
    """In eval mode and without gradients; what is refused within a trace is one line."""
    check_device("the pair", pair.like().device)
    with evaluating(pair), torch.no_grad(), one_line():
        yield


# ---- what sites are set to ------------------------------------------------------------------


def set_to(
    pair: Pair, batch: Batch, values: Mapping[str, Any], draws: int | None, like: Sites
) -> tuple[dict[str, Tensor], dict[str, Soft]]:
    """What the user gives for sites, as values and as changes of their distributions.

    Args:
        pair: The pair.
        batch: The rows.
        values: By site, a number, the name of a class, a tensor, a distribution, which is drawn
            from, or a callable, which changes the site's distribution.
        draws: S, where values are to have a first dimension for draws.
        like: The model's sites, as :func:`model_sites` gives them.

    Returns:
        Values ``(B, ...)`` or ``(S, B, ...)`` and callables, by site.

    Raises:
        ValueError: If a value does not fit, naming the site.
    """
    hard: dict[str, Tensor] = {}
    soft: dict[str, Soft] = {}
    for name, value in values.items():
        if isinstance(value, Distribution):
            of = like[name]["value"] if name in like else batch[name]
            value = drawn_from(name, value, of, draws)
        elif is_soft(value):
            if name not in like:
                raise ValueError(
                    f"{name!r} is a covariate and has no distribution that could change; expected "
                    "values"
                )
            soft[name] = value
            continue
        hard[name] = site_value(name, _code(pair, name, value), like.get(name), batch, True, draws)
    return hard, soft


def is_soft(value: Any) -> bool:
    """Whether a value is a callable, which changes a site's distribution."""
    return callable(value) and not isinstance(value, Distribution)


def drawn_from(name: str, fn: Any, like: Tensor, draws: int | None) -> Tensor:
    """Draws of a distribution in the shape of a site's value, with draws in front.

    Raises:
        ValueError: If it does not expand to that shape, naming the site.
    """
    batch_shape = like.shape[: like.dim() - len(fn.event_shape)]
    wide = _expanded(fn, batch_shape, like.shape[len(batch_shape) :])
    if wide is None:
        raise ValueError(
            f"site {name!r} is set to draws of {_shown(fn)}, expected one that expands to the "
            f"site's shape {tuple(like.shape)}"
        )
    drawn: Tensor = wide.sample(() if draws is None else (draws,))
    return drawn


def _expanded(fn: Any, batch_shape: Sequence[int], event_shape: Sequence[int]) -> Any:
    """A distribution of these shapes; None if it cannot be."""
    if tuple(fn.event_shape) != tuple(event_shape):
        return None
    try:
        return fn.expand(torch.Size(batch_shape))
    except RuntimeError:
        return None


def _shown(fn: Any) -> str:
    if not isinstance(fn, Distribution):
        return type(fn).__name__
    shapes = f"batch shape {tuple(fn.batch_shape)}, event shape {tuple(fn.event_shape)}"
    return f"{type(base_of(fn)).__name__} ({shapes})"


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


class Changed(Messenger):
    """Distributions of sites give way to those that callables make of them.

    They are brought to the shape of the site's own: handlers come when its plates have already
    expanded that.
    """

    def __init__(self, soft: Mapping[str, Soft]) -> None:
        super().__init__()
        self.soft = soft

    def _pyro_sample(self, msg: Any) -> None:
        name, old = msg["name"], msg["fn"]
        if name not in self.soft:
            return
        msg["fn"] = changed(name, self.soft[name], old)


def changed(name: str, change: Soft, old: Any) -> Any:
    """The distribution that a callable makes of a site's, in the shape of that.

    Raises:
        Refused: If it makes none of this shape, naming the site.
    """
    new = change(old)
    wide = None
    if isinstance(new, Distribution):
        wide = _expanded(new, old.batch_shape, old.event_shape)
    if wide is None:
        raise Refused(
            f"what is given for site {name!r} makes {_shown(new)} of its distribution, "
            f"expected a distribution of batch shape {tuple(old.batch_shape)} and event shape "
            f"{tuple(old.event_shape)}"
        )
    return wide


def carried(name: str, fn: Any, family: type | None, noise: Tensor) -> Tensor:
    """The value that a site's noise leads to under this distribution, in the shape of that.

    Args:
        name: The site.
        fn: Its distribution as it is now.
        family: What the noise is of.
        noise: It.

    Raises:
        Refused: If the noise of this distribution is of another family, naming the site.
    """
    if not is_delta(fn) and noise_family(fn) is not family:
        was_of, is_of = ("none" if f is None else f.__name__ for f in (family, noise_family(fn)))
        raise Refused(
            f"site {name!r} keeps its noise, which is {was_of}, and is given a distribution "
            f"whose noise is {is_of}; expected one of the same noise, or a Delta"
        )
    return value_at(fn, noise).expand(fn.batch_shape + fn.event_shape)


# ---- what hangs on them ---------------------------------------------------------------------


def model_sites(pair: Pair, batch: Batch) -> Sites:
    """The model's sites at rows of which nothing is observed; the random state stays.

    Raises:
        ValueError: If what the rows observe of one has another shape.
    """
    with quiet(batch.rows.device, None, pair):
        found = sites_of(pair.model, emptied(pair, batch))
    for name in (name for name in batch if name in found):
        wanted = by_row(found[name], found[name]["value"]).shape
        if batch[name].shape != wanted:
            raise ValueError(
                f"site {name!r} has shape {tuple(batch[name].shape)} in the batch, expected "
                f"{tuple(wanted)}"
            )
    return found


def sites_of(function: Any, batch: Batch) -> dict[str, Any]:
    """The sites of a run, without the plates' own."""
    with predicted():
        trace = poutine.trace(function).get_trace(batch)
    return {name: site for name, site in trace.nodes.items() if is_of_story(site)}


def parents_of(pair: Pair, batch: Batch, like: Sites) -> Mapping[str, Sequence[str]]:
    """What each site of the model, and each covariate, depends on.

    Args:
        pair: The pair.
        batch: The rows.
        like: As :func:`model_sites` gives them.
    """
    rows = torch.arange(min(READ, batch.count), device=batch.rows.device)
    few = Batch({n: v[rows] for n, v in batch.items()}, batch.rows[rows])
    # An observed Delta may stand at the observation and not at what is made.
    made = [name for name, site in like.items() if is_delta(site["fn"])]
    with predicted():
        return dependencies(pair.model, few.without(*made))


def check_sites(names: Collection[str], parents: Mapping[str, Sequence[str]]) -> None:
    """Refuse to set what is no site.

    Raises:
        ValueError: Naming it.
    """
    for name in names:
        if name not in parents:
            raise ValueError(unknown("site", name, parents))


def descendants(parents: Mapping[str, Sequence[str]], roots: set[str]) -> set[str]:
    """Sites that depend on others, which are not among them."""
    below: set[str] = set()
    for name, given in parents.items():  # parents stand before their children
        if set(given) & (below | roots) and name not in roots:
            below.add(name)
    return below


def inferred(pair: Pair, batch: Batch) -> dict[str, Tensor]:
    """One draw of the guide at what the batch observes."""
    trace = poutine.trace(pair.guide).get_trace(batch)
    # A point is no random variable, but what the guide has for the site.
    sites = {n: s for n, s in trace.nodes.items() if is_sample_site(s, include_deterministic=True)}
    return {name: site["value"] for name, site in sites.items() if not site["is_observed"]}


def sites_at(
    pair: Pair,
    batch: Batch,
    kept: Mapping[str, Tensor],
    like: Sites,
) -> dict[str, Any]:
    """The model's sites where some keep values; the others are as handlers make them.

    Args:
        pair: The pair.
        batch: The rows; what it observes and is not kept is not observed.
        kept: Values by site. Those that are the batch's own tensors are in the shape of its rows.
        like: As :func:`model_sites` gives them, of these rows or of any.
    """
    own = {name for name, value in kept.items() if name in batch and batch[name] is value}
    seen = {
        name: value if name in own or name not in like else by_row(like[name], value)
        for name, value in kept.items()
        if name in batch or name in pair.card.data
    }
    # What the batch has, the model reads there, whatever plates stand within its rows.
    set_here = {name: value for name, value in kept.items() if name not in own}
    return sites_of(poutine.condition(pair.model, data=set_here), batch.replace(seen))


def by_row(site: Any, value: Tensor) -> Tensor:
    """A site's value, in the shape of the batch where it is a row's own."""
    return rows_first(site, value, len(site["fn"].event_shape)) if is_local(site) else value


# ---- many draws -----------------------------------------------------------------------------


def over_draws(
    batch: Batch,
    draws: int | None,
    run: Callable[[Batch, Mapping[str, Tensor]], dict[str, Tensor]],
    like: Sites,
    values: Mapping[str, Tensor] | None = None,
    apart: bool = False,
) -> dict[str, Tensor]:
    """What a function makes of the rows, once or for each of S draws ``(S, ...)``.

    The draws are rows of one run. Where a site is shared by all rows, each draw has a value of its
    own for it and so a run of its own: no network takes more than one set of weights.

    Args:
        batch: The rows.
        draws: S; None for once.
        run: Called with rows and the values that sites are set to there.
        like: The model's sites, as :func:`model_sites` gives them.
        values: By site, ``(B, ...)``, with draws ``(S, B, ...)``.
        apart: Whether each draw is a run of its own in any case.
    """
    values = {} if values is None else values
    if draws is None:
        return run(batch, values)
    if apart or not all(map(is_local, like.values())):
        runs = [run(batch, {n: v[place] for n, v in values.items()}) for place in range(draws)]
        return {name: torch.stack([found[name] for found in runs]) for name in runs[0]}
    axes = {name: row_axis(value[0], like.get(name)) for name, value in values.items()}
    flat = {n: v.movedim(0, axes[n]).flatten(axes[n], axes[n] + 1) for n, v in values.items()}
    found = run(repeated(batch, draws), flat)
    split = {}
    for name, value in found.items():
        axis = row_axis(value, like.get(name))
        split[name] = value.unflatten(axis, (draws, batch.count)).movedim(axis, 0)
    return split


def repeated(batch: Batch, draws: int) -> Batch:
    """The rows of a batch, over and over: those of the first draw, of the second and so on."""
    sites = {n: value.repeat(draws, *[1] * (value.dim() - 1)) for n, value in batch.items()}
    return Batch(sites, batch.rows.repeat(draws), size=batch.size * draws)


def row_axis(value: Tensor, site: Any) -> int:
    """The dimension of the rows in a site's value; plates within the rows stand left of it."""
    return 0 if site is None else value.dim() - 1 - len(site["fn"].event_shape)
