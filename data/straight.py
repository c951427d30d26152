"""Rows as they are at hand: tables, data sets, frames of pandas, AnnData, and paths of files.

What a frame, an AnnData or a file does not say itself, such as which columns are labels, is said
by the schema of the fit. Nothing is guessed where there has been none.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ppl_models.data import catalogue
from ppl_models.data.readers.anndata import obs_columns
from ppl_models.data.readers.files import naming
from ppl_models.data.tables.array_kinds import take
from ppl_models.data.tables.cells import from_anndata
from ppl_models.data.tables.frame_columns import numbers
from ppl_models.data.tables.given import names_of, row_names_of
from ppl_models.data.tables.names import twice_in
from ppl_models.data.tables.own_arrays import build
from ppl_models.data.tables.schema import Schema
from ppl_models.data.tables.table import Dataset, Table

NOTHING: Mapping[str, Any] = MappingProxyType({})
OF_READERS = ("labels", "layer", "counts", "classes", "covariates", "library", "memory", "site")
CELLS = (".h5ad", ".h5mu")  # files of many columns, of which some are labels


def rows(
    given: Any,
    schema: Schema | None,
    recipe: Mapping[str, Any] = NOTHING,
    asked: Mapping[str, Any] = NOTHING,
) -> Table:
    """Rows to ask a fitted pair about.

    Args:
        given: A table; a data set, whose test rows are taken; a ``pandas.DataFrame`` or an
            ``AnnData``, all of whose rows are; or a file, all of whose rows are unless it says
            itself which are for the test; or the name of a data set, whose test rows are.
        schema: That of the fit, which says what their columns are; columns of a frame, or of
            ``obs``, that it does not name are left out.
        recipe: That of the data of the fit, which says how files and AnnData were read.
        asked: Options of the reader of a file, in place of those.

    Raises:
        ValueError: In one line, if they are none of these or lack what the fit had.
    """
    found = _read(given, schema, recipe, asked, (), predict=True)
    return found.test if isinstance(found, Dataset) else found


def training_data(given: Any, schema: Schema | None, told: Sequence[str]) -> Dataset | Table:
    """Data to fit a pair to, or to build it for.

    Args:
        given: As of :func:`rows`, but of a file or name the whole set, split as
            :func:`ppl_models.data.load` splits it.
        schema: Of the pair; None where it has seen no data.
        told: Sites that the pair may be told in rows: its labels and covariates.

    Raises:
        ValueError: In one line, if they are none of these; or are a frame, an AnnData or a file
            of cells whose columns nothing says the meaning of, naming the call that takes it.
    """
    return _read(given, schema, NOTHING, NOTHING, told, predict=False)


def is_straight(given: Any) -> bool:
    """Whether something is a frame, an AnnData or a path, which are read by a schema."""
    return _is_frame(given) or _is_anndata(given) or isinstance(given, str | os.PathLike)


def _read(
    given: Any,
    schema: Schema | None,
    recipe: Mapping[str, Any],
    asked: Mapping[str, Any],
    told: Sequence[str],
    predict: bool,
) -> Dataset | Table:
    if isinstance(given, Dataset | Table):
        return given
    known = schema is not None and bool(schema.sites)
    known_by = schema if schema is not None and known else Schema()
    if isinstance(given, str | os.PathLike):
        return _of_file(str(given), known_by, recipe, asked, told, predict)
    for kind, is_one, take_it in (
        ("a pandas.DataFrame", _is_frame, "data.from_frame(frame"),
        ("an AnnData", _is_anndata, "data.from_anndata(adata"),
    ):
        if is_one(given) and not known:
            raise ValueError(
                f"{kind} does not say which of its columns are labels, and no fit has yet: make a "
                f"data set of it first, {take_it}, labels={list(told)})"
            )
    if _is_frame(given):
        return _of_frame(given, known_by)
    if _is_anndata(given):
        return _of_anndata(given, known_by, recipe.get("options", {}))
    raise ValueError(
        f"the data are of type {type(given).__name__}, expected a Table, a Dataset, a "
        "pandas.DataFrame, an AnnData or the path of a file"
    )


def _is_frame(given: Any) -> bool:
    return hasattr(given, "iloc") and hasattr(given, "columns")


def _is_anndata(given: Any) -> bool:
    return hasattr(given, "obs") and hasattr(given, "var_names")


def _of_frame(frame: Any, schema: Schema) -> Table:
    """The columns that the fit knows, as its sites; labels need not be there."""
    there = names_of(frame.columns)
    if (twice := twice_in(there)) is not None:
        raise ValueError(f"column {twice!r} stands in the table twice, expected different names")
    place = {name: number for number, name in enumerate(there)}
    known = schema.sites

    def vector(columns: Sequence[str]) -> Any:
        return numbers(frame.iloc[:, [place[name] for name in columns]], columns)

    labels = [name for name, site in known.items() if site.kind == "label" and name in place]
    for name in labels:
        if known[name].shape:
            raise ValueError(
                f"column {name!r} is a site of rows of shape {known[name].shape}, expected a "
                "table: data.from_frame makes one, with text= where they are words"
            )
    sites: dict[str, Any] = {name: take(name, frame.iloc[:, place[name]]) for name in labels}
    unnamed = []
    for name, site in known.items():
        if site.kind == "label":
            continue
        if site.columns:
            missing = [column for column in site.columns if column not in place]
            if not missing:
                sites[name] = vector(site.columns)
            elif len(missing) < len(site.columns):
                more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                raise ValueError(
                    f"the table lacks the column {missing[0]!r}{more} of site {name!r}, which the "
                    "pair was fitted on"
                )
        elif name in place and site.shape in ((), (1,)):
            sites[name] = vector([name])
        else:
            unnamed.append(name)
    if len(unnamed) == 1:  # of arrays: what is nothing else, in its order
        used = {*known, *(column for site in known.values() for column in site.columns)}
        if rest := [name for name in there if name not in used]:
            sites[unnamed[0]] = vector(rest)
    if sites.keys() <= set(labels) and any(s.kind == "vector" for s in known.values()):
        wanted = [column for site in known.values() for column in site.columns] or list(known)
        raise ValueError(
            "the table has none of the columns that the pair was fitted on, expected "
            f"{', '.join(wanted[:8])}{', ...' if len(wanted) > 8 else ''}"
        )
    classes = {name: known[name].classes for name in labels if known[name].classes}
    index: Any = row_names_of(frame.index)
    return build(
        sites, name="frame", labels=labels, classes=classes, splits=None, row_names=index
    ).test


def _of_anndata(adata: Any, schema: Schema, how: Mapping[str, Any]) -> Table:
    """Cells by the columns of ``obs`` that the fit knows; labels need not be there."""
    there = names_of(adata.obs.columns)
    if (layer := how.get("layer")) is None:
        beside = ["raw/X"] if adata.raw is not None else []
        if beside := [*beside, *(f"layers/{name}" for name in adata.layers)]:
            raise ValueError(
                f"the AnnData has {', '.join(beside)} beside X, and the fit does not say which it "
                "was on: make a data set of it, data.from_anndata(adata, labels=[...], layer=...)"
            )
        layer = "X"
    labels, fixed, library = _columns_of_cells(schema, there, how.get("library", ""))
    _check_covariates(fixed, there)
    return from_anndata(
        adata,
        labels,
        layer,
        how.get("counts", False),
        fixed,
        library,
        splits=None,
        name="adata",
    ).test


def _columns_of_cells(
    schema: Schema, there: Sequence[str], library: str
) -> tuple[list[str], list[str], str]:
    """Labels that are columns of ``obs``, covariates, and the site of library sizes."""
    sites = schema.sites
    fixed = [name for name, site in sites.items() if site.role == "covariate"]
    labels = [n for n, site in sites.items() if site.kind == "label" and n not in fixed]
    return (
        [name for name in labels if name in there],
        [name for name in fixed if name != library],
        library if library in fixed else "",
    )


def _check_covariates(covariates: Sequence[str], there: Sequence[str]) -> None:
    for name in covariates:
        if name not in there:
            raise ValueError(
                f"obs lacks the covariate {name!r} of the fit, it has {', '.join(there[:8])}"
                f"{', ...' if len(there) > 8 else ''}; of each cell's sum of counts say "
                f"library={name!r} when the data are read"
            )


def _of_file(
    path: str,
    schema: Schema,
    recipe: Mapping[str, Any],
    asked: Mapping[str, Any],
    told: Sequence[str],
    predict: bool,
) -> Dataset:
    """A file, read as the data of the fit were and by its schema; or a data set by its name."""
    said = recipe.get("options", {})
    if not catalogue.is_file(path):
        own = said if path == recipe.get("name") else NOTHING
        return catalogue.load(path, **{**own, **asked})
    known = inspect.signature(catalogue.loader(path)).parameters
    options = {name: said[name] for name in OF_READERS if name in said and name in known}
    if predict and "splits" in known:
        options["splits"] = None
    if Path(path).suffix in CELLS and told and not schema.sites:
        raise ValueError(
            f"{path} does not say which of its columns are labels, and no fit has yet: load it "
            f"first, data.load({path!r}, labels={','.join(told)!r})"
        )
    if Path(path).suffix == ".h5ad" and schema.sites:
        there = obs_columns(path)
        library = {**options, **asked}.get("library", "")
        labels, fixed, library = _columns_of_cells(schema, there, library)
        if "covariates" not in asked:
            with naming(path):
                _check_covariates(fixed, there)
        options |= {"labels": labels, "covariates": fixed, "library": library}
        if "classes" in options:
            kept = {*labels, *fixed}
            options["classes"] = {s: c for s, c in options["classes"].items() if s in kept}
    return catalogue.load(path, **{**options, **asked})
