"""How often each class of a label stands in the rows in which it is known."""

from __future__ import annotations

import torch

from ppl_models.config import unknown
from ppl_models.data.tables.table import Table


def class_frequencies(table: Table, site: str) -> tuple[float, ...]:
    """Share of each class among the rows with a label, in the order of the classes' codes.

    Only the labels are read.

    Args:
        table: The rows; those in which the site is hidden do not count.
        site: A label.

    Returns:
        A positive number per class; they sum to 1.

    Raises:
        ValueError: Naming site and class, if the site is no label of the table, or a class or
            every one of them has no labelled row.
    """
    if site not in table.sites:
        raise ValueError(unknown(f"site of {table.name}", site, table.sites))
    labels = table.sites[site]
    if labels.is_floating_point():
        raise ValueError(f"site {site!r} of {table.name} holds vectors, expected labels")
    if not table.counts[site]:
        raise ValueError(f"site {site!r} is observed in no row of {table.name}")
    values, classes = labels[:], table.classes[site]
    if site in table.observed:
        values = values[table.observed[site]]
    counts = torch.bincount(values.flatten(), minlength=len(classes)).tolist()
    if 0 in counts:
        missing = classes[counts.index(0)]
        raise ValueError(f"class {missing!r} of site {site!r} has no labelled row in {table.name}")
    return tuple(count / sum(counts) for count in counts)
