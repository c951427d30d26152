"""The posterior that algorithms without training work on: labels summed out, codes made real.

Shapes: S draws, B rows. Sites outside the data plate (weights with a prior, say) have no
dimension for rows, and one value serves all draws that are scored together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Transform, biject_to

from ppl_models.batch import Batch
from ppl_models.data.tables.table import Table
from ppl_models.inference.posterior.draws import Scored, log_likelihoods, score
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
    elements_there,
    find_sites,
    shared_site,
    with_gaps,
)
from ppl_models.inference.traces.sites import family, latent_sites
from ppl_models.pair import Pair
from ppl_models.sample_sites import is_local, there

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
        there: Of ragged sites, which entries ``(P, B)`` or ``(P, B, *event)`` there are: only
            these are free numbers, one after another.
    """

    pair: Pair
    batch: Batch
    sites: Sites
    outside: dict[str, Site]
    transforms: dict[str, Transform]
    shapes: dict[str, tuple[int, ...]]
    there: dict[str, Tensor] = field(default_factory=dict)

    def constrained(self, free: Values) -> dict[str, Tensor]:
        """Values in their supports for numbers on the real line."""
        return {n: self.transforms[n](self._spread(n, value)) for n, value in free.items()}

    def _spread(self, name: str, free: Tensor) -> Tensor:
        """Free numbers ``(..., entries, *free)`` at their places among padding, which is 0."""
        there = self.there.get(name)
        if there is None:
            return free
        lead = free.dim() - len(self.shapes[name])
        whole = free.new_zeros(*free.shape[:lead], there.numel(), *free.shape[lead + 1 :])
        whole = whole.index_copy(lead, there.flatten().nonzero().flatten(), free)
        spread: Tensor = whole.unflatten(lead, there.shape)
        return spread

    def unconstrained(self, values: Values) -> dict[str, Tensor]:
        """Numbers on the real line for values in their supports."""
        return {name: self.transforms[name].inv(value) for name, value in values.items()}

    def scores(self, values: Values, draws: int) -> tuple[Scored, Tensor | float]:
        """The model at some values of the continuous sites, for every value of the labels.

        Args:
            values: ``(S, P, B, *event)`` for sites of a row, ``(*event)`` for those outside.
            draws: S.

        Returns:
            The rows' scores, and the log density of the sites outside the plate.
        """
        fixed = _Fixed({name: values[name] for name in self.outside})
        rows = {name: value for name, value in values.items() if name not in self.outside}
        model, labels = fixed(self.pair.model), self.sites.labels
        found = score(model, self.batch, rows, labels, draws, self.sites.nesting)
        return found, fixed.log_density

    def joint(self, free: Values) -> Tensor:
        """Log density of one draw of everything on the real line, a scalar.

        Pyro's own potential for the model has the same values; its general contraction of
        plates and labels costs two to ten times as much as this sum per row.

        Args:
            free: ``(P, B, *free)`` for sites of a row, ``(*free)`` for those outside.
        """
        values = self.constrained(free)
        found, total = self.scores(self.one_draw(values), 1)
        total = total + found.marginal().sum()
        for name, number in free.items():
            spread = self._spread(name, number)
            change = self.transforms[name].log_abs_det_jacobian(spread, values[name])
            if (kept := self.there.get(name)) is not None:
                kept = kept.flatten(change.dim()).any(-1) if kept.dim() > change.dim() else kept
                wide = kept.reshape(*kept.shape, *[1] * (change.dim() - kept.dim()))
                change = change.where(wide, change.new_zeros(()))
            total = total + change.sum()
        return total

    def one_draw(self, values: Values) -> dict[str, Tensor]:
        """With a dimension for draws in the rows' sites."""
        return {n: v if n in self.outside else v.unsqueeze(0) for n, v in values.items()}

    def posterior(
        self, values: Values, chains: int, mode: bool = False
    ) -> tuple[dict[str, Variables], Tensor]:
        """Draws as groups of variables, ``posterior`` and those of the log-likelihoods.

        Args:
            values: All draws, chain after chain: ``(S, P, B, *event)`` for sites of a row,
                ``(S, *event)`` for those outside.
            chains: Number of chains; S is a multiple of it.
            mode: Labels take their most probable values; otherwise they are drawn.

        Returns:
            By group: latent sites, labels as integers and with their probabilities given the
            draw; log-likelihoods with labels summed out. And the rows' log densities ``(S, B)``.
        """
        scored, likelihoods = self._in_parts(values, mode)
        dims = (*SAMPLE, "datum")
        there = elements_there(self.pair.model, self.batch, self.sites)

        def split(value: Tensor, kept: Tensor | None = None, right: int = 0) -> Array:
            value = with_gaps(value, kept, right)
            return host(value.reshape(chains, -1, *value.shape[1:]))

        found: Variables = {}
        for name, value in values.items():
            site = self.outside.get(name) or self.sites.latents[name]
            lead = SAMPLE if name in self.outside else dims
            stored = split(site.by_row(value, len(site.event)), there.get(name))
            found[name] = ((*lead, *event_dims(site)), stored)
        for label in self.sites.labels:
            site, kept = self.sites.latents[label], there.get(label)
            of = (*dims, *event_dims(site))
            found[label] = (of, split(site.by_row(scored[label]), kept))
            probs = split(site.by_row(scored[f"{label}_probs"], 1), kept, 1)
            found[f"{label}_probs"] = ((*of, f"{label}_class"), probs)
        groups: dict[str, Variables] = {"posterior": found}
        for (group, name), value in likelihoods.items():
            groups.setdefault(group, {})[name] = (dims, split(value))
        return groups, scored["log density"]

    def _in_parts(
        self, values: Values, mode: bool
    ) -> tuple[dict[str, Tensor], dict[tuple[str, str], Tensor]]:
        """By name: labels, their probabilities and log densities; by group and name, the rest."""
        total = len(next(iter(values.values())))
        step = self.sites.draws_at_a_time(self.pair, self.batch.count, self.sites.labels)
        step = 1 if self.outside else step
        found: dict[str, list[Tensor]] = {}
        likelihoods: dict[tuple[str, str], list[Tensor]] = {}
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
            for group, told in log_likelihoods(scores).items():
                for name, value in told.items():
                    likelihoods.setdefault((group, name), []).append(value)
            found.setdefault("log density", []).append(scores.marginal())
        whole = {name: torch.cat(parts) for name, parts in found.items()}
        return whole, {place: torch.cat(parts) for place, parts in likelihoods.items()}


