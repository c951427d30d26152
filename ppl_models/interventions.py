"""What rows would look like had some sites had other values.

One site is moved and what depends on it follows, in two ways. :func:`intervene` starts from rows
of data: their other sites are inferred, and what the model's structure puts below the moved site
is drawn anew. :func:`follow` starts from values of all latent sites, one row for each value of the
moved one: what does change with it takes its mean, so that a picture along a code has no noise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine
from pyro.infer.inspect import is_sample_site
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import unknown
from ppl_models.devices import check_device
from ppl_models.guides.inverse_guide import dependencies
from ppl_models.inference.traces.sites import random_sites
from ppl_models.sample_sites import base_of, support_words

if TYPE_CHECKING:
    from ppl_models.pair import Pair

READ = 4  # rows from which dependencies are read; they are the same for all


def intervene(
    pair: Pair, batch: Batch, values: Mapping[str, Any], mean: bool = True
) -> dict[str, Tensor]:
    """See :meth:`ppl_models.Pair.intervene`."""
    coded = {name: _code(pair, name, value) for name, value in values.items()}
    return _intervene(pair, batch, coded, mean, tuple(values))


def _code(pair: Pair, name: str, value: Any) -> Any:
    """The code of a class that is given by its name."""
    site = None if pair.schema is None else pair.schema.sites.get(name)
    if not isinstance(value, str) or site is None or not site.classes:
        return value
    if value not in site.classes:
        raise ValueError(f"site {name!r}: {unknown('class', value, site.classes)}")
    return site.classes.index(value)


def transfer(
    pair: Pair, source: Batch, target: Batch, sites: Sequence[str], mean: bool = True
) -> dict[str, Tensor]:
    """See :meth:`ppl_models.Pair.transfer`."""
    if source.count != target.count:
        raise ValueError(
            f"source has {source.count} rows and target {target.count}, expected as many"
        )
    with torch.no_grad():
        found = {**_inferred(pair, source), **source}
    for name in sites:
        if name not in found:
            raise ValueError(unknown("site of the source", name, found))
    return _intervene(pair, target, {name: found[name] for name in sites}, mean, ())


def traverse(pair: Pair, batch: Batch, site: str, values: Tensor, data: str = "x") -> Tensor:
    """Mean pictures of rows as one of their codes takes other values and all else stays.

    Args:
        pair: A pair whose data hang on codes that its guide draws.
        batch: The rows B, with the labels that are known of them.
        site: The code.
        values: Its values ``(steps, K)``.
        data: The site of the pictures.

    Returns:
        ``(steps, B, D)``.

    Raises:
        ValueError: If there is no such site, or the values have another size.
    """
    first = intervene(pair, batch, {site: values[0]})
    # One draw for all steps: what is not the code must not change along the way.
    kept = {name: value for name, value in first.items() if name not in (*batch, site, data)}
    made = [_intervene(pair, batch, {**kept, site: value}, True, (site,)) for value in values]
    return torch.stack([found[data] for found in made])


@torch.no_grad()
def follow(pair: Pair, kept: Mapping[str, Tensor], moved: str, rows: int) -> dict[str, Tensor]:
    """Mean of every data site as one latent site moves.

    A latent site whose density at its kept value differs between the rows depends on the moved
    one, and takes its mean (a label: its most probable value); all others keep their values.

    Args:
        pair: The pair, in evaluation mode.
        kept: A value ``(rows, *event)`` of every latent site, equal in all rows but for one.
        moved: The site that differs.
        rows: Number of rows.

    Returns:
        ``(rows, *event)`` by data site.
    """
    batch = Batch({}, torch.arange(rows, device=pair.like().device))
    with _Follow(kept, moved):
        nodes = dict(random_sites(poutine.trace(pair.model).get_trace(batch)))
    return {
        name: _centre(node["fn"]).expand(rows, *node["fn"].event_shape)
        for name, node in nodes.items()
        if name not in kept
    }


class _Follow(Messenger):
    def __init__(self, kept: Mapping[str, Tensor], moved: str) -> None:
        super().__init__()
        self.kept, self.moved = kept, moved

    def _pyro_sample(self, msg: Any) -> None:
        name, fn = msg["name"], msg["fn"]
        if msg["done"] or msg["is_observed"] or name not in self.kept:
            return
        value = self.kept[name]
        if name != self.moved:
            density = fn.log_prob(value)
            if not torch.allclose(density, density.flatten()[0], rtol=1e-4, atol=1e-4):
                value = _centre(fn)
        msg["value"], msg["done"] = value, True


def _centre(fn: Any) -> Tensor:
    if fn.has_enumerate_support:
        values: Tensor = fn.enumerate_support()
        best = fn.log_prob(values).argmax(0)
        index = best.reshape(1, *best.shape, *[1] * len(fn.event_shape))
        return torch.take_along_dim(values, index, 0).squeeze(0)
    try:
        mean: Tensor = fn.mean
    except NotImplementedError:
        mean = fn.sample((200,)).mean(0)
    return mean


@torch.no_grad()
def _intervene(
    pair: Pair, batch: Batch, values: Mapping[str, Any], mean: bool, given: Sequence[str]
) -> dict[str, Tensor]:
    """What :func:`intervene` does; values of the ``given`` sites are the user's own."""
    check_device("the pair", pair.like().device)
    training = pair.training
    pair.eval()
    try:
        return _moved(pair, batch, values, mean, given)
    finally:
        pair.train(training)


