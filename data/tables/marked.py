"""Rows that have different sites, as rows of one kind with marks of what they have."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ppl_models.data.tables.lazy_column import Values, is_lazy
from ppl_models.data.tables.table import Table
from ppl_models.modalities import mark


def marked(table: Table, sites: Iterable[str]) -> Table:
    """The same rows, in which sites that are hidden in some have a mark in place of the gap.

    A table has a kind of rows, and so a batch in each step, for every combination of what is
    hidden: 31 of five sites. Under marks all of them come in one batch; see
    :mod:`ppl_models.modalities`.

    Args:
        table: The table.
        sites: Names of the sites; those that it lacks or observes in every row are left alone.

    Returns:
        The table with a site ``s_observed`` ``(N,)``, 1 or 0, beside each site s that is hidden
        in some rows, and the values of the first row that has it in these rows.

    Raises:
        ValueError: If a row has none of the sites, a site is observed in no row, or the table
            has a site of a mark's name already; naming table, site and row.
    """
    sites = [site for site in sites if site in table.sites]
    masks = {site: table.observed[site] for site in sites if site in table.observed}
    if not masks:
        return table
    if len(masks) == len(sites):
        none = ~torch.stack(list(masks.values())).any(0)
        if bool(none.any()):
            row = int(table.numbers[none.nonzero()[0, 0]])
            raise ValueError(
                f"row {row} of {table.name} has none of {', '.join(map(repr, sites))}, expected "
                "at least one"
            )
    filled: dict[str, Values] = {}
    marks: dict[str, Values] = {}
    for site, mask in masks.items():
        values, name = table.sites[site], mark(site)
        if name in table.sites:
            raise ValueError(f"{table.name} has a site {name!r}, expected no site of that name")
        if not bool(mask.any()):
            raise ValueError(f"site {site!r} is observed in no row of {table.name}")
        hidden = (~mask).reshape(-1, *[1] * (values.dim() - 1))
        first = values[int(mask.nonzero()[0, 0])]
        if is_lazy(values):
            filled[site] = values.masked_fill(hidden, float(first.flatten()[0]))
        else:
            assert isinstance(values, torch.Tensor)
            filled[site] = torch.where(hidden, first, values)
        like = next((v for v in table.sites.values() if v.is_floating_point()), None)
        marks[name] = mask.to(torch.get_default_dtype() if like is None else like.dtype)
    left = {site: mask for site, mask in table.observed.items() if site not in masks}
    return table.replace(sites={**table.sites, **filled, **marks}, observed=left)