def target(
    pair: Pair,
    batch: Batch,
    *,
    guide: bool = False,
    rows_alone: bool = False,
    plates_within: bool = False,
) -> Target:
    """The posterior of some rows, from one run of the model.

    Args:
        pair: The pair.
        batch: The rows; the data plate must be of their size.
        guide: The guide serves as proposal and must sample every continuous site of a row.
        rows_alone: No site may stand outside the plate, so that each row has a posterior of
            its own.
        plates_within: Sites may stand in plates within the rows.

    Raises:
        ValueError: If a row counts more than once, a site stands in plates within the rows
            and may not, or a latent site is neither continuous nor a label whose values can be
            listed.
    """
    sites, latent, outside = _sites_and_latents(pair, batch, guide, rows_alone, plates_within)
    transforms, shapes, masks = {}, {}, {}
    for name, site in latent.items():
        transforms[name] = _transform(name, site["fn"])
        shape = tuple(transforms[name].inv(site["value"]).shape)
        if name not in outside:
            batch_dims = len(site["fn"].batch_shape)
            shape = (1,) * (sites.nesting - batch_dims) + shape
            mask = there(site, sites.nesting)
            if mask is not None:
                if shape != mask.shape:  # as of a simplex, one number less than its entries
                    mask = mask.flatten(sites.nesting).any(-1)
                masks[name] = mask
                shape = (int(mask.sum()), *shape[mask.dim() :])
        shapes[name] = shape
    return Target(pair, batch, sites, outside, transforms, shapes, masks)


def _sites_and_latents(
    pair: Pair, batch: Batch, guide: bool, rows_alone: bool, plates_within: bool
) -> tuple[Sites, dict[str, Any], dict[str, Site]]:
    """The sites of a row, the continuous latent ones in the trace, and those outside the plate."""
    with poutine.block(), torch.no_grad():
        latent = dict(latent_sites(poutine.trace(pair.model).get_trace(batch)))
    outside = {
        name: shared_site(name, site) for name, site in latent.items() if not is_local(site)
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
    if not plates_within:
        _check_no_plates(pair, sites)
    continuous = {name: site for name, site in latent.items() if name not in sites.labels}
    for name, site in continuous.items():
        _check_not_discrete(name, site["fn"], name in outside)
    return sites, continuous, outside


def _check_no_plates(pair: Pair, sites: Sites) -> None:
    """Refuse entries of a row that differ in number from row to row."""
    for site in (*sites.latents.values(), *sites.data.values()):
        where = ""
        if site.plates:
            where = f"stands in plate {site.plates[0].name!r} within the rows"
        elif site.name in sites.ragged and site.name in sites.latents:
            where = "is masked in part"
        if where:
            raise ValueError(
                f"site {site.name!r} of {pair.card.name} {where}, where this algorithm does not "
                "look; use inference.nuts, hmc, importance or sir, or run.posterior"
            )


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


def sites_of_rows(
    pair: Pair, seen: Table, guide: bool = True, plates_within: bool = False
) -> Sites:
    """The random variables of rows that have a posterior of their own.

    Args:
        pair: The pair.
        seen: The rows with what is conditioned on.
        guide: The guide must sample the continuous ones.
        plates_within: Sites may stand in plates within the rows.

    Raises:
        ValueError: If it does not, or a site stands outside the data plate, or in a plate within
            the rows where it may not.
    """
    few = rows_of(seen.rows(torch.arange(min(PROBE, len(seen)))), pair)
    return _sites_and_latents(pair, few, guide, rows_alone=True, plates_within=plates_within)[0]
