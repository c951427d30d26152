"""The posterior that algorithms without training work on: labels summed out, codes made real.

Shapes: S draws, B rows. Sites outside the data plate (weights with a prior, say) have no
dimension for rows, and one value serves all draws that are scored together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Transform, biject_to

from ppl_models.batch import Batch
from ppl_models.data.tables.table import Table
from ppl_models.inference.posterior.draws import Scores, score
from ppl_models.inference.posterior.groups import (
    SAMPLE,
    Array,
    Variables,
    event_dims,
    host,
)
from ppl_models.inference.posterior.rows import (
    Conditioned,
    Site,
    Sites,
    find_sites,
)
from ppl_models.inference.traces.sites import family, latent_sites
from ppl_models.pair import Pair
from ppl_models.sample_sites import is_local

STARTS = 100  # random starts tried before giving up
RADIUS = 2.0  # of the cube they are drawn from, on the real line

Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class Target:
    """The log density of the continuous latent sites of some rows.

    Attributes:
        pair: The pair.
        batch: The rows, each counting once.
        sites: The random variables of a row.
        outside: The latent sites outside the data plate, all their dimensions as event.
        transforms: By continuous latent site, from the real line to its support.
        shapes: Shape of each of these sites on the real line, for one draw.
    """

    pair: Pair
    batch: Batch
    sites: Sites
    outside: dict[str, Site]
    transforms: dict[str, Transform]
    shapes: dict[str, tuple[int, ...]]

    def constrained(self, free: Values) -> dict[str, Tensor]:
        """Values in their supports for numbers on the real line."""
        return {name: self.transforms[name](value) for name, value in free.items()}

    def unconstrained(self, values: Values) -> dict[str, Tensor]:
        """Numbers on the real line for values in their supports."""
        return {name: self.transforms[name].inv(value) for name, value in values.items()}

    def scores(self, values: Values, draws: int) -> tuple[Scores, Tensor | float]:
        """The model at some values of the continuous sites, for every value of the labels.

        Args:
            values: ``(S, B, *event)`` for sites of a row, ``(*event)`` for those outside.
            draws: S.

        Returns:
            The rows' scores, and the log density of the sites outside the plate.
        """
        fixed = _Fixed({name: values[name] for name in self.outside})
        rows = {name: value for name, value in values.items() if name not in self.outside}
        found = score(fixed(self.pair.model), self.batch, rows, self.sites.labels, draws)
        return found, fixed.log_density

    def joint(self, free: Values) -> Tensor:
        """Log density of one draw of everything on the real line, a scalar.

        Pyro's own potential for the model has the same values; its general contraction of
        plates and labels costs two to ten times as much as this sum per row.

        Args:
            free: ``(B, *free)`` for sites of a row, ``(*free)`` for those outside.
        """
        values = self.constrained(free)
        found, total = self.scores(self.one_draw(values), 1)
        total = total + found.marginal().sum()
        for name, number in free.items():
            change = self.transforms[name].log_abs_det_jacobian(number, values[name])
            total = total + change.sum()
        return total

    def one_draw(self, values: Values) -> dict[str, Tensor]:
        """With a dimension for draws in the rows' sites."""
        return {n: v if n in self.outside else v.unsqueeze(0) for n, v in values.items()}

    def start(self) -> dict[str, Tensor]:
        """Uniform numbers on the real line at which density and gradient are finite.

        Raises:
            ValueError: If there are none among 100 tries.
        """
        like = self.pair.like()
        for _ in range(STARTS):
            free = {
                name: like.new_empty(shape).uniform_(-RADIUS, RADIUS).requires_grad_()
                for name, shape in self.shapes.items()
            }
            value = self.joint(free)
            slopes = torch.autograd.grad(value, list(free.values()), allow_unused=True)
            known = [slope for slope in slopes if slope is not None]
            if all(bool(part.isfinite().all()) for part in (value, *known)):
                return {name: number.detach() for name, number in free.items()}
        raise ValueError(
            f"{self.pair.card.name} has no finite log density at {STARTS} random starts of "
            f"{sorted(self.shapes)}; look at inference.debug(pair, batch)"
        )

    def posterior(
        self, values: Values, chains: int, mode: bool = False
    ) -> tuple[Variables, Variables, Tensor]:
        """Draws as variables of ``posterior`` and ``log_likelihood``.

        Args:
            values: All draws, chain after chain: ``(S, B, *event)`` for sites of a row,
                ``(S, *event)`` for those outside.
            chains: Number of chains; S is a multiple of it.
            mode: Labels take their most probable values; otherwise they are drawn.

        Returns:
            Latent sites, labels as integers and with their probabilities given the draw;
            log-likelihoods with labels summed out; and the rows' log densities ``(S, B)``.
        """
        scored = self._in_parts(values, mode)
        dims = (*SAMPLE, "datum")

        def split(value: Tensor) -> Array:
            return host(value.reshape(chains, -1, *value.shape[1:]))

        found: Variables = {}
        for name, value in values.items():
            site = self.outside.get(name) or self.sites.latents[name]
            lead = SAMPLE if name in self.outside else dims
            found[name] = ((*lead, *event_dims(site)), split(value))
        for label in self.sites.labels:
            found[label] = (dims, split(scored[label]))
            probs = split(scored[f"{label}_probs"])
            found[f"{label}_probs"] = ((*dims, f"{label}_class"), probs)
        likelihood: Variables = {n: (dims, split(scored[f"log {n}"])) for n in self.sites.data}
        return found, likelihood, scored["log density"]

    def _in_parts(self, values: Values, mode: bool) -> dict[str, Tensor]:
        total = len(next(iter(values.values())))
        step = self.sites.draws_at_a_time(self.pair, self.batch.count, self.sites.labels)
        step = 1 if self.outside else step
        found: dict[str, list[Tensor]] = {}
        for first in range(0, total, step):
            count = min(step, total - first)
            part = {
                n: v[first] if n in self.outside else v[first : first + count]
                for n, v in values.items()
            }
            scores, _ = self.scores(part, count)
            probs = {label: scores.probs(label) for label in scores.labels}
            drawn = {n: p.argmax(-1) for n, p in probs.items()} if mode else scores.draw()
            for label in probs:
                found.setdefault(label, []).append(drawn[label])
                found.setdefault(f"{label}_probs", []).append(probs[label])
            for name, value in scores.log_likelihood().items():
                found.setdefault(f"log {name}", []).append(value)
            found.setdefault("log density", []).append(scores.marginal())
        return {name: torch.cat(parts) for name, parts in found.items()}


