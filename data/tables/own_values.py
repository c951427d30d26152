"""What users have, of whatever library, as numpy arrays with their gaps and names."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

Array = np.ndarray[Any, Any]
KNOWN = {  # what is no array, and what takes it
    "anndata.AnnData": "data.from_anndata",
    "xarray.Dataset": "data.from_xarray",
    "torch.Dataset": "the tensors in it",
    "torch.DataLoader": "the tensors in it",
    "ppl_models.Dataset": "it as it is",
    "ppl_models.Table": "its sites",
}
MOST_DENSE = 0.5  # of the machine's memory, for a sparse matrix made dense


@dataclass(frozen=True)
class Own:
    """Values of a site as they were given.

    Attributes:
        values: Array ``(N, ...)`` of truth values, integers, floats, or objects that are text;
            codes where there are ``classes``.
        missing: Mask ``(N, ...)`` of what has no value; floats may have NaN besides.
        classes: Names of categories in their order, if it came with any; else None.
        columns: Names of the columns, if it came with any.
        row_names: Names of the rows, if it came with any.
    """

    values: Array
    missing: Array
    classes: tuple[str, ...] | None = None
    columns: tuple[str, ...] = ()
    row_names: Array | None = None


def own(site: str, given: Any) -> Own:
    """Values of a site, from arrays, tensors, lists, sparse matrices and pandas objects.

    Args:
        site: Its name, for messages.
        given: What the user has.

    Raises:
        ValueError: If it is no array of numbers or text, saying what was expected.
    """
    if isinstance(given, Own):
        return given
    _refuse_others(site, given)
    if isinstance(given, Tensor):
        return _plain(site, _of_tensor(given))
    if hasattr(given, "tocsr") and hasattr(given, "toarray"):
        return _plain(site, dense(site, given))
    pandas = sys.modules.get("pandas")  # what it has made is there only if it is
    if pandas is not None:
        if isinstance(given, pandas.DataFrame):
            return _of_frame(site, given)
        if isinstance(given, pandas.MultiIndex):
            raise ValueError(f"site {site!r} is a MultiIndex, expected one value a row")
        if isinstance(given, pandas.Index | pandas.api.extensions.ExtensionArray):
            given = pandas.Series(given)
        if isinstance(given, pandas.Series):
            return _of_series(site, given)
    if isinstance(given, np.ma.MaskedArray):
        plain = _plain(site, np.asarray(given.data))
        return Own(plain.values, plain.missing | np.ma.getmaskarray(given))
    return _plain(site, _as_array(site, given))


def dense(site: str, matrix: Any) -> Array:
    """A sparse matrix of scipy as an array.

    Raises:
        ValueError: If it would not fit into memory, saying how large it is.
    """
    size = int(np.prod(matrix.shape)) * matrix.dtype.itemsize
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > MOST_DENSE * memory:
        raise ValueError(
            f"site {site!r} is sparse of shape {tuple(matrix.shape)}, which takes "
            f"{size / 2**30:.1f} GiB as an array; choose columns, or write it block by block "
            "with data.write(data.Blocks(...))"
        )
    array: Array = matrix.toarray()
    return array


def text(value: Any) -> str:
    """One value as the name of a class: bytes decoded, whole floats without their point."""
    if isinstance(value, bytes):
        return decoded(value)
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def decoded(value: bytes) -> str:
    """Text from bytes: UTF-8, or Latin-1 where it is no UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def names_of(index: Any) -> Array | None:
    """Names from an index of pandas; None where it only counts the rows."""
    if type(index).__name__ == "RangeIndex":
        return None
    return np.array(["/".join(map(text, i)) if isinstance(i, tuple) else text(i) for i in index],
                    dtype=object)  # fmt: skip


def _refuse_others(site: str, given: Any) -> None:
    kind = type(given)
    bases = {f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in kind.__mro__}
    for name, use in KNOWN.items():
        if name in bases:
            raise ValueError(f"site {site!r} is {_a(kind)}, expected an array; use {use}")
    if isinstance(given, str | bytes | Mapping | set | frozenset | Iterator) or (
        (not hasattr(given, "__array__") and not hasattr(given, "__len__"))
        and not np.isscalar(given)
    ):
        raise ValueError(f"site {site!r} is {_a(kind)}, expected an array with a row for each row")


def _a(kind: type) -> str:
    return f"a {kind.__module__.partition('.')[0]}.{kind.__name__}".replace("a builtins.", "a ")


def _of_tensor(given: Tensor) -> Array:
    value = given.detach().cpu()
    value = value.to_dense() if value.layout != Tensor([]).layout else value
    if value.is_floating_point() and value.dtype.itemsize < 4:
        value = value.float()  # numpy has no bfloat16
    array: Array = value.resolve_conj().resolve_neg().numpy()
    return array


def _as_array(site: str, given: Any) -> Array:
    try:
        if hasattr(given, "__array__") or np.isscalar(given):
            return np.asarray(given)
        entries = list(given)
        # What mixes text and numbers would all become text, gaps included.
        mixed = any(entry is None or isinstance(entry, str | bytes) for entry in entries)
        return np.array(entries, dtype=object) if mixed else np.asarray(entries)
    except (TypeError, ValueError):
        raise ValueError(
            f"site {site!r} is {_a(type(given))} of rows of different lengths or kinds, expected "
            "an array"
        ) from None


