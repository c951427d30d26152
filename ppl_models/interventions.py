"""What rows would look like had some sites had other values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine
from pyro.infer.inspect import is_sample_site
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import unknown
from ppl_models.guides.inverse_guide import dependencies

if TYPE_CHECKING:
    from ppl_models.pair import Pair

READ = 4  # rows from which dependencies are read; they are the same for all


@torch.no_grad()
def intervene(
    pair: Pair, batch: Batch, values: Mapping[str, Any], mean: bool = True
) -> dict[str, Tensor]:
    """See :meth:`ppl_models.Pair.intervene`."""
    training = pair.training
    pair.eval()
    try:
        return _intervene(pair, batch, values, mean)
    finally:
        pair.train(training)


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
    return intervene(pair, target, {name: found[name] for name in sites}, mean)


def _intervene(
    pair: Pair, batch: Batch, values: Mapping[str, Any], mean: bool
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
        fixed[name] = _shaped(name, value, like.get(name), batch)
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


def _shaped(name: str, value: Any, site: Any, batch: Batch) -> Tensor:
    like: Tensor = batch[name] if site is None else site["value"]
    given = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    try:
        return given.expand(like.shape)
    except RuntimeError:
        raise ValueError(
            f"the value for site {name!r} has shape {tuple(given.shape)}, expected one that "
            f"broadcasts to {tuple(like.shape)}"
        ) from None


def _mean(name: str, fn: Any, draw: Tensor) -> Tensor:
    if fn.support.is_discrete and not draw.is_floating_point():
        return draw  # a class has no mean
    try:
        mean: Tensor = fn.mean
    except NotImplementedError:
        raise ValueError(f"site {name!r} has no mean; ask for draws with mean=False") from None
    return mean.expand(draw.shape)
