"""Rows of two labelled tables side by side, by class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_models.config import unknown
from ppl_models.data.tables.from_parts import Array
from ppl_models.data.tables.table import BY_SITE, Table


def zipped(
    first: Array, second: Array, generator: np.random.Generator, pairs: int | None = None
) -> tuple[Array, Array]:
    """Rows of two labelled sets side by side, of one class each.

    Args:
        first: Labels of one set ``(n,)``.
        second: Labels of the other ``(m,)``.
        generator: Decides who is paired with whom.
        pairs: Their number; rows of the first set whose class is in both are then all used before
            one is used again, each beside any row of its class. None uses each row once, as often
            as both sets have the class: this is how MNIST and SVHN are paired (Joy et al. 2022).

    Returns:
        Rows of the first set, in random order, and of the second beside them.
    """
    shared = np.intersect1d(first, second)
    if pairs is not None:
        own = np.flatnonzero(np.isin(first, shared))
        turns = -(-pairs // max(1, len(own)))
        left = np.concatenate([own[:0], *(generator.permutation(own) for _ in range(turns))])[
            :pairs
        ]
        order = np.argsort(second, kind="stable")
        starts, ends = (np.searchsorted(second[order], first[left], s) for s in ("left", "right"))
        return left, order[generator.integers(starts, ends)]
    rows: list[tuple[Array, Array]] = []
    for label in shared:
        of_one, of_other = (
            generator.permutation(np.flatnonzero(labels == label)) for labels in (first, second)
        )
        both = min(len(of_one), len(of_other))
        rows.append((of_one[:both], of_other[:both]))
    none = np.zeros(0, np.int64)
    left, right = (np.concatenate([none, *(pair[side] for pair in rows)]) for side in (0, 1))
    order = generator.permutation(len(left))
    return left[order], right[order]


def shared_codes(
    tables: tuple[Table, Table], label: str, classes: Mapping[str, str] | None
) -> tuple[Array, Array]:
    """Labels of two tables in the classes of the first, -1 where there is none.

    Args:
        tables: Both.
        label: The label site of both.
        classes: The second's class by that of the first; those of one name if None.

    Raises:
        ValueError: If a table has no such label or class, or they share no class.
    """
    first, second = tables
    for table in tables:
        labels = [s for s, v in table.sites.items() if not v.is_floating_point() and v.dim() == 1]
        if label not in labels:
            raise ValueError(f"{table.name}: {unknown('label site', label, labels)}")
    names, others = first.classes[label], second.classes[label]
    wanted = {name: name for name in names if name in others} if classes is None else classes
    for known, asked in ((names, wanted), (others, wanted.values())):
        for name in asked:
            if name not in known:
                raise ValueError(f"site {label!r}: {unknown('class', name, known)}")
    if not wanted and len(first) and len(second):
        raise ValueError(
            f"{first.name} and {second.name} have no class of {label!r} by one name; say which go "
            f"together, classes={{{names[0]!r}: {others[0]!r}, ...}}"
        )
    own = np.full(len(names) + 1, -1)
    beside = np.full(len(others) + 1, -1)
    for name, other in wanted.items():
        own[names.index(name)] = names.index(name)
        beside[others.index(other)] = names.index(name)
    return own[first.sites[label][:].cpu().numpy()], beside[second.sites[label][:].cpu().numpy()]


def side_by_side(
    name: str, columns: Mapping[str, tuple[Table, str, Array]], start: int, device: torch.device
) -> Table:
    """A table of sites of others.

    Args:
        name: Its name.
        columns: By site, the table, its site and the rows.
        start: Number of the first row.
        device: Where the row numbers stand.
    """
    taken: dict[str, tuple[Table, str]] = {
        site: (table.only(own).part(name, torch.from_numpy(rows)), own)
        for site, (table, own, rows) in columns.items()
    }
    masks: dict[str, Tensor] = {
        site: part.observed[own] for site, (part, own) in taken.items() if own in part.observed
    }
    known: dict[str, Any] = {
        what: {
            site: getattr(part, what)[own]
            for site, (part, own) in taken.items()
            if own in getattr(part, what)
        }
        for what in BY_SITE
    }
    count = len(next(iter(columns.values()))[2])
    return Table(
        name,
        {site: part.sites[own] for site, (part, own) in taken.items()},
        masks,
        torch.arange(start, start + count, device=device),
        **known,
    )
