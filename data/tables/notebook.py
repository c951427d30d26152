"""What notebooks show of tables and data sets: what a site holds, and in how many rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppl_models import html_tables

if TYPE_CHECKING:
    from ppl_models.data.tables.table import Dataset, Table


def of_table(table: Table) -> str:
    """A line for each site."""
    rows = [
        (site, holds(table, site), table.counts[site], _names(table, site)) for site in table.sites
    ]
    return html_tables.notebook(
        f"{table.name}: {len(table):,} rows",
        html_tables.table(("site", "holds", "rows with it", "names"), rows),
    )


def of_dataset(dataset: Dataset) -> str:
    """A line for each site, with the rows of each part that have it."""
    parts = (dataset.train, dataset.validation, dataset.test)
    table = dataset.train
    rows: list[tuple[str | int, ...]] = [("rows", "", *map(len, parts), "")]
    for site in table.sites:
        what = ", ".join(filter(None, (holds(table, site), dataset.roles.get(site))))
        counts = (part.counts.get(site, 0) for part in parts)
        rows.append((site, what, *counts, _names(table, site)))
    head = ("site", "holds", "train", "validation", "test", "names")
    return html_tables.notebook(dataset.name, html_tables.table(head, rows))


def holds(table: Table, site: str) -> str:
    """What stands in a row at a site, in words."""
    value, unit = table.sites[site], table.units.get(site)
    shape = table.shapes.get(site) or tuple(value.shape[1:])
    sides = " x ".join(map(str, shape)) or "1"
    if not value.is_floating_point():
        several = f"{sides} labels of " if value.dim() > 1 else ""
        return f"{several}{table.sizes[site]} classes"
    if site in table.shapes:
        return f"images of {sides}"
    return f"{sides} number{'' if sides == '1' else 's'}" + (f", {unit}" if unit else "")


def _names(table: Table, site: str) -> str:
    return html_tables.some(table.classes.get(site) or table.columns.get(site, ()))