def _of_series(site: str, given: Any) -> Own:
    """A column of pandas, as it is."""
    rows = names_of(given.index)
    if hasattr(given.dtype, "categories"):
        names = tuple(text(name) for name in given.cat.categories)
        codes = given.cat.codes.to_numpy().astype(np.int64)
        return Own(codes, codes < 0, names, row_names=rows)
    missing = given.isna().to_numpy()
    kind = getattr(given.dtype, "kind", "O")
    plain = {"b": bool, "i": np.int64, "u": np.uint64, "f": np.float64}.get(kind)
    if plain is None or (kind == "f" and isinstance(given.dtype, np.dtype)):
        values = given.to_numpy()
        if kind in "mMc":
            _refuse_kind(site, values.dtype)
        found = _plain(site, np.asarray(values, dtype=object) if kind not in "f" else values)
        return Own(found.values, found.missing | missing, row_names=rows)
    values = (
        given.fillna(plain(0)).to_numpy(dtype=plain) if missing.any() else given.to_numpy(plain)
    )
    return Own(values, missing, row_names=rows)


def _of_frame(site: str, given: Any) -> Own:
    """Columns of pandas, which all hold numbers."""
    names = tuple("/".join(map(text, n)) if isinstance(n, tuple) else text(n) for n in given)
    columns = []
    for place, name in enumerate(names):
        column = given.iloc[:, place]
        if hasattr(column.dtype, "categories") or getattr(column.dtype, "kind", "O") not in "biuf":
            raise ValueError(
                f"column {name!r} has type {column.dtype}, expected numbers; "
                "name it in labels if it holds some"
            )
        columns.append(_of_series(site, column))
    kinds = {column.values.dtype.kind for column in columns}
    whole = np.int64 if kinds <= set("iub") else np.float64
    values = np.empty((len(given), len(names)), whole)
    missing = np.zeros(values.shape, bool)
    for place, (name, column) in enumerate(zip(names, columns, strict=True)):
        if whole is np.float64 and column.values.dtype.kind in "iu":
            check_exact(f"site {site!r}", column.values, f"column {name!r}")
        values[:, place], missing[:, place] = column.values, column.missing
    return Own(values, missing, columns=names, row_names=names_of(given.index))


def _plain(site: str, array: Array) -> Own:
    """An array of numpy, whose objects are looked at to know what they are."""
    if array.ndim == 0 or not array.size:
        raise ValueError(
            f"site {site!r} has shape {array.shape}, expected at least one row of one entry"
        )
    if array.dtype.kind in "US":
        array = array.astype(object)
    if array.dtype.kind == "O":
        return _of_objects(site, array)
    if array.dtype.kind not in "biuf":
        _refuse_kind(site, array.dtype)
    return Own(array, np.zeros(array.shape, bool))


def _of_objects(site: str, array: Array) -> Own:
    missing = np.reshape([_is_gap(v) for v in array.ravel()], array.shape)
    kept = array[~missing]
    kinds = set(map(type, kept))
    if not kinds or any(issubclass(kind, str | bytes) for kind in kinds):
        values = np.full(array.shape, None, dtype=object)
        values[~missing] = [text(v) for v in kept]
        return Own(values, missing)
    for dtype, fitting in (
        (bool, (bool, np.bool_)),
        (np.int64, (int, np.integer)),
        (np.float64, (int, float, np.integer, np.floating)),
    ):
        if all(issubclass(kind, fitting) for kind in kinds):
            try:
                filled = np.zeros(array.shape, dtype)
                filled[~missing] = kept.astype(dtype)
            except OverflowError:
                continue
            return Own(filled, missing)
    odd = next(iter(kinds))
    raise ValueError(f"site {site!r} holds {_a(odd)}, expected numbers or text")


def _is_gap(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating) and value != value


def _refuse_kind(site: str, dtype: Any) -> None:
    hints = {
        "c": "; give its real and imaginary parts",
        "M": "; give dates as numbers of some unit, or as text if they are labels",
        "m": "; give spans of time as numbers of some unit",
        "V": "; give each field as a site of its own",
    }
    hint = hints.get(getattr(dtype, "kind", ""), "")
    raise ValueError(f"site {site!r} has type {dtype}, expected numbers or text{hint}")


def check_exact(where: str, values: Array, column: str = "") -> None:
    """Refuse integers that float32 would round.

    Raises:
        ValueError: Naming row, column and value.
    """
    if values.dtype.kind not in "iu" or not values.size:
        return
    if int(values.min()) >= -(2**24) and int(values.max()) <= 2**24:
        return
    rounded = values.astype(np.float32).astype(np.float64) != values.astype(np.float64)
    rounded |= np.abs(values.astype(np.float64)) > 2**53
    if rounded.any():
        row, *at = np.argwhere(rounded)[0]
        told = column or (f"column {at[0]}" if at else "")
        raise ValueError(
            f"{where}, row {row}{', ' * bool(told)}{told}: got {values[(row, *at)]}, which "
            "float32 rounds; centre or scale it first"
        )
