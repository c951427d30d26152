"""From the labels that somebody has to codes and class names.

The order of the classes, which is that of the codes, is the one given; else the stored order of
categories, also of those that occur in no row; else by number where all names are numbers, and by
name. Whole numbers are codes, unless the classes given are whole numbers themselves: then they
are names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from ppl_models.config import unknown
from ppl_models.data.tables.given import Array, Given
from ppl_models.data.tables.missing import is_missing, missing_words, tell_missing
from ppl_models.data.tables.names import twice_in

Classes = int | Sequence[str]
NUMBERS = "biuf"
LARGEST = 1 << 53  # of the whole numbers that floats hold exactly


def is_label(site: str, given: Given, named: bool) -> bool:
    """Whether a site holds labels: one value per row that is no measured number.

    Args:
        site: Its name; ``x`` is a vector where it has two dimensions.
        given: Its values.
        named: Whether it was said to hold labels, which whole floats may then be, too.

    Raises:
        ValueError: If it was, but does not hold one value per row.
    """
    values = given.values
    one = values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1)
    kind = values.dtype.kind
    if not one:
        if named or (site == "y" and _one_hot(values)):
            raise ValueError(
                f"site {site!r} has shape {values.shape}, expected one label per row; of one-hot "
                f"rows give argmax(1)"
            )
        return False
    if named or given.categories is not None:
        return True
    if kind in "cmMV" or (values.ndim == 2 and (site == "x" or kind == "f")):
        return False
    if kind != "f":
        return True
    gaps = np.isnan(values)
    return bool(gaps.any() and (np.floor(values) == values)[~gaps].all())


def _one_hot(values: Array) -> bool:
    if values.ndim != 2 or values.dtype.kind not in NUMBERS:
        return False
    return bool(((values == 0) | (values == 1)).all() and (values.sum(1) == 1).all())


def labels(
    site: str, given: Given, classes: Classes | None = None, whole: bool = True
) -> tuple[Array, tuple[str, ...]]:
    """Codes ``(N,)`` of int64, -1 for a missing label, and the class names.

    Args:
        site: Name of the site, for messages.
        given: Its values.
        classes: Number of classes, or their names in order.
        whole: Whether the labels must say which classes there are, where ``classes`` do not.

    Raises:
        ValueError: If a value is no label or no such class, or there is no label at all, where
            that must be; naming site and row.
    """
    classes = _checked(site, classes)
    given = _flat(given)
    values = given.values
    if given.categories is not None:
        names, codes = list(given.categories), values
        return _named(site, codes, names, classes, stored=True, whole=whole)
    if values.dtype.kind in "mM":
        kept, codes = np.unique(values, return_inverse=True)
        codes = np.where(np.isnat(values), -1, codes)
        kept = kept[~np.isnat(kept)]
        dates = values.dtype.kind == "M"
        texts = np.datetime_as_string(kept).tolist() if dates else list(map(str, kept))
        return _named(site, codes, texts, classes, stored=True, whole=whole)
    if values.dtype.kind in "OUST":
        found = _of_objects(site, values, given.missing)
        if isinstance(found, tuple):
            return _named(site, *found, classes, stored=False, whole=whole)
        values, missing = found, None
    else:
        missing = given.missing
    if values.dtype.kind == "b":
        codes = values.astype(np.int64)
        if missing is not None:
            codes[missing] = -1
        return _named(site, codes, [False, True], classes, stored=True)
    codes = _whole_numbers(site, values)
    if missing is not None:
        codes[missing] = -1
    return _coded(site, codes, classes, whole)


def categories_of(site: str, given: Given) -> Given:
    """Whole numbers as categories named like them, in their order; all else as it is.

    Raises:
        ValueError: If a number is not whole.
    """
    given = _flat(given)
    if given.categories is not None or given.values.dtype.kind not in "iuf":
        return given
    numbers = _whole_numbers(site, given.values)
    if given.missing is not None:
        numbers[given.missing] = -1
    kept, codes = np.unique(numbers, return_inverse=True)
    first = int((kept < 0).sum())
    if first and kept[0] < -1:
        _refuse_negative(site, numbers)
    return Given(codes - first, categories=tuple(kept[first:].tolist()))


def _flat(given: Given) -> Given:
    if given.values.ndim == 1:
        return given
    missing = None if given.missing is None else given.missing.reshape(-1)
    return Given(given.values.reshape(-1), missing, given.categories)


def _checked(site: str, classes: Any) -> int | tuple[str, ...] | None:
    if classes is None:
        return None
    if isinstance(classes, Integral) and not isinstance(classes, bool):
        if classes < 1:
            raise ValueError(f"classes of {site!r} are {classes}, expected at least 1")
        return int(classes)
    if isinstance(classes, str | bytes | Mapping) or not hasattr(classes, "__iter__"):
        raise ValueError(
            f"classes of {site!r} are {classes!r}, expected their number, or a list of their names"
        )
    names = tuple(name_of(value) for value in classes)
    if (twice := twice_in(names)) is not None:
        raise ValueError(
            f"classes of {site!r}: {twice!r} stands there twice, expected different names"
        )
    return names


def name_of(value: Any) -> str:
    """The name of a class: whole floats are named like integers."""
    if isinstance(value, bytes):
        return text_of([value])[0]
    if isinstance(value, Real) and not isinstance(value, Integral) and float(value).is_integer():
        return str(int(float(value)))
    return str(value)


def text_of(values: Sequence[bytes]) -> list[str]:
    """Bytes as text: UTF-8, or Latin-1 if one of them is none."""
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError:
        return [value.decode("latin-1") for value in values]


def _of_objects(
    site: str, values: Array, missing: Array | None
) -> tuple[Array, list[Any]] | Array:
    """Codes and what they stand for; or numbers or truth values, if all are."""
    if missing is not None:
        values = values.astype(object)
        values[missing] = None
    listed = values.tolist()
    try:
        places = {value: place for place, value in enumerate(dict.fromkeys(listed))}
    except TypeError:
        row = next(r for r, v in enumerate(listed) if not hasattr(type(v), "__hash__")
                   or type(v).__hash__ is None)  # fmt: skip
        raise ValueError(
            f"site {site!r}, row {row}: got a {type(listed[row]).__name__}, expected a label"
        ) from None
    kept = [value for value in places if not is_missing(value)]
    code = dict.fromkeys(places, -1)
    code.update((value, place) for place, value in enumerate(kept))
    codes = np.fromiter(map(code.__getitem__, listed), np.int64, len(listed))
    if kept and all(isinstance(value, bool | np.bool_) for value in kept):
        return np.array([*map(int, kept), -1])[codes], [False, True]
    if kept and all(isinstance(value, Real) for value in kept):
        numbers = np.array([*kept, -1], dtype=object)
        return _numbers_of(site, numbers, codes)
    raw = [value for value in kept if isinstance(value, bytes)]
    text = dict(zip(raw, text_of(raw), strict=True))
    for value in kept:
        if str(value).startswith("<") and " object at 0x" in str(value):  # no name at all
            raise ValueError(
                f"site {site!r} has type object and shape {values.shape}, expected labels, got "
                f"{type(value).__name__}"
            )
    return codes, [text.get(value, value) if isinstance(value, bytes) else value for value in kept]


def _numbers_of(site: str, numbers: Array, codes: Array) -> Array:
    try:
        return numbers.astype(np.float64)[codes]
    except OverflowError:
        raise ValueError(f"site {site!r} has numbers too large for labels") from None


def _whole_numbers(site: str, values: Array) -> Array:
    if values.dtype.kind not in NUMBERS:
        raise ValueError(f"site {site!r} has type {values.dtype}, expected integers or strings")
    gaps = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    bad = ~gaps & ((np.floor(values) != values) | (values > LARGEST) | (values < -LARGEST))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(f"site {site!r}, row {row}: got {values[row]}, expected a label")
    return np.where(gaps, -1, values).astype(np.int64)


def _refuse_negative(site: str, codes: Array) -> None:
    row = int(np.flatnonzero(codes < -1)[0])
    raise ValueError(
        f"site {site!r}, row {row}: got {codes[row]}, expected a label, or -1 if missing"
    )


def _coded(
    site: str, codes: Array, classes: int | tuple[str, ...] | None, whole: bool
) -> tuple[Array, tuple[str, ...]]:
    """Whole numbers that are codes, or names if the classes are whole numbers."""
    if codes.size and codes.min() < -1:
        _refuse_negative(site, codes)
    if isinstance(classes, tuple) and all(name.isdecimal() for name in classes):
        kept, places = np.unique(codes, return_inverse=True)
        first = int((kept < 0).sum())
        return _named(site, places - first, kept[first:].tolist(), classes, stored=True)
    if classes is None:
        most = int(codes.max(initial=-1))
        present = np.bincount(codes[codes >= 0], minlength=1) if most < len(codes) else None
        some = 0 if most < 0 else int((present > 0).sum() if present is not None
                                      else len(np.unique(codes[codes >= 0])))  # fmt: skip
        if whole and not some:
            raise ValueError(_no_label(site))
        if whole and some != most + 1:
            row = int(np.flatnonzero(codes == most)[0])
            raise ValueError(
                f"site {site!r}, row {row}: got {most}, but only {some} different "
                f"labels occur; expected all of 0..C-1 (-1 if missing), or classes={{{site!r}: C}}"
            )
        classes = most + 1
    names = tuple(map(str, range(classes))) if isinstance(classes, int) else classes
    if (codes >= len(names)).any():
        row = int(np.flatnonzero(codes >= len(names))[0])
        raise ValueError(
            f"site {site!r}, row {row}: got {codes[row]}, expected a label in "
            f"0..{len(names) - 1}, or -1 if missing"
        )
    return codes, names


def _no_label(site: str) -> str:
    return (
        f"site {site!r} has no label at all, expected some; a whole table for prediction is read "
        "with splits=None"
    )


def _named(
    site: str,
    codes: Array,
    values: list[Any],
    classes: int | tuple[str, ...] | None,
    *,
    stored: bool,
    whole: bool = True,
) -> tuple[Array, tuple[str, ...]]:
    """Codes of values that have names, with the codes of the classes."""
    names = [name_of(value) for value in values]
    if values and classes is not None and all(isinstance(value, Real) for value in values):
        numbers = _whole_numbers(site, np.array([*map(float, values), -1]))
        by_name = isinstance(classes, tuple) and (
            set(names) <= set(classes) or all(name.isdecimal() for name in classes)
        )
        if not by_name:
            return _coded(site, numbers[codes], classes, whole)
    if isinstance(classes, int):
        raise ValueError(
            f"site {site!r} holds names, expected classes={{{site!r}: names}} or none"
        )
    words = missing_words(names, classes or ())
    if words:
        rows = int(np.isin(codes, [p for p, n in enumerate(names) if n in words]).sum())
        if rows:
            tell_missing(site, rows, words)
    there = [name for name in names if name not in words]
    if stored and (twice := twice_in(there)) is not None:
        raise ValueError(f"site {site!r} has two classes of the name {twice!r}, expected one")
    if classes is None:
        classes = tuple(there if stored else sorted(set(there), key=_order(there)))
        if whole and not (classes and (codes >= 0).any()):
            raise ValueError(_no_label(site))
    place = {name: code for code, name in enumerate(classes)}
    lookup = np.array([*(place.get(name, -2) for name in names), -1])
    lookup[[p for p, name in enumerate(names) if name in words]] = -1
    found = lookup[codes]
    if (found == -2).any():
        row = int(np.flatnonzero(found == -2)[0])
        raise ValueError(
            f"site {site!r}, row {row}: {unknown('class', names[codes[row]], classes)}"
        )
    return found, classes


def _order(names: Sequence[str]) -> Callable[[str], Any]:
    """By number where all names are numbers, else by name."""
    try:
        numbers = {name: float(name) for name in names}
    except ValueError:
        return lambda name: name
    return lambda name: (numbers[name], name)
