"""The most probable values of the continuous latent sites, labels summed out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import arviz as az
import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from ppl_models.config import at_least
from ppl_models.data.tables.table import Table
from ppl_models.inference.posterior.groups import (
    SAMPLE,
    Groups,
    Variables,
    host,
    provenance,
)
from ppl_models.inference.posterior.known_rows import add_known
from ppl_models.inference.posterior.rows import chosen, undisturbed, weighed
from ppl_models.inference.posterior.target import (
    Target,
    check_continuous,
    fixed,
    rows_at_a_time,
    rows_of,
    target,
)
from ppl_models.inference.sampling.lbfgs import Minimum, minimise
from ppl_models.pair import Pair


def map(
    pair: Pair,
    table: Table,
    rows: Sequence[int] | Tensor | None = None,
    *,
    given: Sequence[str] | None = None,
    starts: int = 10,
    iterations: int = 500,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> az.InferenceData:
    """Maximum a posteriori: the mode of the continuous latent sites, labels summed out.

    The mode is that of the density in the sites' own space (no Jacobian), found by L-BFGS from
    the best of some draws of the guide (of the model, for sites the guide lacks). Rows are
    independent searches, all in one tensor; where sites stand outside the data plate, the joint
    mode of everything is one search.

    Args:
        pair: The pair; its mode and parameters stay as they were.
        table: Where the rows are from.
        rows: Positions in the table; all by default.
        given: Sites to condition on; the card's data sites by default.
        starts: Draws among which the start is chosen.
        iterations: Most steps.
        tolerance: Largest entry of the gradient at a mode, nats per unit on the real line; in
            float32 the search ends earlier, where no step raises the density any more.
        seed: Seed of the draws; the global random state stays as it was.

    Returns:
        ``posterior`` of one chain and draw: the mode, the most probable value of each label at
        the mode and its probabilities there (``y_probs``); ``sample_stats``: ``lp`` (log
        density at the mode: ``(datum,)``, or of everything together where sites stand outside
        the plate) and ``gradient``, its largest entry; ``log_likelihood``;
        ``observed_data``; ``constant_data``.

    Raises:
        ValueError: If an option is out of range, the pair has no continuous latent site, the
            start has no finite density, or the rows do not fit the model.

    Warns:
        UserWarning: If the iterations ran out.
    """
    starts, iterations = at_least(starts=(starts, 1), iterations=(iterations, 1))
    if not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}, expected at least 0")
    table, index = chosen(pair, table, rows)
    parts: list[dict[str, Variables]] = []
    with undisturbed(pair, seed), fixed(pair):
        seen = weighed(pair, table, given, index)
        few = target(pair, rows_of(seen.rows(torch.arange(1)), pair))
        check_continuous(few, "to maximise")
        step = rows_at_a_time(pair, few.sites, few.sites.labels, 1)
        for block in torch.arange(len(seen)).split(len(seen) if few.outside else step):
            found = target(pair, rows_of(seen.rows(block), pair))
            parts.append(_mode(found, starts, iterations, tolerance))
    groups = Groups(table.rows(index), few.sites)
    for name in parts[0]:
        groups.add(name, _joined([part[name] for part in parts]))
    add_known(groups, pair, seen, table.rows(index), few.sites)
    more = {
        "objective": "none",
        "sampled_variables": [*few.outside, *few.sites.latents],
    }
    return groups.finish(provenance(pair, seen, few.sites, "map", seed, more))


def _mode(found: Target, starts: int, iterations: int, tolerance: float) -> dict[str, Variables]:
    problem = _Problem(found)
    with torch.no_grad():
        places = torch.stack([problem.draw() for _ in range(starts)])
        values = torch.stack([-problem.log_density(place) for place in places])
        best = values.nan_to_num(nan=torch.inf).argmin(0)
    pick = torch.arange(problem.count, device=best.device)
    if not bool(values[best, pick].isfinite().all()):
        raise ValueError(
            f"{found.pair.card.name} has no finite log density at any of {starts} draws of the "
            "guide, expected one to start from; look at inference.debug(pair, batch)"
        )
    end = minimise(problem.negative, places[best, pick], iterations, tolerance)
    _warn(found, end, iterations)
    mode = found.constrained(problem.free(end.place))
    with torch.no_grad():
        groups, _ = found.posterior(
            {name: value.unsqueeze(0) for name, value in mode.items()}, 1, mode=True
        )
    dims = SAMPLE if found.outside else (*SAMPLE, "datum")
    stats: Variables = {
        name: (dims, host(value).reshape((1,) * len(SAMPLE) + value.shape[: len(dims) - 2]))
        for name, value in (("lp", -end.value), ("gradient", end.slope))
    }
    return {**groups, "sample_stats": stats}


class _Problem:
    """Minus the log density, as R functions of D numbers on the real line.

    R is the number of rows, or one where sites stand outside the data plate.
    """

    def __init__(self, found: Target) -> None:
        self.found = found
        self.count = 1 if found.outside else found.batch.count
        self.sizes = [math.prod(shape) // self.count for shape in found.shapes.values()]

    def draw(self) -> Tensor:
        """A place ``(R, D)`` from the guide."""
        batch = self.found.batch
        guide = poutine.trace(self.found.pair.guide).get_trace(batch)
        model = poutine.trace(poutine.replay(self.found.pair.model, trace=guide)).get_trace(batch)
        codes = {name: model.nodes[name]["value"] for name in self.found.transforms}
        free = self.found.unconstrained(codes)
        return torch.cat([value.reshape(self.count, -1) for value in free.values()], -1)

    def free(self, place: Tensor) -> dict[str, Tensor]:
        """Numbers by site, in the sites' shapes."""
        parts = place.split(self.sizes, -1)
        shapes = self.found.shapes.items()
        return {n: part.reshape(shape) for (n, shape), part in zip(shapes, parts, strict=True)}

    def log_density(self, place: Tensor) -> Tensor:
        """In the sites' own space ``(R,)``."""
        values = self.found.one_draw(self.found.constrained(self.free(place)))
        scores, outside = self.found.scores(values, 1)
        rows = scores.marginal().squeeze(0)
        return (rows.sum() + outside).reshape(1) if self.found.outside else rows

    def negative(self, place: Tensor) -> tuple[Tensor, Tensor]:
        """Values ``(R,)`` and gradients ``(R, D)``."""
        place = place.detach().requires_grad_()
        value = -self.log_density(place)
        (gradient,) = torch.autograd.grad(value.sum(), place)
        return value.detach(), gradient


def _warn(found: Target, end: Minimum, iterations: int) -> None:
    late = int((~end.settled).sum())
    if late:
        warnings.warn(
            f"{late} of {len(end.settled)} searches for the mode of {found.pair.card.name} did "
            f"not settle within {iterations} iterations; raise iterations, and look at "
            "sample_stats.gradient",
            stacklevel=4,
        )


def _joined(parts: list[Variables]) -> Variables:
    # Only what has a dimension for rows comes in several parts.
    first = parts[0]
    if len(parts) == 1:
        return first
    return {
        name: (dims, np.concatenate([part[name][1] for part in parts], dims.index("datum")))
        for name, (dims, _) in first.items()
    }
