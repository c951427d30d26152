"""Where chains begin: uniform on the real line, at draws of guide or prior, or at given values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from ppl_models.config import unknown
from ppl_models.inference.posterior.rows import Site
from ppl_models.inference.posterior.target import Target
from ppl_models.sample_sites import support_words

TRIES = 100  # random starts tried before giving up
RADIUS = 2.0  # of the cube that uniform ones are drawn from, on the real line
KINDS = ("uniform", "guide", "prior")

Free = dict[str, Tensor]
Init = str | Mapping[str, Any]
Begin = str | Free  # as Init, with values checked and on the real line


def check_init(init: Any) -> None:
    """Refuse what is no way to begin, before any work.

    Raises:
        ValueError: Naming the ways that there are.
    """
    if not isinstance(init, Mapping) and init not in KINDS:
        raise ValueError(
            f"init is {init!r}, expected one of {', '.join(KINDS)}, or values by site"
        )


def beginning(found: Target, init: Init) -> Begin:
    """An option ``init`` that fits the sites of a target.

    Args:
        found: The sites that are sampled.
        init: See :func:`ppl_models.inference.nuts`.

    Raises:
        ValueError: Naming the site that the guide does not sample, that is not sampled here, or
            whose values do not fit.
    """
    if isinstance(init, Mapping):
        return {name: _given(found, name, value) for name, value in init.items()}
    if init == "guide":
        of_guide = _trace(found, "guide")
        for name in found.transforms:
            if name not in of_guide:
                raise ValueError(
                    f"init is 'guide', but the guide of {found.pair.card.name} does not sample "
                    f"site {name!r}; expected 'uniform', 'prior', or values by site"
                )
    return init


def start(found: Target, begin: Begin = "uniform") -> Free:
    """Numbers on the real line at which density and gradient are finite.

    Args:
        found: The sites that are sampled.
        begin: From :func:`beginning`; sites without a value start at uniform numbers.

    Raises:
        ValueError: If there are none among 100 tries.
    """
    for _ in range(TRIES):
        with torch.no_grad():
            drawn = _draw(found, begin)
        free = {name: number.detach().clone().requires_grad_() for name, number in drawn.items()}
        value = found.joint(free)
        slopes = torch.autograd.grad(value, list(free.values()), allow_unused=True)
        known = [slope for slope in slopes if slope is not None]
        if all(bool(part.isfinite().all()) for part in (value, *known)):
            return {name: number.detach() for name, number in free.items()}
    kind = {
        "uniform": "random starts",
        "guide": "draws of the guide",
        "prior": "draws of the prior",
    }
    where = kind[begin] if isinstance(begin, str) else "starts at the values of init"
    raise ValueError(
        f"{found.pair.card.name} has no finite log density at {TRIES} {where} of "
        f"{sorted(found.shapes)}; look at inference.debug(pair, batch)"
    )


def _draw(found: Target, begin: Begin) -> Free:
    if begin in ("guide", "prior"):
        values = _trace(found, str(begin))
        return {name: _free(found, name, values[name]) for name in found.transforms}
    like, given = found.pair.like(), {} if isinstance(begin, str) else begin
    return {
        name: given[name] if name in given else like.new_empty(shape).uniform_(-RADIUS, RADIUS)
        for name, shape in found.shapes.items()
    }


def _trace(found: Target, kind: str) -> dict[str, Tensor]:
    """Values of all sites in one run of the guide, or of the model, whose data stay."""
    program = found.pair.guide if kind == "guide" else found.pair.model
    with poutine.block(), torch.no_grad():
        nodes = poutine.trace(program).get_trace(found.batch).nodes
    return {name: node["value"] for name, node in nodes.items() if node["type"] == "sample"}


def _free(found: Target, name: str, value: Tensor) -> Tensor:
    """Numbers on the real line for a site's values as a trace has them, ``(P, B, *event)``."""
    free: Tensor = found.transforms[name].inv(value)
    there = found.there.get(name)
    if there is not None:  # among entries that there are not
        free = free.reshape(-1, *found.shapes[name][1:])[there.flatten()]
    return free.reshape(found.shapes[name])


def _given(found: Target, name: str, value: Any) -> Tensor:
    """A user's values of a site, on the real line."""
    if name not in found.transforms:
        raise ValueError(unknown("site of init", name, found.transforms))
    local = name not in found.outside
    site = found.sites.latents[name] if local else found.outside[name]
    shape = (found.batch.count, *site.shape) if local else site.shape
    like = found.pair.like()
    try:
        array = value if isinstance(value, Tensor) else np.array(value, dtype=float)
        wide = torch.as_tensor(array).to(like).broadcast_to(shape)
    except (TypeError, ValueError, RuntimeError):
        got = tuple(np.shape(value)) if not isinstance(value, Tensor) else tuple(value.shape)
        rows = ", rows first" if local else ""
        raise ValueError(
            f"init of site {name!r} has the shape {got}, expected numbers that fit {shape}{rows}"
        ) from None
    if local:
        wide = _as_traced(site, wide)
    support = found.transforms[name].codomain
    fits = support.check(wide) & wide.isfinite().reshape(*wide.shape, 1).all(-1).all()
    there = found.there.get(name)
    if there is not None:
        fits = fits | ~there.reshape(*there.shape, *[1] * (fits.dim() - there.dim()))
    if not bool(fits.all()):
        raise ValueError(
            f"init of site {name!r} is outside its support, expected {support_words(support)}"
        )
    return _free(found, name, wide)


def _as_traced(site: Site, value: Tensor) -> Tensor:
    """Values ``(B, plates, *event)`` as a trace has them, ``(P, B, *event)``."""
    plates = sorted(site.plates, key=lambda plate: plate.dim)
    own = [1 + site.plates.index(plate) for plate in plates]
    events = range(1 + len(own), value.dim())
    sizes = dict.fromkeys(range(-site.nesting, -1), 1) | {p.dim: p.size for p in plates}
    moved = value.permute(*own, 0, *events)
    return moved.reshape(*sizes.values(), value.shape[0], *moved.shape[len(own) + 1 :])
