"""Which sites a pair has on some rows, and the rows and surroundings to run it in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor, nn

from ppl_models.batch import Batch
from ppl_models.config import names, unknown
from ppl_models.data.tables.positions import positions as chosen_rows
from ppl_models.data.tables.table import Table
from ppl_models.inference.posterior.density import check_evidence
from ppl_models.inference.posterior.support import as_fitted, check_data
from ppl_models.inference.traces.sites import (
    Program,
    enumerable,
    latent_sites,
    points_of,
    random_sites,
)
from ppl_models.modalities import mark, predicted
from ppl_models.pair import Pair
from ppl_models.quiet import evaluating, quiet
from ppl_models.sample_sites import is_local, plates_within, there

# Numbers in the widest layer of a network at a time: 16 MB in single precision. Tensors above
# 32 MB are given back to the system after every use, and cost their first touch again.
STEP_CELLS = 4_000_000
CHECKED_ROWS = 16_384  # rows of which it is seen at a time whether they can be conditioned on


class Plate(NamedTuple):
    """A plate within the rows: its name, dimension (-2, -3, ...) and size."""

    name: str
    dim: int
    size: int


@dataclass(frozen=True)
class Site:
    """A random variable of every row.

    Attributes:
        name: Its name.
        event: Shape of one value.
        support: The values ``(C, *event)`` of a label, else None.
        plates: The plates within the rows that it stands in, from dimension -2 leftwards.
        nesting: Number of plate dimensions of the pair, the data plate included.
    """

    name: str
    event: tuple[int, ...]
    support: Tensor | None
    plates: tuple[Plate, ...] = ()
    nesting: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a row's values as stored: plates first, labels as places in their support."""
        event = () if self.support is not None else self.event
        return (*(plate.size for plate in self.plates), *event)

    def values(self) -> Tensor:
        """The values of a label ``(C, *event)``."""
        if self.support is None:
            raise ValueError(f"site {self.name!r} is no label")
        return self.support

    def stored(self, values: Tensor) -> Tensor:
        """Values ``(..., P, B, *event)`` as they are stored."""
        if self.support is None:
            return self.by_row(values, len(self.event))
        return self.by_row(self.places(values))

    def by_row(self, values: Tensor, event: int = 0) -> Tensor:
        """Values ``(..., P, B, *event)`` of a trace as ``(..., B, plates, *event)``.

        Args:
            values: With all the plate dimensions of the pair.
            event: Number of dimensions right of these.
        """
        if self.nesting == 1:
            return values
        rows = values.dim() - event - 1
        own = [rows + 1 + plate.dim for plate in self.plates]
        other = [d for d in range(rows - self.nesting + 1, rows) if d not in own]
        lead, right = range(rows - self.nesting + 1), range(rows + 1, values.dim())
        moved = values.permute(*lead, rows, *own, *right, *other)  # the others have size one
        return moved.reshape(moved.shape[: moved.dim() - len(other)])

    def places(self, values: Tensor) -> Tensor:
        """Places in the support of values ``(..., *event)``."""
        support = self.values()
        if not self.event and torch.equal(support, torch.arange(len(support)).to(support)):
            return values.long()
        wide = support.reshape(-1, *[1] * (values.dim() - len(self.event)), *self.event)
        same = wide == values
        for _ in self.event:
            same = same.all(-1)
        return same.int().argmax(0)


@dataclass(frozen=True)
class Sites:
    """The random variables of a pair, given what a batch observes.

    Attributes:
        data: Observed sites, in the model's order.
        latents: Latent sites, the guide's in its order first.
        guided: Names of those that the guide samples; labels it leaves out are summed or
            drawn from the model's own conditional.
        nesting: Number of plate dimensions of the pair, the data plate included.
        ragged: Names of those whose entries are masked in some rows.
        coordinates: Names along dimensions, by dimension.
        points: Names of those that the guide has a point for, which is no density.
    """

    data: dict[str, Site]
    latents: dict[str, Site]
    guided: tuple[str, ...]
    nesting: int = 1
    ragged: frozenset[str] = frozenset()
    coordinates: Mapping[str, Sequence[str]] = field(default_factory=dict)
    points: tuple[str, ...] = ()

    @property
    def plates(self) -> dict[str, Plate]:
        """All plates within the rows, by name."""
        every = (*self.data.values(), *self.latents.values())
        return {plate.name: plate for site in every for plate in site.plates}

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the latent sites with a finite support."""
        return tuple(name for name, site in self.latents.items() if site.support is not None)

    def classes(self, labels: Sequence[str]) -> int:
        """Number of joint values of some labels."""
        return math.prod(len(self.latents[name].values()) for name in labels)

    def draws_at_a_time(self, pair: Pair, rows: int, labels: Sequence[str]) -> int:
        """Draws whose widest layer fits into a step of memory, labels enumerated."""
        widest = max(max(parameter.shape, default=1) for parameter in pair.parameters())
        widest *= math.prod(plate.size for plate in self.plates.values())
        return max(1, STEP_CELLS // (rows * self.classes(labels) * widest))


@contextmanager
def undisturbed(pair: Pair, seed: int) -> Iterator[None]:
    """Run with a seed, in eval mode and without Pyro's checks; then all is as it was."""
    with quiet(pair.like().device, seed), evaluating(pair):
        yield


