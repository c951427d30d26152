"""Hiding labels and whole sites, for semi-supervised learning."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ppl_models.config import unknown
from ppl_models.data.tables.seeds import MASK, generator
from ppl_models.data.tables.table import Table


def hide_labels(
    y: Tensor, labelled: int, classes: int, seed: int, balanced: bool = True
) -> Tensor:
    """Choose the rows that keep their label.

    Args:
        y: Labels ``(N,)`` in ``0 .. classes-1``; rows with -1 have none to keep.
        labelled: Number of rows that keep their label, over all classes.
        classes: Number of classes C.
        seed: Seed of the choice.
        balanced: Keep ``labelled / C`` rows of each class; where that is no whole number the
            seed decides which classes keep one more. Otherwise any rows are kept.

    Returns:
        Mask ``(N,)``, True where the label stays.

    Raises:
        ValueError: If ``labelled`` is less than the number of classes, or more than the rows
            that are there.
    """
    if labelled < classes:
        raise ValueError(
            f"labelled is {labelled}, expected at least one row per class ({classes})"
        )
    draw = generator(seed, MASK)
    candidates = torch.randperm(len(y), generator=draw)
    candidates = candidates[y[candidates] >= 0]
    if labelled > len(candidates):
        raise ValueError(f"labelled is {labelled}, but only {len(candidates)} rows have a label")
    if balanced:
        kept = torch.full((classes,), labelled // classes)
        kept[torch.randperm(classes, generator=draw)[: labelled % classes]] += 1
        there = torch.bincount(y[candidates], minlength=classes)
        if bool((there < kept).any()):
            c = int((there < kept).nonzero()[0])
            raise ValueError(
                f"labelled is {labelled}, which asks for {int(kept[c])} rows of class {c}, but "
                f"there are {int(there[c])}"
            )
        # Rows of one class side by side, in random order: its first rows are kept.
        candidates = candidates[y[candidates].argsort(stable=True)]
        place = torch.arange(len(candidates)) - (there.cumsum(0) - there)[y[candidates]]
        candidates = candidates[place < kept[y[candidates]]]
    mask = torch.zeros(len(y), dtype=torch.bool)
    mask[candidates[:labelled]] = True
    return mask


Kept = int | float | Mapping[str, int | float]


def keep(table: Table, site: str, kept: Kept, seed: int) -> Tensor:
    """Choose the rows in which a site stays observed, among those in which it is.

    Args:
        table: The rows.
        site: A label site or a vector.
        kept: A number of rows (of labels: balanced over the classes, see
            :func:`hide_labels`), a rate from 0 to 1 (of labels: of each class), or for labels
            a number or rate by class name, where classes that are left out keep all.
        seed: Seed of the choice.

    Returns:
        Mask ``(N,)``.

    Raises:
        ValueError: If there is no such site or class, or fewer rows than asked for.
    """
    if site not in table.sites:
        raise ValueError(f"{table.name}: {unknown('site', site, table.sites)}")
    value = table.sites[site]
    seen = table.observed.get(site, torch.ones(len(table), dtype=torch.bool))
    if value.is_floating_point() or value.dim() > 1:
        if isinstance(kept, Mapping):
            raise ValueError(f"site {site!r} has no classes, expected a number of rows or a rate")
        return _some(seen, kept, f"site {site!r}", seed)
    labels = value[:]
    if isinstance(kept, Mapping):
        mask = seen.clone()
        for name, wanted in kept.items():
            if name not in table.classes[site]:
                raise ValueError(f"site {site!r}: {unknown('class', name, table.classes[site])}")
            code = table.classes[site].index(name)
            of_class = seen & (labels == code)
            some = _some(of_class, wanted, f"class {name!r} of {site!r}", seed, code)
            mask = torch.where(of_class, some, mask)
        return mask
    if isinstance(kept, float):
        return keep(table, site, dict.fromkeys(table.classes[site], kept), seed)
    return hide_labels(labels.masked_fill(~seen, -1), kept, table.sizes[site], seed)


def _some(seen: Tensor, kept: int | float, what: str, seed: int, *key: int) -> Tensor:
    rows = int(seen.sum())
    if isinstance(kept, float) and not 0 <= kept <= 1:
        raise ValueError(f"{what}: got the rate {kept}, expected 0 to 1")
    count = round(kept * rows) if isinstance(kept, float) else kept
    if not 0 <= count <= rows:
        raise ValueError(f"{what}: {count} rows asked for, but it is observed in {rows}")
    order = torch.randperm(len(seen), generator=generator(seed, MASK, *key))
    order = order[seen[order]]
    mask = torch.zeros_like(seen)
    mask[order[:count]] = True
    return mask