def target(pair: Pair, batch: Batch, *, guide: bool = False, rows_alone: bool = False) -> Target:
    """The posterior of some rows, from one run of the model.

    Args:
        pair: The pair.
        batch: The rows; the data plate must be of their size.
        guide: The guide serves as proposal and must sample every continuous site of a row.
        rows_alone: No site may stand outside the plate, so that each row has a posterior of
            its own.

    Raises:
        ValueError: If a row counts more than once, a site stands in plates within the rows,
            or a latent site is neither continuous nor a label whose values can be listed.
    """
    sites, latent, outside = _sites_and_latents(pair, batch, guide, rows_alone)
    transforms, shapes = {}, {}
    for name, site in latent.items():
        transforms[name] = _transform(name, site["fn"])
        shapes[name] = tuple(transforms[name].inv(site["value"]).shape)
    return Target(pair, batch, sites, outside, transforms, shapes)


def _sites_and_latents(
    pair: Pair, batch: Batch, guide: bool, rows_alone: bool
) -> tuple[Sites, dict[str, Any], dict[str, Site]]:
    """The sites of a row, the continuous latent ones in the trace, and those outside the plate."""
    with poutine.block(), torch.no_grad():
        latent = dict(latent_sites(poutine.trace(pair.model).get_trace(batch)))
    outside = {
        name: Site(name, tuple(site["value"].shape), None)
        for name, site in latent.items()
        if not is_local(site)
    }
    if rows_alone and outside:
        raise ValueError(
            f"site {next(iter(outside))!r} stands outside the data plate, so that rows have no "
            "posterior and evidence of their own; condition the model on it, or sample it with "
            "inference.nuts"
        )
    inner = poutine.block(pair.model, hide_fn=lambda site: site["name"] in outside)
    rows = Conditioned(pair, inner, pair.guide)
    sites = find_sites(pair, batch, guide=guide, program=rows)
    continuous = {name: site for name, site in latent.items() if name not in sites.labels}
    for name, site in continuous.items():
        _check_not_discrete(name, site["fn"], name in outside)
    return sites, continuous, outside


def rows_of(table: Table, pair: Pair) -> Batch:
    """All rows of a table as one batch of the pair's type, in which each row counts once."""
    like = pair.like()
    (part,) = table.batches()
    return part.unscaled().to(like.device, like.dtype)


def rows_at_a_time(pair: Pair, sites: Sites, labels: Sequence[str], draws: int) -> int:
    """Rows whose widest layer fits into a step of memory, for all draws and label values."""
    return max(1, sites.draws_at_a_time(pair, 1, labels) // draws)


def check_continuous(found: Target, what: str) -> None:
    """Refuse a pair without a continuous latent site.

    Raises:
        ValueError: Naming the pair and what would have been done.
    """
    if not found.transforms:
        raise ValueError(f"{found.pair.card.name} has no continuous latent site {what}")


@contextmanager
def fixed(pair: Pair) -> Iterator[None]:
    """Run with parameters that take no gradient; then all is as it was."""
    wanted = {parameter: parameter.requires_grad for parameter in pair.parameters()}
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, requires_grad in wanted.items():
            parameter.requires_grad_(requires_grad)


class _Fixed(Messenger):
    """Gives sites their values, adds up their log density and hides them from outside."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.values = values
        self.log_density: Tensor | float = 0.0

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"], msg["done"], msg["stop"] = self.values[msg["name"]], True, True

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            log_p = msg["fn"].log_prob(msg["value"])
            self.log_density = (
                self.log_density + scale_and_mask(log_p, msg["scale"], msg["mask"]).sum()
            )


def _check_not_discrete(name: str, fn: Any, outside: bool) -> None:
    if fn.support.is_discrete:
        where = "outside the data plate" if outside else "and its values cannot be listed"
        raise ValueError(
            f"site {name!r} ({family(fn)}, {tuple(fn.event_shape)}) is discrete {where}; expected "
            "a continuous site, or a label with a finite support in every row"
        )


def _transform(name: str, fn: Any) -> Transform:
    to_support: Callable[..., Transform] = biject_to
    try:
        return to_support(fn.support)
    except NotImplementedError:
        raise ValueError(
            f"site {name!r} ({family(fn)}) has the support {fn.support}, which no transform of "
            "torch.distributions.biject_to leads to"
        ) from None


PROBE = 2  # rows from which the sites are read


def sites_of_rows(pair: Pair, seen: Table, guide: bool = True) -> Sites:
    """The random variables of rows that have a posterior of their own.

    Args:
        pair: The pair.
        seen: The rows with what is conditioned on.
        guide: The guide must sample the continuous ones.

    Raises:
        ValueError: If it does not, or a site stands outside the data plate.
    """
    few = seen.rows(torch.arange(min(PROBE, len(seen))))
    return _sites_and_latents(pair, rows_of(few, pair), guide, rows_alone=True)[0]