def chosen(pair: Pair, table: Table, rows: Sequence[int] | Tensor | None) -> tuple[Table, Tensor]:
    """A table as the pair knows its sites, and chosen positions in it; all by default.

    Raises:
        ValueError: As :func:`as_fitted` and :func:`positions`.
    """
    return as_fitted(pair, table), positions(table, rows)


def positions(table: Table, rows: Any) -> Tensor:
    """Chosen positions in a table ``(n,)``, all by default; see :func:`chosen_rows`.

    Args:
        table: The table.
        rows: Positions, a slice, or a mask ``(N,)``.

    Raises:
        ValueError: If there are no rows, or a position is outside the table, or none is given.
    """
    table.check_rows()
    if rows is None:
        return torch.arange(len(table))
    index = chosen_rows(rows, len(table), table.name)
    if not len(index):
        raise ValueError(f"no rows chosen of {table.name}, expected at least one")
    return index


def conditioned(pair: Pair, table: Table, given: Sequence[str] | None, index: Tensor) -> Table:
    """Rows of a table with only the sites that are conditioned on, and the covariates.

    Args:
        pair: The pair.
        table: The table.
        given: The sites; the card's data sites by default, never its labels.
        index: Positions of the rows.

    Raises:
        ValueError: If a site is not there, hidden in some of the rows or outside the model's
            support, naming it and the row.
    """
    given = tuple(pair.card.data) if given is None else names("given", given)
    for name in given:
        if name not in table.sites:
            raise ValueError(f"{table.name}: {unknown('site', name, table.sites)}")
    given = tuple(dict.fromkeys((*given, *pair.card.covariates, *map(mark, given))))
    seen = table.only(*(name for name in given if name in table.sites)).rows(index)
    _check_some(seen, [name for name in given if name in pair.may_lack])
    for name, mask in seen.observed.items():
        row = int(seen.numbers[~mask][0])
        raise ValueError(
            f"site {name!r} of {table.name} is hidden in row {row}; choose rows in which it is "
            f"observed (table.where_observed({name!r})), or do not condition on it"
        )
    check_data(pair, seen)
    return seen


def _check_some(seen: Table, sites: Sequence[str]) -> None:
    """Refuse rows that have none of the sites, of which each may have any subset."""
    if not sites or any(mark(name) not in seen.sites for name in sites):
        return
    has = torch.stack([seen.sites[mark(name)][:] > 0 for name in sites]).any(0)
    if not bool(has.all()):
        row = int(seen.numbers[~has][0])
        raise ValueError(
            f"row {row} of {seen.name} has none of {', '.join(map(repr, sites))}, which are "
            "conditioned on; choose rows that have one"
        )


def weighed(pair: Pair, table: Table, given: Sequence[str] | None, index: Tensor) -> Table:
    """The rows of :func:`conditioned`, for what compares densities of data.

    Raises:
        ValueError: As there, and if the rows have no evidence, saying why.
    """
    seen = conditioned(pair, table, given, index)
    like = pair.like()
    (few, *_) = seen.batches(limit=2)
    check_evidence(pair, few.unscaled().to(like.device, like.dtype))
    return seen


def conditioned_sites(
    pair: Pair, table: Table, given: Sequence[str] | None, index: Tensor, seed: int
) -> tuple[str, ...]:
    """Names of the sites that :func:`conditioned` keeps, looked at a part of the rows at a time.

    Raises:
        ValueError: As :func:`conditioned`.
    """
    with undisturbed(pair, seed), torch.no_grad():
        for part in index.split(CHECKED_ROWS):
            seen = conditioned(pair, table, given, part)
    return tuple(seen.sites)


@dataclass(frozen=True)
class Conditioned:
    """A pair some of whose sites are given or left out; a ``Program``.

    Attributes:
        pair: The pair.
        model: Its model without these sites.
        guide: Its guide without these sites.
    """

    pair: Pair
    model: Callable[[Batch], Any]
    guide: Callable[[Batch], Any]

    def parameters(self) -> Iterator[nn.Parameter]:
        """The pair's."""
        return self.pair.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The pair's."""
        return self.pair.named_parameters()

    def modules(self) -> Iterator[nn.Module]:
        """The pair's."""
        return self.pair.modules()


