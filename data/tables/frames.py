"""Tables of pandas and data sets of xarray as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ppl_models.config import unknown
from ppl_models.data.tables.array_kinds import take
from ppl_models.data.tables.frame_columns import numbers
from ppl_models.data.tables.given import names_of, row_names_of
from ppl_models.data.tables.names import twice_in
from ppl_models.data.tables.own_arrays import build, checked, names_in
from ppl_models.data.tables.table import Dataset
from ppl_models.data.tables.tokens import Tokens, stand_in, with_tokens


def from_frame(
    frame: Any,
    labels: str | Sequence[str] = (),
    text: str | Sequence[str] = (),
    tokens: Tokens | None = None,
    **options: Any,
) -> Dataset:
    """A data set from a pandas table: a label site per column named, ``x`` of all the others.

    A column of texts becomes a site of tokens ``(N, T)``, whose classes are the vocabulary of the
    training rows, ``<pad>`` and ``<unk>`` first. A row without words is missing there.

    Columns may have any name, which the table keeps; those of the index become names of the rows,
    where they are more than 0 to N - 1.

    Args:
        frame: A ``pandas.DataFrame``.
        labels: Columns that hold labels: one, several with commas between, or a list.
        text: Columns that hold texts, named in the same way.
        tokens: How texts become tokens; small words between blanks if None.
        options: See :func:`ppl_models.data.from_arrays`; ``splits`` may name a column.

    Raises:
        ValueError: If there is no such column, one comes twice, or another one holds no numbers;
            naming it.
    """
    if not (hasattr(frame, "iloc") and hasattr(frame, "columns")):
        raise ValueError(
            f"the table is of type {type(frame).__name__}, expected a pandas.DataFrame"
        )
    names = names_of(frame.columns)
    if (twice := twice_in(names)) is not None:
        raise ValueError(f"column {twice!r} stands in the table twice, expected different names")
    place = {name: number for number, name in enumerate(names)}
    chosen, written = _columns(labels, names), _columns(text, names)
    if tokens is not None and not written:
        raise ValueError("tokens are given and no text, expected the columns that hold texts")
    if (twice := twice_in([*chosen, *written])) is not None:
        raise ValueError(f"column {twice!r} is named twice, expected labels or text")
    if "x" in (*chosen, *written):
        raise ValueError(
            "column 'x' of labels has the name of the site of all other columns; rename it"
        )
    given = {"row_names": row_names_of(frame.index), **checked(options)}
    apart = {*chosen, *written}
    if isinstance(splits := given.get("splits"), str):
        names_in("column of splits", [splits], names)
        apart.add(splits)
        given["splits"] = take(splits, frame.iloc[:, place[splits]])
    rest = [name for name in names if name not in apart]
    if not rest and not written:
        raise ValueError("the table has no column besides its labels, expected some numbers")
    sites: dict[str, Any] = {}
    if rest:
        sites["x"] = numbers(frame.iloc[:, [place[name] for name in rest]], rest)
    sites |= {name: take(name, frame.iloc[:, place[name]]) for name in chosen}
    texts = {name: stand_in(name, take(name, frame.iloc[:, place[name]])) for name in written}
    sites |= {name: standing for name, (standing, _) in texts.items()}
    made = build(sites, labels=chosen, **given)
    if not written:
        return made
    return with_tokens(made, {n: listed for n, (_, listed) in texts.items()}, tokens or Tokens())


def _columns(given: str | Sequence[str], names: Sequence[str]) -> list[str]:
    if not isinstance(given, str):
        given = names_of(given if hasattr(given, "__iter__") else [given])
    return names_in("column", given, names)


def from_xarray(dataset: Any, rows: str, **options: Any) -> Dataset:
    """A data set from the variables of an ``xarray.Dataset`` that have a dimension of rows.

    Coordinates name rows and columns, and the attribute ``units`` gives units.

    Args:
        dataset: The ``xarray.Dataset``; one of the variables is ``x``.
        rows: The dimension whose entries are rows; it becomes the first.
        options: See :func:`ppl_models.data.from_arrays`; ``splits`` may name a variable or
            coordinate.

    Raises:
        ValueError: If there is no such dimension, or no variable ``x``.
    """
    if not hasattr(dataset, "data_vars"):
        raise ValueError(
            f"the data are of type {type(dataset).__name__}, expected an xarray.Dataset (of one "
            "array: array.to_dataset(name='x'))"
        )
    if rows not in dataset.sizes:
        raise ValueError(unknown("dimension", rows, list(map(str, dataset.sizes))))
    sites = {
        str(name): take(str(name), variable.transpose(rows, ...))
        for name, variable in dataset.data_vars.items()
        if rows in variable.dims
    }
    if "x" not in sites:
        raise ValueError(f"the data set has the variables {sorted(sites)}, expected one named 'x'")
    splits = checked(options).get("splits")
    if isinstance(splits, str) and splits not in sites and splits in dataset.coords:
        options = {**options, "splits": replace(take(splits, dataset[splits]), row_names=None)}
    return build(sites, **options)
