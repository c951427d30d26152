"""Your own arrays as a data set."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_models.config import plain, unknown
from ppl_models.data.tables.labels import coded, is_label
from ppl_models.data.tables.own_values import Own, own
from ppl_models.data.tables.recipe import assemble
from ppl_models.data.tables.splits import SPLITS, Splits, parted
from ppl_models.data.tables.table import PARTS, Dataset, Table
from ppl_models.data.tables.vectors import vectors


def from_arrays(
    x: Any = None,
    y: Any = None,
    *,
    name: str = "arrays",
    labelled: int | Mapping[str, int] | None = None,
    classes: Mapping[str, int | Sequence[str]] | None = None,
    splits: Splits = SPLITS,
    shapes: Mapping[str, Sequence[int]] | None = None,
    columns: Mapping[str, Sequence[str]] | None = None,
    units: Mapping[str, str] | None = None,
    row_names: Sequence[str] | None = None,
    roles: Mapping[str, str] | None = None,
    seed: int = 0,
    sites: Mapping[str, Any] | None = None,
    **more: Any,
) -> Dataset:
    """A data set from numpy arrays, torch tensors, sparse matrices or pandas objects.

    One value per row that is an integer, a string or a boolean is a label, and so are floats
    that are whole numbers where some are NaN, which is how pandas keeps integers with gaps; a
    single column ``(N, 1)`` of them counts as one value per row, except in ``x``. A label that
    is -1, None, NaN or masked is missing, and so is text that stands for no value (``""``,
    ``"nan"``, ``"NA"`` and the like) unless ``classes`` names it. All else are float32 vectors,
    of which a row is missing where all its entries are NaN or masked; images ``(N, H, W, ...)``
    are flattened and keep their shape beside.

    Rows with a missing value go to the training rows, on top of their split; the others are
    split at random, stratified by the first label site.

    Args:
        x: The site ``x``.
        y: The site ``y``.
        name: Name of the data set.
        labelled: Training rows that keep their label, balanced over the classes (by site
            where there are several label sites); all if None.
        classes: Number of classes, or their names in order, by label site. When left out: the
            categories in their order, the strings that occur, sorted (numbers by size), or
            ``0 .. max``.
        splits: Shares, or numbers, of training, validation and test rows, 0 for an empty part;
            or the part of each row by its name, ``"train"``, ``"validation"`` or ``"test"``; or
            the name of the site that holds these. None splits nothing: all rows are in
            ``.test``, in the order given, to predict; they may have no labels at all.
        shapes: Image shapes of vectors that come flattened, by site.
        columns: Names of the numbers of a vector, by site; those of a pandas table when left
            out.
        units: Units, by site.
        row_names: A name for each row.
        roles: What a site is where it is no plain observation or label: ``"covariate"``,
            ``"factor"``, ``"intervention"`` or ``"group"``.
        seed: Seed of the split and of the labels that are kept.
        sites: Further sites by name, for names that an option has.
        more: Further sites, by name.

    Raises:
        ValueError: Naming the site, row and column of what does not fit.

    Warns:
        UserWarning: If text was taken as missing.
    """
    given = {"x": x, "y": y, **more}
    given = {site: values for site, values in given.items() if values is not None}
    for site in sites or {}:
        if site in given:
            raise ValueError(f"site {site!r} is given twice, expected once")
    return build(
        {**given, **(sites or {})},
        name,
        labelled=labelled,
        classes=classes or {},
        splits=splits,
        shapes=shapes or {},
        seed=seed,
        known=Known(columns or {}, units or {}, row_names, roles or {}),
    )


@dataclass(frozen=True)
class Known:
    """What is known of sites besides their values.

    Attributes:
        columns: Names of the numbers of vectors, by site.
        units: Units, by site.
        row_names: A name for each row.
        roles: What a site is where it is no plain observation or label.
        labels: Sites that the user says are labels.
    """

    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    row_names: Any = None
    roles: Mapping[str, str] = field(default_factory=dict)
    labels: Collection[str] = ()


def build(
    sites: Mapping[str, Any],
    name: str,
    *,
    labelled: int | Mapping[str, int] | None = None,
    classes: Mapping[str, int | Sequence[str]] | None = None,
    splits: Splits | Own = SPLITS,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    source: str = "",
    told: Any = None,
    known: Known | None = None,
) -> Dataset:
    """What :func:`from_arrays` does, for readers, which have a name for the source.

    Args:
        sites: Values by site.
        name: Name of the data set.
        labelled: As :func:`from_arrays`.
        classes: As :func:`from_arrays`.
        splits: As :func:`from_arrays`.
        shapes: As :func:`from_arrays`.
        seed: As :func:`from_arrays`.
        options: Of the reader, for the recipe.
        source: What :func:`ppl_models.data.load` calls these data; ``name`` if empty.
        told: What the recipe says of the splits, where they were read from a column.
        known: What is known of the sites besides.
    """
    known, forms = known or Known(), {s: tuple(shape) for s, shape in (shapes or {}).items()}
    sites, part_of_row = _split_site(sites, splits)
    for what, given in (("classes", classes), ("shapes", forms), ("roles", known.roles)):
        for site in given or {}:
            if site not in sites:
                raise ValueError(f"{what}: {unknown('site', site, sites)}")
    table = _table(name, sites, classes or {}, forms, known, lacking=splits is None)
    complete = torch.ones(len(table), dtype=torch.bool)
    for mask in table.observed.values():
        complete &= mask
    label = next((s for s, v in table.sites.items() if s in table.classes and v.dim() == 1), None)
    labels = None if label is None else table.sites[label][:]
    parts = parted(part_of_row, complete, seed, labels)
    tables = []
    for part, index in zip(PARTS, parts, strict=True):
        tables.append(table.rows(index) if len(index) else table.none())
        tables[-1].name = f"{name}/{part}"
    own_options = {"classes": plain(dict(classes or {})), "shapes": plain(dict(shapes or {}))}
    options = {**(own_options if options is None else options), "splits": told or _told(splits)}
    made = assemble(
        name, *tables, labelled=labelled, seed=seed, options=options, source=source or name
    )
    made.roles.update(known.roles)
    return made


def _told(splits: Any) -> Any:
    by_row = splits is not None and not isinstance(splits, str) and len(splits) != len(PARTS)
    return "by row" if by_row else plain(splits)


def _split_site(sites: Mapping[str, Any], splits: Splits | Own) -> tuple[dict[str, Any], Any]:
    """The sites, less the one that says in which part each row is, and what says so."""
    if not isinstance(splits, str):
        return dict(sites), splits
    if splits not in sites:
        raise ValueError(f"splits: {unknown('site', splits, sites)}")
    return {s: v for s, v in sites.items() if s != splits}, own(splits, sites[splits])


def _table(
    name: str,
    sites: Mapping[str, Any],
    classes: Mapping[str, int | Sequence[str]],
    shapes: dict[str, tuple[int, ...]],
    known: Known,
    lacking: bool,
) -> Table:
    """All rows in the order they were given, checked once."""
    if not sites:
        raise ValueError(f"{name} has no sites, expected at least one")
    values: dict[str, Tensor] = {}
    observed: dict[str, Tensor] = {}
    names: dict[str, tuple[str, ...]] = {}
    columns = {site: tuple(map(str, given)) for site, given in known.columns.items()}
    row_names = known.row_names
    for site, given in sites.items():
        mine = own(site, given)
        row_names = mine.row_names if row_names is None else row_names
        if is_label(mine, site in classes or site in known.labels, site == "x"):
            values[site], names[site] = coded(
                site, mine, classes.get(site), lacking, site in known.labels
            )
            observed[site] = values[site] >= 0
            continue
        values[site], seen = vectors(site, mine)
        if seen is not None:
            observed[site] = seen
        if mine.columns:
            columns.setdefault(site, mine.columns)
        if mine.values.ndim > 2:
            shapes.setdefault(site, mine.values.shape[1:])
    return Table(
        name,
        values,
        observed,
        classes=names,
        shapes=shapes,
        columns=columns,
        units=known.units,
        row_names=None if row_names is None else np.asarray(row_names, dtype=object),
    )
