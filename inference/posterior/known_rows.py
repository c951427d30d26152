"""What an export keeps of its rows: what was conditioned on, labels besides, and covariates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.covariates import covariate_value, covariates_of
from ppl_models.data.tables.table import Table
from ppl_models.inference.posterior.groups import Groups, Variables, event_dims
from ppl_models.inference.posterior.rows import Site, Sites, elements_there, with_gaps
from ppl_models.inference.posterior.target import rows_of
from ppl_models.modalities import mark
from ppl_models.pair import Pair
from ppl_models.quiet import quiet


def add_known(groups: Groups, pair: Pair, seen: Table, table: Table, sites: Sites) -> None:
    """All that is known of some rows, as ``observed_data`` and ``constant_data``.

    Args:
        groups: Where it goes.
        pair: The pair.
        seen: The rows with what was conditioned on, and covariates.
        table: The same rows with all their sites.
        sites: Their random variables.
    """
    groups.add("observed_data", observed(pair, seen, sites))
    groups.add("constant_data", constants(table, list(seen.sites)))
    add_covariates(groups, pair, seen)


def observed(
    pair: Pair, seen: Table, sites: Sites, model: Callable[[Batch], Any] | None = None
) -> Variables:
    """What was conditioned on and is scored, but for padding, for ``observed_data``.

    Args:
        pair: The pair.
        seen: The rows.
        sites: Their random variables.
        model: In place of the pair's.
    """
    with quiet(pair.like().device):
        there = elements_there(model or pair.model, rows_of(seen, pair), sites)
    return observations(seen.without(*covariates_of(pair)), sites, there)


def add_covariates(groups: Groups, pair: Pair, seen: Table, row: int = 0) -> None:
    """The covariates of rows in ``constant_data``, integers with the names of their classes.

    Args:
        groups: Where they go.
        pair: The pair.
        seen: The rows.
        row: Place of the first of them.
    """
    for name in covariates_of(pair):
        if name in seen.columns:
            groups.coordinates[f"{name}_dim"] = seen.columns[name]
        groups.add("constant_data", observations(seen.only(name), Sites({}, {}, ()), {}), row=row)
        if not row and name in seen.classes:
            groups.coordinate("constant_data", f"{name}_class", list(seen.classes[name]))


def constants(table: Table, given: Sequence[str]) -> Variables:
    """What is known of the rows but was not conditioned on: labels, -1 where hidden."""
    found: Variables = {}
    for name in table.classes:
        if name in given or table.sites[name].dim() > 1:
            continue
        found[f"{name}_true"] = (("datum",), table.sites[name].cpu().numpy())
        if name in table.observed:
            found[f"{name}_mask"] = (("datum",), table.observed[name].cpu().numpy())
    return found


def observations(table: Table, sites: Sites, there: Mapping[str, Tensor]) -> Variables:
    """What was conditioned on, as the table has it, but for padding.

    Args:
        table: The rows.
        sites: The random variables.
        there: Where there are values; see ``rows.elements_there``.
    """
    found: Variables = {}
    for name, value in table.sites.items():
        site = sites.data.get(name)
        if site is None or site.shape != tuple(value.shape[1:]):
            site = Site(name, tuple(value.shape[1:]), None)
        kept = there.get(name)
        if mark(name) in table.sites:  # rows that lack it as a whole
            rows = table.sites[mark(name)][:] > 0
            kept = rows.reshape(-1, *[1] * (value.dim() - 1)) & (True if kept is None else kept)
        shown = value[:].cpu() if kept is None else with_gaps(value[:].cpu(), kept.cpu())
        found[name] = (("datum", *event_dims(site)), shown.numpy())
    return found


def at_covariates(pair: Pair, table: Table, covariates: Mapping[str, Any] | None) -> Table:
    """A table whose rows have other covariates.

    Args:
        pair: The pair.
        table: The table, as the pair knows its sites.
        covariates: By covariate, a number or class name for all rows, or a value for each.

    Raises:
        ValueError: If there is no such covariate or class, or the shape does not fit.
    """
    changed: dict[str, Tensor] = {}
    for name, value in (covariates or {}).items():
        own = table.sites[name] if name in covariates_of(pair) else torch.zeros(())
        given = covariate_value(pair, name, value).to(own.device, own.dtype)
        try:
            changed[name] = given.expand(own.shape).clone()
        except RuntimeError:
            raise ValueError(
                f"covariate {name!r} has shape {tuple(given.shape)}, expected one value, or the "
                f"shape {tuple(own.shape)} of {table.name}"
            ) from None
    return table.replace(sites={**table.sites, **changed}) if changed else table


def covariates_in(pair: Pair, constant: xr.Dataset, rows: Any = slice(None)) -> dict[str, Any]:
    """The covariates of some rows of an export, from its ``constant_data``.

    Args:
        pair: The pair.
        constant: The group.
        rows: Positions of the rows.
    """
    names = [name for name in covariates_of(pair) if name in constant]
    return {n: constant[n].transpose("datum", ...).values[rows] for n in names}
