"""Rows that come block by block, and the form in which a file keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ppl_models.data.store.stored_array import Array, Stored
from ppl_models.data.tables.lazy_column import Values, is_lazy
from ppl_models.data.tables.splits import PARTS
from ppl_models.data.tables.table import Dataset, Table

ROWS = 1024  # of a table written at a time
DIVISORS = (1, 255, 16)  # tried for floats that may be whole numbers, divided


@dataclass(frozen=True)
class Blocks:
    """A set of rows that need not fit in memory, for :func:`ppl_models.data.write`.

    Attributes:
        name: Name of the set.
        blocks: Arrays by site, ``n`` rows in each. The first block decides how a site is
            stored: truth values as bits, uint8 as bytes, floats as they are. A site of
            ``classes`` holds labels, -1 where one is missing. A site may come as a pair of an
            array and a mask ``(n,)``, True where it is observed.
        classes: Number of classes, or their names in order, by label site.
        shapes: Image shapes of vectors that come flattened, by site; arrays ``(n, H, W, ...)``
            are flattened and keep theirs.
        divisors: What uint8 values are divided by, by site; 255 when left out.
        roles: What a site is where it is no plain observation or label: ``factor``,
            ``intervention`` or ``group``.
        columns: Names of the numbers of vectors, by site.
        units: Units, by site.
        row_names: A name for each row.
        splits: Shares or numbers of training, validation and test rows, stratified by the
            first label site, or the rows of each by name. By shares and numbers, rows that lack
            a label go to the training rows.
        numbers: Row numbers in the source; counted when left out.
        seed: Seed of the split.
        recipe: How the set is made again; its file is its own recipe when left out.
    """

    name: str
    blocks: Iterable[Mapping[str, Any]]
    classes: Mapping[str, int | Sequence[str]] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    divisors: Mapping[str, float] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    row_names: Sequence[str] | None = None
    splits: Sequence[float] | Mapping[str, Any] = (0.7, 0.1, 0.2)
    numbers: Any = None
    seed: int = 0
    recipe: Mapping[str, Any] | None = None

    def class_names(self, site: str) -> tuple[str, ...]:
        """Names of a label site's classes.

        Raises:
            ValueError: If two are equal.
        """
        given = self.classes[site]
        names = tuple(map(str, range(given) if isinstance(given, int) else given))
        if len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise ValueError(f"classes of {site!r} in {self.name}: {twice!r} stands there twice")
        return names


def of_dataset(dataset: Dataset) -> Blocks:
    """A data set as blocks: floats that are whole numbers over 1, 16 or 255 as bits or bytes."""
    tables = [dataset.train, dataset.validation, dataset.test]
    ends = np.cumsum([0, *map(len, tables)])
    forms = {
        site: _form([t.sites[site] for t in tables])
        for site, value in dataset.train.sites.items()
        if value.is_floating_point()
    }
    return Blocks(
        name=dataset.name,
        blocks=_blocks(tables, forms),
        classes=dataset.train.classes,
        shapes=dataset.train.shapes,
        divisors={site: divisor for site, (_, divisor) in forms.items()},
        roles=dataset.roles,
        columns=dataset.train.columns,
        units=dataset.train.units,
        row_names=_row_names(tables),
        splits={part: np.arange(ends[place], ends[place + 1]) for place, part in enumerate(PARTS)},
        numbers=torch.cat([t.numbers.cpu() for t in tables]),
        seed=dataset.recipe.get("seed", 0),
        recipe=dataset.recipe,
    )


def _row_names(tables: Sequence[Table]) -> list[str] | None:
    names: list[str] = []
    for table in tables:
        if table.row_names is None:
            return None
        names += map(str, table.row_names)
    return names


def _blocks(tables: list[Table], forms: dict[str, tuple[str, float]]) -> Iterator[dict[str, Any]]:
    for table in tables:
        for start in range(0, len(table), ROWS):
            part = slice(start, start + ROWS)
            block: dict[str, Any] = {}
            for site, values in table.sites.items():
                array = values[part].cpu().numpy()
                mask = table.observed.get(site)
                seen = np.ones(len(array), bool) if mask is None else mask[part].cpu().numpy()
                if (form := forms.get(site)) is not None:
                    array = _encode(np.where(_beside(seen, array), array, 0), *form)
                block[site] = (array, seen)
            yield block


def _encode(array: Array, encoding: str, divisor: float) -> Array:
    if encoding == "bits":
        return array.astype(bool)
    return np.rint(array * divisor).astype(np.uint8) if encoding == "uint8" else array


def _beside(seen: Array, array: Array) -> Array:
    return seen.reshape(-1, *[1] * (array.ndim - 1))


def _form(parts: Sequence[Values]) -> tuple[str, float]:
    """The smallest form that gives back each value bit by bit: encoding and divisor."""
    first = parts[0]
    if is_lazy(first) and isinstance(first.source, Stored):
        return first.source.encoding, first.source.divisor
    name = str(first.dtype).removeprefix("torch.")
    if first.dtype != torch.float32 or is_lazy(first):
        return name, 1
    fits = {("bits", 1): True, **{("uint8", d): True for d in DIVISORS}}
    for values in parts:
        for start in range(0, len(values), ROWS):
            block = values[start : start + ROWS].cpu()
            block = block[~block.isnan()]
            for (encoding, divisor), fitted in list(fits.items()):
                if fitted:
                    whole = (block * divisor).round().clamp(0, 1 if encoding == "bits" else 255)
                    # Signs of zeros count: they are told apart by their bits.
                    back = (whole.to(torch.uint8).float() / divisor).view(torch.int32)
                    fits[encoding, divisor] = torch.equal(back, block.view(torch.int32))
    return next((form for form, fitted in fits.items() if fitted), (name, 1))
