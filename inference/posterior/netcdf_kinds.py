"""What netCDF holds: how names, attributes and arrays of every kind are stored and read again.

netCDF4 has numbers and text. Truth values, dates, spans of time and text with gaps are stored
as xarray stores and reads them, by attributes that say what the numbers mean. Whatever cannot
be read again as it was is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

Array = np.ndarray[Any, Any]
Convert = Callable[[Array], Array]

# HDF5's and netCDF's own bookkeeping.
HIDDEN = (
    "CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "DIMENSION_LABELS", "_Netcdf4Dimid",
    "_Netcdf4Coordinates", "_NCProperties", "_nc3_strict",
)  # fmt: skip
# Attributes of variables by which readers of netCDF change the numbers.
DECODED = (
    "_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned", "_Encoding",
    "coordinates",
)  # fmt: skip
OTHER = "_nc4_non_coord_"  # before a name that is a dimension's, but not its coordinate's
UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
SINCE = " since 1970-01-01"
GAP = int(np.iinfo(np.int64).min)  # how numpy holds a date that is missing


def name_problem(name: object) -> str:
    """What keeps netCDF from a name; empty where nothing does."""
    if not isinstance(name, str):
        return "is no text"
    if not name:
        return "is empty"
    if "/" in name or name == ".":
        return "is a path to HDF5"
    if name.startswith(OTHER):
        return "is netCDF's own"
    return text_problem(name)


def text_problem(text: str) -> str:
    """What keeps HDF5 from a text; empty where nothing does."""
    if "\0" in text:
        return "has a zero byte, where HDF5 ends a text"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "has half of a surrogate pair, which no file can hold"
    return ""


def attribute(value: Any) -> Any:
    """An attribute as it is stored: text, a number, or an array of either.

    Truth values become 0 and 1, and a list of one entry reads as that entry.

    Raises:
        ValueError: Saying what it is, and what was expected.
    """
    if isinstance(value, str):
        check_texts([value])
        return str(value)
    if isinstance(value, bool | int | float | list | tuple) or hasattr(type(value), "__array__"):
        try:
            array = np.asarray(value)
        except ValueError:  # lists of unequal length
            array = np.empty(0, object)
        entries = array.ravel().tolist()
        if array.ndim < 2 and entries and all(isinstance(entry, str) for entry in entries):
            # numpy makes text of numbers beside text.
            given: list[Any] = [value] if isinstance(value, np.generic) else list(value)
            if all(isinstance(entry, str) for entry in given):
                check_texts(given)
                return list(map(str, given))
        if array.dtype.kind in "biuf" and _same(entries, np.array(value, object).ravel()):
            number = array.astype(np.int8) if array.dtype.kind == "b" else array
            return number if array.ndim else number[()]
    shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
    raise ValueError(
        f"is {shown} ({type(value).__name__}), expected text, a number of at most 64 bits, or a "
        "list of one of them (anything else as JSON text)"
    )


def _same(entries: list[Any], given: Array) -> bool:
    pairs = zip(entries, given.tolist(), strict=False)
    return len(entries) == given.size and all(a == b or a != a for a, b in pairs)


def check_texts(values: Iterable[str]) -> None:
    """Refuse texts that HDF5 would not give back.

    Raises:
        ValueError: Showing the first of them, and saying why.
    """
    for text in values:
        if problem := text_problem(text):
            raise ValueError(f"holds {text[:40]!r}, which {problem}")


def check_attribute(name: object, value: Any, of_variable: bool) -> Any:
    """An attribute as it is stored, if readers leave it and its variable as they are.

    Raises:
        ValueError: Saying what is wrong with it.
    """
    if problem := name_problem(name).replace("is a path to HDF5", ""):
        raise ValueError(f"has a name that {problem}")
    if name in HIDDEN:
        raise ValueError("has a name that HDF5 and netCDF keep for themselves")
    decoded = name in DECODED if of_variable else name == "coordinates"
    if of_variable and isinstance(value, str):
        decoded |= name == "units" and "since" in value
        decoded |= name == "dtype" and value.startswith(("bool", "timedelta64"))
    if decoded:
        raise ValueError(
            f"is {value!r}, by which readers of netCDF would change what is read; remove it, or "
            "decode by it first (xarray.decode_cf)"
        )
    return attribute(value)


def stored(variable: xr.Variable) -> tuple[xr.Variable, dict[str, Any]]:
    """A variable as it is stored, and attributes that say what its numbers or texts mean.

    Numbers are handed on as they are, and stay in their file.

    Raises:
        ValueError: Saying what it holds that netCDF cannot.
    """
    kind = variable.dtype.kind if isinstance(variable.dtype, np.dtype) else "O"
    if kind in "iufb" or (kind == "c" and variable.dtype.itemsize <= 16):
        return variable, {}
    marks: dict[str, Any] = {}
    values = np.asarray(variable.values)
    if kind in "OT":
        values, marks = _of_objects(values.astype(object))
        kind = values.dtype.kind
    if kind in "mM":
        unit = np.datetime_data(values.dtype)[0]
        if unit not in UNITS:
            raise ValueError(f"holds {values.dtype}, expected dates in {', '.join(UNITS)}")
        marks = {"units": UNITS[unit]}
        if kind == "M":
            marks = {"units": UNITS[unit] + SINCE, "calendar": "proleptic_gregorian"}
        else:
            marks["dtype"] = f"timedelta64[{unit}]"
        if np.isnat(values).any():
            marks["_FillValue"] = np.int64(GAP)
        values = values.view(np.int64)
    elif kind == "U":
        check_texts(values.ravel().tolist())
    elif kind == "S":
        # Single bytes would be read as the letters of longer ones.
        values = values.astype(f"S{max(2, values.dtype.itemsize)}")
    elif kind not in "biufO":
        raise ValueError(f"holds {values.dtype}, expected numbers, truth values, text or dates")
    return xr.Variable(variable.dims, values), marks


def _of_objects(values: Array) -> tuple[Array, dict[str, Any]]:
    """An array of objects that are of one kind, and what marks its gaps."""
    flat = values.ravel().tolist()
    gaps = np.array([bool(np.ndim(v) == 0 and pd.isna(v)) for v in flat], bool)
    kept = [v for v, gap in zip(flat, gaps, strict=True) if not gap]
    kinds = sorted({_kind(v) for v in kept})
    if len(kinds) > 1:
        raise ValueError(f"holds values of type {' and '.join(kinds)}, expected one kind")
    kind = kinds[0] if kinds else "number"
    if kind == "str":
        check_texts(kept)
        texts, marks = np.array(flat, object), {}
        if gaps.any():
            fill = ""
            while fill in kept:
                fill += "missing"
            texts[gaps], marks = fill, {"_FillValue": fill}
        return texts.reshape(values.shape), marks
    if kind == "bytes":
        if gaps.any() or any(v.endswith(b"\0") for v in kept):
            raise ValueError("holds bytes with gaps or with zeros at their end, expected text")
        return np.array(flat, "S").reshape(values.shape), {}
    if kind not in ("number", "bool"):
        raise ValueError(f"holds values of type {kind}, expected numbers, text or dates")
    numbers = np.array([np.nan if g else v for v, g in zip(flat, gaps, strict=True)])
    if numbers.dtype.kind not in "biuf" or not _same(numbers.tolist(), np.array(flat, object)):
        raise ValueError("holds numbers that 64 bits cannot")
    return (numbers if len(flat) else np.empty(0)).reshape(values.shape), {}


def _kind(value: Any) -> str:
    for kind, name in ((str, "str"), (bytes, "bytes"), (bool | np.bool_, "bool")):
        if isinstance(value, kind):
            return name
    number = int | float | np.integer | np.floating
    return "number" if isinstance(value, number) else type(value).__name__


def as_read(
    dtype: np.dtype[Any], text: bool, attrs: Mapping[str, Any]
) -> tuple[np.dtype[Any], Convert, dict[str, Any]]:
    """How what :func:`stored` made is read.

    Args:
        dtype: Type of the stored array.
        text: Whether it is text of any length.
        attrs: Its attributes.

    Returns:
        Type of the values, what makes them of stored ones, and the attributes that are left.
    """
    left = dict(attrs)
    fill = left.pop("_FillValue", None)
    if text:
        if fill is None:
            return np.dtype(object), lambda part: part.astype(str), left
        return np.dtype(object), lambda part: _with_gaps(part, fill), left
    if str(left.get("dtype")) == "bool":
        del left["dtype"]
        return np.dtype(bool), lambda part: part.astype(bool), left
    units = str(left.get("units", ""))
    letter = {name: unit for unit, name in UNITS.items()}.get(units.removesuffix(SINCE))
    since = units.endswith(SINCE)
    if letter and dtype == np.int64 and ("calendar" if since else "dtype") in left:
        del left["units"], left["calendar" if since else "dtype"]
        found = np.dtype(f"{'datetime64' if since else 'timedelta64'}[{letter}]")
        return found, lambda part: part.view(found), left
    return dtype, lambda part: part, left


def _with_gaps(part: Array, fill: str) -> Array:
    found = part.astype(object)
    found[found == fill] = np.nan
    return found
