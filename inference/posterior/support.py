"""Checks before training, and what went wrong when a loss is not finite."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from ppl_models.batch import Batch, MissingSite
from ppl_models.covariates import said_of
from ppl_models.data.tables.marked import marked
from ppl_models.data.tables.regimes import Regime
from ppl_models.data.tables.table import Table
from ppl_models.devices import check_device
from ppl_models.elements import THERE
from ppl_models.inference.posterior.points_by_row import check_points
from ppl_models.pair import Pair
from ppl_models.quiet import quiet
from ppl_models.sample_sites import (
    base_of,
    plates_within,
    rows_first,
    support_words,
    there,
)

Prepare = Callable[[Batch], Batch]
CHECKED_ROWS = 4096  # rows compared with the support at a time


def as_fitted(pair: Pair, table: Table) -> Table:
    """A table with rows, its classes coded and its columns ordered as in the data of the fit.

    Sites that the pair says rows may lack have marks in it where some do.

    Args:
        pair: The pair; one that has seen no data takes the table as it is.
        table: The rows.

    Raises:
        ValueError: In one line, if a class or column is unknown or missing, a shape differs, a
            covariate is missing or hidden, the pair has no point for a row, or there is no row.
    """
    table.check_rows()
    check_covariates(pair, table)
    table = table if pair.schema is None else pair.schema.bring(table)
    check_points(pair, table)
    return marked(table, pair.may_lack)


def check_covariates(pair: Pair, table: Table, makers: Sequence[Prepare] = ()) -> None:
    """Make sure that every row has the pair's covariates, of the kind that the pair takes.

    Args:
        pair: The pair.
        table: The rows.
        makers: What prepares batches in training, for the message: a covariate that it alone
            makes would be there in no export.

    Raises:
        ValueError: Naming the covariate, and the row where it is hidden; or a site of sets that
            the pair would take for vectors, padding and all.
    """
    known = said_of(pair)
    for name, meaning in pair.card.covariates.items():
        if name not in table.sites:
            raise ValueError(
                f"{table.name} lacks the covariate {name!r} of {pair.card.name} ({meaning}); "
                f"it has {sorted(table.sites)}{_made_hint(pair, table, makers, name)}"
            )
        if name in table.observed:
            row = int(table.numbers[~table.observed[name]][0])
            raise ValueError(
                f"covariate {name!r} of {table.name} is hidden in row {row}, expected a value in "
                f"every row; choose rows that have one (table.where_observed({name!r}))"
            )
        if name in known:
            # Which elements of a set there are: sets may be of any size.
            of_set = name.removesuffix(THERE) in pair.card.data
            where = f"covariate {name!r} of {table.name}"
            _check_kind(where, table.sites[name], known[name], of_set)
    for site in pair.card.data:
        there = site + THERE
        if there in table.sites and there not in pair.card.given:
            raise ValueError(
                f"site {site!r} of {table.name} holds sets of different sizes, but "
                f"{pair.card.name} takes no {there!r}, which says what is there; give vectors of "
                f"one length, or a pair with the covariate {there!r}"
            )


def _made_hint(pair: Pair, table: Table, makers: Sequence[Prepare], name: str) -> str:
    with contextlib.suppress(Exception):  # what a maker lacks is not what is told here
        if any(name in _sites_made(pair, table, make) for make in makers):
            return (
                "; a stage's prepare makes it, in training alone: declare what it is made of, "
                f"and take {name!r} where the batch has it"
            )
    return ""


def check_unprepared(pair: Pair, table: Table, seen: Table, prepare: Prepare) -> None:
    """Make sure that a pair trained on views also takes rows as the table has them.

    So all who ask the pair itself give them: exports, checks, predictions. A stage that makes
    sites of the story, such as codes of an earlier stage, is not asked.

    Args:
        pair: The pair.
        table: The rows.
        seen: The rows and sites that the stage sees.
        prepare: What prepares their batches.

    Raises:
        ValueError: If it makes sites besides the story's, and model or guide fail without.
    """
    card = pair.card
    rows = table.only(*(name for name in card.given if name in table.sites))
    told = {*table.sites, *card.given, *card.labels, *card.latents}
    more = sorted(_sites_made(pair, seen, prepare) - told)
    if not more or not rows.sites:
        return
    like = pair.like()
    for regime in rows.regimes():
        batch = rows.gather(regime, regime.index[:2]).to(like.device, like.dtype)
        try:
            with poutine.block(), torch.no_grad(), quiet(like.device, 0, pair):
                pair.guide(batch)
                pair.model(batch)
        except (MissingSite, ValueError) as error:
            raise ValueError(
                f"{card.name} takes {more[0]!r}, which a stage's prepare makes in training alone, "
                f"and does not run on rows as {table.name} has them, as exports do: "
                f"{str(error).splitlines()[0]}; take it where the batch has it, as in "
                f"batch.get({more[0]!r}, batch[{next(iter(rows.sites))!r}])"
            ) from None


def _check_kind(where: str, values: Any, like: Tensor, of_set: bool) -> None:
    if values.is_floating_point() and not like.is_floating_point():
        raise ValueError(f"{where} holds numbers, expected classes: whole numbers or text")
    if like.is_floating_point() and not values.is_floating_point():
        raise ValueError(f"{where} holds classes, expected numbers: give it as floats")
    own, wanted = tuple(values.shape[1:]), tuple(like.shape[1:])
    if own[of_set:] != wanted[of_set:] or len(own) != len(wanted):
        raise ValueError(f"{where} has rows of shape {own}, expected {wanted}")


def check_alike(pairs: Sequence[Pair]) -> None:
    """Refuse fits whose data had other classes, columns or units.

    Raises:
        ValueError: Naming the fit and the site.
    """
    first = pairs[0].schema
    for place, pair in enumerate(pairs[1:], 1):
        if first is None or pair.schema is None or first == pair.schema:
            continue
        sites = {**first.sites, **pair.schema.sites}
        site = next(s for s in sites if first.sites.get(s) != pair.schema.sites.get(s))
        raise ValueError(
            f"fit {place} knows site {site!r} as {pair.schema.sites.get(site)}, the first as "
            f"{first.sites.get(site)}; expected fits on the same classes and columns"
        )


def of_one_kind(pairs: Sequence[Pair]) -> list[Pair]:
    """Fits of one pair to data of the same classes, columns and units.

    Raises:
        ValueError: In one line, if there is none, or two differ.
    """
    if not pairs:
        raise ValueError("no pair given, expected at least one")
    first = pairs[0]
    for other in pairs[1:]:
        if (other.source, other.config) != (first.source, first.config):
            raise ValueError(
                f"chains of {first.source} with {first.config} and {other.source} with "
                f"{other.config}, expected fits of one pair"
            )
    check_alike(pairs)
    return list(pairs)


def check_data(
    pair: Pair,
    table: Table,
    *,
    prepare: Prepare | None = None,
    makers: Sequence[Prepare] = (),
) -> None:
    """Compare every observed value with the support of its site in the model.

    Args:
        pair: The pair.
        table: The rows.
        prepare: What turns batches of rows into those that the model sees, as a stage's does;
            random numbers and buffers stay as they were.
        makers: The same, of which only the names of the sites that they make are asked for.

    Raises:
        ValueError: Naming the site, row, value and what was expected.
    """
    table = as_fitted(pair, table)
    needed = set(pair.card.data) - set(pair.may_lack)
    missing = [s for s in pair.card.data if s in needed and s not in table.sites]
    if missing and (makers or prepare is not None):
        made = {s for make in (*makers, prepare) if make for s in _sites_made(pair, table, make)}
        missing = [site for site in missing if site not in made]
    if missing:
        raise ValueError(
            f"{table.name} lacks the site {missing[0]!r} of {pair.card.name}; "
            f"it has {sorted(table.sites)}"
        )
    for site, values in table.sites.items():
        check_device(f"site {site!r} of {table.name}", values.device)
    check_device("the pair", pair.like().device)
    for regime in table.regimes():
        check = checker(pair, table, regime, prepare)
        for part in regime.index.split(CHECKED_ROWS):
            check(table.gather(regime, part))


def _sites_made(pair: Pair, table: Table, prepare: Prepare) -> set[str]:
    first = [table.gather(regime, regime.index[:2]) for regime in table.regimes()]
    return {site for batch in first for site in _prepared(pair, batch, prepare)}


def _prepared(pair: Pair, batch: Batch, prepare: Prepare | None) -> Batch:
    if prepare is None:
        return batch
    like = pair.like()
    with torch.no_grad(), quiet(like.device, 0, pair, prepare):
        made = prepare(batch.to(like.device, like.dtype))
    if not isinstance(made, Batch):
        raise ValueError(
            f"prepare gives {type(made).__name__}, expected a Batch, such as batch.replace(...)"
        )
    return made


def checker(
    pair: Pair, table: Table, regime: Regime, prepare: Prepare | None = None
) -> Callable[[Batch], None]:
    """What compares batches of a regime's rows with the supports of their sites.

    Args:
        pair: The pair.
        table: The rows.
        regime: Which of them.
        prepare: As in :func:`check_data`.

    Returns:
        Called with a batch as the table has it, it raises as :func:`check_data`.

    Raises:
        ValueError: If the rows have another shape than the model's sites.
    """
    like = pair.like()
    first = _prepared(pair, table.gather(regime, regime.index[:2]), prepare)
    with poutine.block(), torch.no_grad(), quiet(like.device, None, pair):
        trace = poutine.trace(pair.model).get_trace(first.to(like.device, like.dtype))
    supports: dict[str, tuple[Any, str]] = {}
    ragged: list[str] = []
    for name in first:
        site = trace.nodes.get(name)
        if site is not None and site["is_observed"]:
            _check_shape(name, table, first[name], site)
            base = base_of(site["fn"])
            supports[name] = base.support, type(base).__name__
            if there(site, pair.plate_nesting) is not None:
                ragged.append(name)
        elif site is None and name in pair.supports:
            if first[name][0].numel() != 1:
                raise ValueError(
                    f"site {name!r} of {table.name} has rows of shape "
                    f"{tuple(first[name].shape[1:])}, expected one number"
                )
            supports[name] = pair.supports[name]

    def check(batch: Batch) -> None:
        batch = _prepared(pair, batch, prepare)
        kept = _elements(pair, batch.to(like.device, like.dtype), ragged) if ragged else {}
        for name, (support, of) in supports.items():
            _check_support(name, table, batch, support, of, kept.get(name))

    return check


def _check_shape(name: str, table: Table, value: Tensor, site: Any) -> None:
    expected = (*(frame.size for frame in plates_within(site)), *site["fn"].event_shape)
    if value.shape[1:] != expected:
        raise ValueError(
            f"site {name!r} of {table.name} has rows of shape {tuple(value.shape[1:])}, "
            f"expected {expected}; build the pair for these data"
        )


def _elements(pair: Pair, batch: Batch, ragged: Sequence[str]) -> dict[str, Tensor]:
    """Where sets have elements ``(B, plates, *event)``."""
    nesting, found = pair.plate_nesting, {}
    with poutine.block(), torch.no_grad(), quiet(pair.like().device):
        nodes = poutine.trace(pair.model).get_trace(batch).nodes
    for name in ragged:
        mask = there(nodes[name], nesting)
        if mask is not None:
            found[name] = rows_first(nodes[name], mask, mask.dim() - nesting)
    return found


def _check_support(
    name: str, table: Table, batch: Batch, support: Any, of: str, kept: Tensor | None = None
) -> None:
    values = batch[name]
    if kept is not None:
        # What is not there takes a value that is, whatever it is.
        kept = kept.to(values.device).expand(values.shape)
        if not bool(kept.any()):
            return
        values = values.where(kept, values[kept][0])
    if surely_inside(values, support):
        return
    inside = support.check(values)
    whole = inside.dim() < values.dim()  # vectors are right or wrong as a whole
    inside = inside.reshape(inside.shape + (1,) * (values.dim() - inside.dim()))  # of vectors
    if values.is_floating_point():
        inside = inside & values.isfinite()
    inside = inside.reshape(len(values), -1)
    if bool(inside.all()):
        return
    row, column = (int(i) for i in (~inside).nonzero()[0])
    value = values.reshape(len(values), -1)[row, column].item()
    where = f"row {int(batch.rows[row])} of {table.name}"
    if values.dim() > 2:
        element, column = divmod(column, values[0, 0].numel())
        where += f", element {element}"
    if values.dim() > 1 and not (whole and math.isfinite(value)):
        where += f", column {column}"
        if name in table.columns:
            where += f" ({table.columns[name][column]!r})"
        whole = False
    what = "vector" if whole else f"value {value:g}"
    raise ValueError(
        f"site {name!r}, {where}: the {what} is outside the support of {of}, "
        f"expected {support_words(support)}"
    )


def surely_inside(values: Tensor, support: Any) -> bool:
    """Whether the extremes of all values tell that each is inside: a fifth of the time."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    low, high = (float(end) for end in values.aminmax())  # NaN if there is any
    if not (math.isfinite(low) and math.isfinite(high)):
        return False
    if support is constraints.real:
        return True
    if support is constraints.boolean:
        return 0 <= low <= high <= 1 and torch.equal(values * values, values)
    if isinstance(support, constraints.interval | constraints.integer_interval):
        ends = support.lower_bound, support.upper_bound
        whole = isinstance(support, constraints.interval) or not values.is_floating_point()
        return whole and not any(map(torch.is_tensor, ends)) and ends[0] <= low <= high <= ends[1]
    return False
