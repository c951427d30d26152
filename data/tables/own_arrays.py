"""Your own arrays as a data set."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_models.config import unknown
from ppl_models.data.tables.array_kinds import take
from ppl_models.data.tables.given import Array as Array, Given, row_names_of
from ppl_models.data.tables.labels import Classes, is_label, labels as labels_of
from ppl_models.data.tables.lazy_column import Column
from ppl_models.data.tables.names import twice_in
from ppl_models.data.tables.ragged import padded
from ppl_models.data.tables.recipe import assemble
from ppl_models.data.tables.splits import PARTS, parts_of, shares_of
from ppl_models.data.tables.table import Dataset, Table
from ppl_models.data.tables.vectors import vectors
from ppl_models.elements import THERE

Splits = Any  # see from_arrays
SPLITS = (0.7, 0.1, 0.2)
ROLES = ("covariate", "factor", "group", "intervention")


def from_arrays(
    x: Any = None,
    y: Any = None,
    *,
    name: str = "arrays",
    labelled: int | Mapping[str, int] | None = None,
    classes: Mapping[str, Classes] | None = None,
    splits: Splits = SPLITS,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    columns: Mapping[str, Sequence[str]] | None = None,
    units: Mapping[str, str] | None = None,
    row_names: Sequence[str] | None = None,
    roles: Mapping[str, str] | None = None,
    sites: Mapping[str, Any] | None = None,
    **more: Any,
) -> Dataset:
    """A data set from arrays with the same rows: of numpy, torch, scipy, pandas, xarray, or lists.

    One value per row, ``(N,)`` or ``(N, 1)``, that is an integer, a string, a boolean or a
    category is a label (``x`` only where it is ``(N,)``), and so are floats ``(N,)`` that are
    whole numbers where some are NaN, which is how pandas keeps integers with gaps; others are
    labels where ``classes`` name the site. Which labels are missing is said in
    :mod:`ppl_models.data.tables.missing`, what is a class in which order in
    :mod:`ppl_models.data.tables.labels`. All else are float32 vectors, of which a row is missing
    where all its entries are NaN or masked; images ``(N, H, W, ...)`` are flattened and keep their
    shape beside. Sets of different sizes, a list of arrays ``(m, ...)``, are padded to
    ``(N, M, ...)``, and a site ``x_there`` ``(N, M)`` says which elements of a set ``x`` there
    are; sets that come padded have it beside them. Whole numbers that single precision would
    round are refused.

    Names of columns and rows come along from pandas and xarray; rows of two sites that are named
    must be named alike.

    Args:
        x: The site ``x``.
        y: The site ``y``.
        name: Name of the data set.
        labelled: Training rows that keep their label, balanced over the classes (by site
            where there are several label sites); all if None.
        classes: Number of classes, or their names in order, by label site. When left out: the
            categories, the strings that occur, sorted (by number where all are numbers), or
            ``0 .. max``.
        splits: Shares, or numbers, of training, validation and test rows; 0 leaves one empty. Rows
            are drawn at random, stratified by the first label site; those with a missing value go
            to training, on top. Or the part of each row, ``train``, ``validation``, ``test`` or
            missing: an array, or the name of the site that says so, which then is none. None puts
            all rows into the test part as they come, without a label if need be, to predict.
        shapes: Image shapes of vectors that come flattened, by site.
        seed: Seed of the split and of the labels that are kept.
        columns: Names of a vector's numbers, by site.
        units: Units, by site.
        row_names: Names of the rows.
        roles: What a site is where it is no plain observation or label: ``covariate``,
            ``factor``, ``group`` or ``intervention``.
        sites: Further sites, by names that may be those of options.
        more: Further sites, by name.

    Raises:
        ValueError: Naming the site, row and column of what does not fit.
    """
    own = {"x": x, "y": y}
    given = {site: values for site, values in own.items() if values is not None}
    if twice := [site for site in sites or {} if site in given or site in more]:
        raise ValueError(f"site {twice[0]!r} is given twice, expected once")
    return build(
        {**given, **more, **(sites or {})},
        name=name,
        labelled=labelled,
        classes=classes,
        splits=splits,
        shapes=shapes,
        seed=seed,
        columns=columns,
        units=units,
        row_names=row_names,
        roles=roles,
    )


def build(
    sites: Mapping[str, Any],
    *,
    name: str = "arrays",
    labelled: int | Mapping[str, int] | None = None,
    classes: Mapping[str, Classes] | None = None,
    splits: Splits = SPLITS,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    columns: Mapping[str, Sequence[str]] | None = None,
    units: Mapping[str, str] | None = None,
    row_names: Sequence[str] | None = None,
    roles: Mapping[str, str] | None = None,
    labels: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    source: str = "",
) -> Dataset:
    """What :func:`from_arrays` does, for all that read sites of any name.

    Args:
        sites: Values by site.
        labels: Sites that hold labels, whatever their type.
        options: What the recipe says of how the set is made again.
        source: What :func:`ppl_models.data.load` calls these data.
        name: This and all else as :func:`from_arrays`.
        labelled: See there.
        classes: See there.
        splits: See there.
        shapes: See there.
        seed: See there.
        columns: See there.
        units: See there.
        row_names: See there.
        roles: See there.
    """
    by_site = {"classes": classes, "shapes": shapes, "columns": columns, "units": units}
    sites = padded(sites)
    if options is None:
        plain = splits is None or isinstance(splits, str) or shares_of(splits) is not None
        said = splits if plain else "by row"
        options = {"splits": said, "classes": classes or {}, "shapes": shapes or {}}
    if isinstance(splits, str):
        if splits not in sites:
            raise ValueError(unknown("site of splits", splits, sites))
        splits = sites.pop(splits)
    _check_options({**by_site, "roles": roles}, sites)
    table = _table(
        name,
        {s: v if isinstance(v, Column) else take(s, v) for s, v in sites.items()},
        {*labels, *(classes or {})},
        {what: dict(given or {}) for what, given in by_site.items()},
        row_names,
        whole=splits is not None,
    )
    complete = torch.ones(len(table), dtype=torch.bool)
    for mask in table.observed.values():
        complete &= mask
    fixed = [site for site, role in (roles or {}).items() if role == "covariate"]
    codes = (s for s, v in table.sites.items() if not v.is_floating_point())
    label = next((site for site in codes if site not in fixed), None)
    stratum = None if label is None else table.sites[label][:]
    drawn = parts_of(splits, complete, stratum, seed)
    tables = [table.part(f"{name}/{p}", rows) for p, rows in zip(PARTS, drawn, strict=True)]
    made = assemble(
        name,
        *tables,
        labelled=labelled,
        seed=seed,
        options=options,
        source=source or name,
        covariates=fixed,
    )
    return dataclasses.replace(made, roles=dict(roles or {}))


def checked(options: Mapping[str, Any], function: Callable[..., Any] = from_arrays) -> Any:
    """Options of a function, as they are.

    Raises:
        ValueError: If there is no such option, naming the nearest.
    """
    kinds = inspect.signature(function).parameters.values()
    known = [p.name for p in kinds if p.kind is p.KEYWORD_ONLY and p.name != "sites"]
    for option in options:
        if option not in known:
            raise ValueError(unknown("option", option, known))
    return options


def names_in(what: str, given: str | Sequence[str], known: Sequence[str]) -> list[str]:
    """Names that are asked for: one, several with commas between, or a list of them.

    Raises:
        ValueError: If there is no such name, naming the nearest; or one comes twice.
    """
    if isinstance(given, str):
        names = [given] if given in known else [n.strip() for n in given.split(",") if n.strip()]
    else:
        names = [str(name) for name in given]
    for name in names:
        if name not in known:
            raise ValueError(unknown(what, name, known))
    if (twice := twice_in(names)) is not None:
        raise ValueError(f"{what} {twice!r} is asked for twice, expected once")
    return names


def _check_options(options: Mapping[str, Any], sites: Mapping[str, Any]) -> None:
    for what, given in options.items():
        if given is not None and not isinstance(given, Mapping):
            raise ValueError(
                f"{what} are {type(given).__name__}, expected a dict by site; a site of that name "
                "goes into sites={...}"
            )
        for site in given or {}:
            if site not in sites:
                raise ValueError(unknown("site", site, sites))
    for role in (options["roles"] or {}).values():
        if role not in ROLES:
            raise ValueError(unknown("role", role, ROLES))


def _table(
    name: str,
    sites: Mapping[str, Given | Column],
    named: set[str],
    known: dict[str, Any],
    row_names: Sequence[str] | None,
    whole: bool,
) -> Table:
    """All rows as they were given, which checks them."""
    values: dict[str, Any] = {}
    observed: dict[str, Tensor] = {}
    classes: dict[str, tuple[str, ...]] = {}
    for site, given in sites.items():
        if isinstance(given, Column):  # of a file, whose reader has looked at it
            values[site] = given
            if given.hidden is not None:
                observed[site] = ~given.hidden
            continue
        array = given.values
        if array.ndim == 0 or not array.size:
            raise ValueError(
                f"site {site!r} has shape {array.shape}, expected at least one row of one entry"
            )
        if given.units is not None:
            known["units"].setdefault(site, given.units)
        if is_label(site, given, site in named):
            codes, classes[site] = labels_of(site, given, known["classes"].get(site), whole)
            values[site] = torch.from_numpy(codes)
            observed[site] = values[site] >= 0
            continue
        values[site], missing = vectors(site, given)
        if missing.any() and not (whole and missing.all()):
            observed[site] = ~missing
            values[site][missing] = 0
        if site + THERE in sites:  # a set is no image: its elements stay apart
            values[site] = values[site].reshape(array.shape)
        elif array.ndim > 2:
            known["shapes"].setdefault(site, array.shape[1:])
        if given.columns is not None:
            known["columns"].setdefault(site, given.columns)
    known["shapes"] = {site: tuple(map(int, shape)) for site, shape in known["shapes"].items()}
    names = _row_names(sites) if row_names is None else row_names_of(row_names)
    known["classes"] = classes
    return Table(name, values, observed, None, **known, row_names=names)


def _row_names(sites: Mapping[str, Given | Column]) -> Array | None:
    """Names of the rows, which must be those of every site that has some."""
    first, names = "", None
    for site, given in sites.items():
        if isinstance(given, Column) or given.row_names is None:
            continue
        if names is None:
            first, names = site, given.row_names
        elif len(names) == len(given.row_names) and (names != given.row_names).any():
            row = int(np.flatnonzero(names != given.row_names)[0])
            raise ValueError(
                f"site {site!r} names row {row} {given.row_names[row]!r}, site {first!r} "
                f"{names[row]!r}, expected rows in one order (of pandas: b.loc[a.index])"
            )
    return names