def find_sites(
    pair: Pair, batch: Batch, guide: bool = True, program: Program | None = None
) -> Sites:
    """The random variables of the model, from one run of it (and of the guide).

    Args:
        pair: The pair.
        batch: Rows with what is conditioned on; each must count once (``size`` = rows).
        guide: Ask the guide which sites it samples; without it, every label is summed out.
        program: What is run, where it is not the pair itself.

    Raises:
        ValueError: If a site is not a row's own, counts more or less than once per row, or is
            latent in the model but neither sampled by the guide nor a label.
    """
    program, nesting = pair if program is None else program, pair.plate_nesting
    with poutine.block(), torch.no_grad(), predicted():
        q = poutine.trace(program.guide).get_trace(batch) if guide else poutine.Trace()
        p = poutine.trace(program.model).get_trace(batch)
    for name, site in (*random_sites(q), *random_sites(p)):
        frames = [frame.name for frame in site["cond_indep_stack"]]
        if not is_local(site) or any((f.dim or 0) < -nesting for f in site["cond_indep_stack"]):
            more = "alone" if nesting == 1 else f"and others down to dimension {-nesting}"
            raise ValueError(
                f"site {name!r} stands in the plates {frames}, expected plate 'data' {more} "
                "(pair.plate(batch); plates within the rows are counted by plate_nesting)"
            )
        if site["scale"] != 1:
            raise ValueError(
                f"site {name!r} counts {float(site['scale']):g} times per row, expected once: the "
                f"size of plate 'data' must be the {batch.count} rows of the batch"
            )
    guided, of_model = dict(latent_sites(q)), dict(latent_sites(p))
    for name in guided:
        if name not in of_model:
            raise ValueError(f"the guide samples site {name!r}, which is not latent in the model")
    latents = {name: _site(name, of_model[name], nesting) for name in (*guided, *of_model)}
    for name, site in latents.items():
        if guide and name not in guided and site.support is None:
            raise ValueError(
                f"site {name!r} is latent in the model, but the guide does not sample it; give "
                "the guide a factor for it, or condition on it"
            )
    data = {n: _site(n, s, nesting) for n, s in random_sites(p) if s["is_observed"]}
    known = {*data, *pair.card.given, *map(mark, pair.may_lack)}
    for name in batch:
        if name not in known:
            raise ValueError(f"site {name!r} is given, but {pair.card.name} has no such site")
    ragged = frozenset(n for n, s in random_sites(p) if there(s, nesting) is not None)
    return Sites(data, latents, tuple(guided), nesting, ragged, pair.coordinates, points_of(q))


def _site(name: str, node: Any, nesting: int) -> Site:
    fn = node["fn"]
    support = fn.enumerate_support(expand=False) if enumerable(fn) else None
    if support is not None:
        support = support.reshape(-1, *fn.event_shape).detach()
    plates = tuple(Plate(f.name, f.dim, f.size) for f in plates_within(node))
    return Site(name, tuple(fn.event_shape), support, plates, nesting)


def shared_site(name: str, node: Any) -> Site:
    """A site outside the data plate, with its plates named, or else all dimensions as event."""
    shape, batch = tuple(node["value"].shape), len(node["fn"].batch_shape)
    frames = [frame for frame in node["cond_indep_stack"] if frame.dim is not None]  # no loops
    frames.sort(key=lambda frame: frame.dim)
    if len(frames) != batch:
        return Site(name, shape, None)
    plates = tuple(Plate(f.name, f.dim, size) for f, size in zip(frames, shape, strict=False))
    return Site(name, shape[batch:], None, plates)


def elements_there(model: Callable[[Batch], Any], batch: Batch, sites: Sites) -> dict[str, Tensor]:
    """Where ragged sites have a value ``(B, ...)``, of the shape that is stored.

    Args:
        model: The model, which is run once.
        batch: The rows with what is conditioned on.
        sites: The random variables.
    """
    if not sites.ragged:
        return {}
    with poutine.block(), torch.no_grad():
        trace = poutine.trace(model).get_trace(batch)
    found = {}
    for name in sites.ragged:
        site = sites.data.get(name) or sites.latents[name]
        mask = there(trace.nodes[name], sites.nesting)
        if mask is not None:
            event = len(site.event)
            if site.support is not None and event:
                mask, event = mask.flatten(-event).any(-1), 0
            found[name] = site.by_row(mask, event)
    return found


def with_gaps(values: Tensor, there: Tensor | None, right: int = 0) -> Tensor:
    """Stored values ``(..., B, *shape)``: NaN, or -1 of whole numbers, where there are none.

    Args:
        values: The values.
        there: ``(B, *shape)``; None where all are there.
        right: Number of further dimensions of the values, right of these.
    """
    if there is None:
        return values
    wide = there.reshape(*there.shape, *[1] * right)
    return torch.where(wide, values, float("nan") if values.is_floating_point() else -1)