def _moved(
    pair: Pair, batch: Batch, values: Mapping[str, Any], mean: bool, given: Sequence[str]
) -> dict[str, Tensor]:
    rows = torch.arange(min(READ, batch.count), device=batch.rows.device)
    parents = dependencies(pair.model, Batch({n: v[rows] for n, v in batch.items()}, rows))
    for name in values:
        if name not in parents:
            raise ValueError(unknown("site", name, parents))
    below = _descendants(parents, set(values))
    inferred = {n: v for n, v in _inferred(pair, batch).items() if n in parents}
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
    like = _sites(pair.model, Batch({}, batch.rows, size=batch.size))
    fixed = dict(kept)
    for name, value in values.items():
        fixed[name] = _shaped(name, value, like.get(name), batch, name in given)
    seen_again = {n: v for n, v in fixed.items() if n in batch or n in pair.card.data}
    model = poutine.condition(pair.model, data=fixed)
    found = _sites(model, batch.replace(seen_again))
    result = {name: site["value"] for name, site in found.items()}
    if mean:
        for name in pair.card.data:
            if name not in fixed and name in found:
                result[name] = _mean(name, found[name]["fn"], result[name])
    return result


def _inferred(pair: Pair, batch: Batch) -> dict[str, Tensor]:
    """One draw of the guide, at what the batch observes."""
    return {name: site["value"] for name, site in _sites(pair.guide, batch).items()}


def _sites(function: Any, batch: Batch) -> dict[str, Any]:
    trace = poutine.trace(function).get_trace(batch)
    return {name: site for name, site in trace.nodes.items() if is_sample_site(site)}


def _descendants(parents: Mapping[str, Sequence[str]], roots: set[str]) -> set[str]:
    below: set[str] = set()
    for name, given in parents.items():  # parents stand before their children
        if set(given) & (below | roots) and name not in roots:
            below.add(name)
    return below


def _shaped(name: str, value: Any, site: Any, batch: Batch, check: bool) -> Tensor:
    like: Tensor = batch[name] if site is None else site["value"]
    try:
        given = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        given = torch.tensor(1j)
    if given.is_complex():
        raise ValueError(f"site {name!r} is set to {value!r}, expected numbers")
    given = given.to(like.device)
    shaped = given.to(like.dtype)
    try:
        shaped = shaped.expand(like.shape)
    except RuntimeError:
        raise ValueError(
            f"the value for site {name!r} has shape {tuple(given.shape)}, expected one that "
            f"broadcasts to {tuple(like.shape)}"
        ) from None
    if check:
        _check_value(name, given.expand(like.shape), shaped, None if site is None else site["fn"])
    return shaped


def _check_value(name: str, given: Tensor, shaped: Tensor, fn: Any) -> None:
    """Refuse what the site can never be.

    Args:
        name: The site.
        given: Values as they were given ``(B, ...)``.
        shaped: The same in the type of the site, in which 1.5 is 1.
        fn: Its distribution; None for what the story only reads.
    """
    whole = shaped.is_floating_point() or given.to(torch.float64) == shaped.to(torch.float64)
    good, expected = given.isfinite() & whole, "finite numbers"
    with contextlib.suppress(AttributeError, NotImplementedError):  # a site of no known support
        support = base_of(fn).support
        expected = _classes(fn) or support_words(support)
        if bool(good.all()):
            good = support.check(shaped)  # entry by entry, or event by event
    if not bool(good.all()):
        value = given[tuple((~good).nonzero()[0])].tolist()
        shown = f"{value:g}" if isinstance(value, int | float) else value
        raise ValueError(f"site {name!r} is set to {shown}, expected {expected}")


def _classes(fn: Any) -> str:
    if not fn.has_enumerate_support or fn.event_shape:
        return ""
    classes = [f"{value:g}" for value in fn.enumerate_support(expand=False).flatten().tolist()]
    few = classes if len(classes) <= 12 else [*classes[:2], "...", classes[-1]]
    return f"one of its {len(classes)} classes {', '.join(few)}"


def _mean(name: str, fn: Any, draw: Tensor) -> Tensor:
    if fn.support.is_discrete and not draw.is_floating_point():
        return draw  # a class has no mean
    try:
        mean: Tensor = fn.mean
    except NotImplementedError:
        raise ValueError(f"site {name!r} has no mean; ask for draws with mean=False") from None
    return mean.expand(draw.shape)
