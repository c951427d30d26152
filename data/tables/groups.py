"""Rows that are single elements, put together into sets by a column that says whose they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ppl_models.config import unknown, whole
from ppl_models.data.tables.given import Array
from ppl_models.data.tables.own_arrays import SPLITS, Splits, build
from ppl_models.data.tables.seeds import SPLIT, numpy_generator
from ppl_models.data.tables.splits import PARTS, parts_of, shares_of
from ppl_models.data.tables.table import Dataset
from ppl_models.elements import THERE

Size = int | Sequence[int]


def from_groups(
    by: str,
    *,
    size: Size | Mapping[str, Size] = 0,
    name: str = "sets",
    splits: Splits = SPLITS,
    seed: int = 0,
    **sites: Any,
) -> Dataset:
    """A data set whose rows are sets, from arrays with one row for each element.

    ``from_groups("patient", x=cells, patient=patients)``: each patient is a row, whose cells are
    the elements of ``x`` ``(N, M, D)``; ``x_there`` says which there are. The column becomes a
    label of the rows, with the role ``group``. What sets training sees of a row is the stage's
    business: :func:`ppl_models.data.drawn_sets`.

    Args:
        by: Name of the site that says which group each element is of.
        size: Most elements of a row, or the least and the greatest number, drawn for each row;
            a larger group makes several rows of elements drawn at random, each in one of them.
            0 for whole groups. By part, ``{"train": 20, "test": 5}``, where they differ.
        name: Name of the data set.
        splits: Shares or numbers of *groups* in training, validation and test, drawn at random;
            or the part of each element, by name, so that a group may be in several.
        seed: Seed of splits, order and sizes.
        sites: Sites by name, one row for each element: vectors and images, and the group's.

    Raises:
        ValueError: In one line, if the column is not there or not one value for each element, or
            lengths differ, naming the site.
    """
    return grouped(by, sites, size, splits, seed, name=name)


def grouped(
    by: str,
    sites: Mapping[str, Any],
    size: Size | Mapping[str, Size],
    splits: Splits,
    seed: int,
    **made: Any,
) -> Dataset:
    """What :func:`from_groups` does, for loaders.

    Args:
        by: As there, and so are the next four.
        sites: See there.
        size: See there.
        splits: See there.
        seed: See there.
        made: Options of :func:`ppl_models.data.tables.own_arrays.build`.
    """
    if by not in sites:
        raise ValueError(f"groups by {unknown('site', by, sites)}")
    ends = _ends(size)
    of = np.asarray(sites[by])
    if of.ndim != 1 or not len(of) or of.dtype.kind not in "biuOUS":
        raise ValueError(
            f"site {by!r} has type {of.dtype} and shape {of.shape}, expected one group, by name "
            "or whole number, for each element"
        )
    values = {site: np.asarray(given) for site, given in sites.items() if site != by}
    for site, array in values.items():
        if array.shape[:1] != of.shape:
            raise ValueError(
                f"site {site!r} has shape {array.shape}, expected {len(of)} rows, as {by!r} has"
            )
    kinds, codes = np.unique(of, return_inverse=True)
    members = _members(codes, _parts(codes, splits, seed), ends, numpy_generator(seed, SPLIT, 1))
    if not members:
        raise ValueError(f"splits put no element of site {by!r} into any part, expected some")
    found: dict[str, Any] = {}
    for site, array in values.items():
        flat = array.reshape(len(array), -1)
        sets = [flat[rows] for _, _, rows in members]
        found[site] = sets
        if len(set(map(len, sets))) == 1:  # where they differ, build says which there are
            found[site] = np.stack(sets)
            found[site + THERE] = np.ones(found[site].shape[:2], np.float32)
    return build(
        {**found, by: kinds[[kind for _, kind, _ in members]]},
        classes={by: kinds.tolist()},
        splits=[PARTS[part] for part, _, _ in members],
        seed=seed,
        roles={by: "group"},
        **made,
    )


def _ends(size: Size | Mapping[str, Size]) -> list[tuple[int, int]]:
    """Least and greatest number of elements, by part; zeros for whole groups."""
    if isinstance(size, Mapping):
        for part in size:
            if part not in PARTS:
                raise ValueError(f"size: {unknown('part', part, PARTS)}")
        return [_ends(size.get(part, 0))[0] for part in PARTS]
    ends = (size, size) if isinstance(size, int) else tuple(size)
    if len(ends) != 2 or ends[0] > ends[1]:
        raise ValueError(f"size is {size!r}, expected a number or (least, most)")
    low, high = (whole("size", end, 0 if ends == (0, 0) else 1) for end in ends)
    return [(low, high)] * len(PARTS)


def _members(
    codes: Array, part: Array, ends: list[tuple[int, int]], draw: np.random.Generator
) -> list[tuple[int, int, Array]]:
    """Part, group and elements of each row."""
    found = []
    for place, (low, high) in enumerate(ends):
        own = draw.permutation(np.flatnonzero(part == place))
        own = own[codes[own].argsort(kind="stable")]
        starts = np.flatnonzero(np.diff(codes[own], prepend=-1))[1:]
        for rows in np.split(own, starts) if len(own) else []:
            kind = int(codes[rows[0]])
            found += [(place, kind, some) for some in _cut(rows, low, high, draw)]
    return found


def _parts(codes: Array, splits: Splits, seed: int) -> Array:
    """The part of each element, 0 to 2; -1 for none."""
    whole_groups = splits is None or shares_of(splits) is not None
    rows = int(codes.max()) + 1 if whole_groups else len(codes)
    part = np.full(rows, -1)
    everyone = torch.ones(rows, dtype=torch.bool)
    for place, chosen in enumerate(parts_of(splits, everyone, None, seed)):
        part[chosen.numpy()] = place
    return part[codes] if whole_groups else part


def _cut(rows: Array, low: int, high: int, draw: np.random.Generator) -> list[Array]:
    """A group's elements, in random order, as rows of at most so many; the last may be smaller."""
    if not high or not len(rows):
        return [rows] if len(rows) else []
    counts = draw.integers(low, high, size=len(rows), endpoint=True).cumsum()
    return [part for part in np.split(rows, counts[counts < len(rows)]) if len(part)]
