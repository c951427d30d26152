"""Labels: from what users have to codes 0 .. C-1, and the names of the classes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_models.config import unknown
from ppl_models.data.tables.own_values import Array, Own, text

# Text that stands for no value: what pandas, anndata and R write where there is none. Named in
# ``classes=`` it is a class like any other.
NO_VALUE = ("", "nan", "NaN", "NA", "N/A", "<NA>", "NaT", "None", "null")


def is_label(own: Own, named: bool, data: bool = False) -> bool:
    """Whether a site holds labels: one integer, text or truth value a row.

    So are floats that are whole numbers where some are missing, which is how pandas keeps
    integers with gaps, and whatever the user names as a label.

    Args:
        own: The values.
        named: Whether the user says so.
        data: Whether it is the site of the data, of which one column is no label.
    """
    values = own.values
    column = values.ndim == 2 and values.shape[1] == 1
    if values.ndim != 1 and not (column and (named or not data)):
        return named
    if named or own.classes is not None or values.dtype.kind != "f":
        return True
    if column:
        return False
    gaps = np.isnan(values) | own.missing
    return bool(gaps.any() and not gaps.all() and (np.floor(values) == values)[~gaps].all())


def coded(
    site: str,
    own: Own,
    classes: int | Sequence[str] | None,
    lacking: bool = False,
    by_value: bool = False,
) -> tuple[Tensor, tuple[str, ...]]:
    """Codes ``(N,)``, -1 where the label is missing, and the names of the classes in order.

    Args:
        site: The site, for messages.
        own: The values, one a row.
        classes: Number of classes, or their names in order; as they occur when left out: in
            the order of the categories they came with, of numbers by size, of text by alphabet.
        lacking: Allow that no label is known, of rows to predict.
        by_value: Take each whole number that occurs for a class of that name, not for a code.

    Raises:
        ValueError: Naming site, row and value of what is no label.

    Warns:
        UserWarning: If text that stands for no value was taken as missing.
    """
    values, missing = own.values, own.missing
    if values.ndim > 1:
        if values.shape[1:] != (1,):
            raise ValueError(
                f"site {site!r} has rows of shape {values.shape[1:]}, expected one label a row"
            )
        values, missing = values[:, 0], missing[:, 0]
    if own.classes is not None:
        codes, present = values.astype(np.int64), own.classes
    elif values.dtype.kind == "O":
        codes, present = _places(values, missing)
    else:
        if by_value and classes is None and values.dtype.kind in "iuf":
            return _by_value(site, values, missing, lacking)
        return _numbers(site, values, missing, classes, lacking)
    codes = np.where(missing, -1, codes)
    if isinstance(classes, int):
        raise ValueError(
            f"site {site!r} holds names, expected classes={{{site!r}: names}} or none"
        )
    wanted = present if classes is None else given_names(site, classes)
    if classes is None and own.classes is not None and len(set(present)) < len(present):
        given_names(site, present)
    codes, wanted = _without_gaps(site, codes, present, wanted, classes is not None)
    code = {name: place for place, name in enumerate(wanted)}
    to = np.array([*(code.get(name, len(wanted)) for name in present), -1])
    found = to[codes]
    if (found == len(wanted)).any():
        row = int(np.flatnonzero(found == len(wanted))[0])
        raise ValueError(
            f"site {site!r}, row {row}: {unknown('class', present[codes[row]], wanted)}"
        )
    _check_some(site, found, wanted if classes is not None else (), lacking)
    return torch.from_numpy(found), wanted


def given_names(site: str, classes: Any) -> tuple[str, ...]:
    """Names of classes as they were given, as text.

    Raises:
        ValueError: If they are no list, or one comes twice.
    """
    if isinstance(classes, str | bytes) or not hasattr(classes, "__len__"):
        raise ValueError(
            f"classes of {site!r} are {classes!r}, expected their number or their names in a list"
        )
    names = tuple(text(name) for name in classes)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"classes of {site!r}: {twice!r} stands there twice, expected once")
    return names


def _places(values: Array, missing: Array) -> tuple[Array, tuple[str, ...]]:
    """Places of text among the different texts, which are sorted."""
    kept = values[~missing]
    different = set(kept)
    numbers = all(_is_number(name) for name in different if name.strip() not in NO_VALUE)
    names = sorted(different, key=_by_number if numbers else None)
    place = {name: at for at, name in enumerate(names)}
    codes = np.full(len(values), -1)
    codes[~missing] = [place[name] for name in kept]
    return codes, tuple(names)


def _is_number(name: str) -> bool:
    try:
        return bool(np.isfinite(float(name)))
    except ValueError:
        return False


def _by_number(name: str) -> tuple[float, str]:
    return float(name) if _is_number(name) else 0.0, name


def _without_gaps(
    site: str,
    codes: Array,
    present: tuple[str, ...],
    wanted: tuple[str, ...],
    named: bool,
) -> tuple[Array, tuple[str, ...]]:
    """Text that stands for no value is no class, unless the user names it."""
    gaps = [at for at, name in enumerate(present) if name.strip() in NO_VALUE]
    if named:
        gaps = [at for at in gaps if present[at] not in wanted]
    if not gaps:
        return codes, wanted
    hidden = np.isin(codes, gaps)
    if hidden.any():
        told = ", ".join(repr(present[at]) for at in gaps)
        warnings.warn(
            f"site {site!r}: {int(hidden.sum())} rows hold {told}, which is taken as missing; "
            f"name it in classes={{{site!r}: ...}} if it is a class",
            stacklevel=2,
        )
    if not named:
        wanted = tuple(name for at, name in enumerate(present) if at not in gaps)
    return np.where(hidden, -1, codes), wanted


def _by_value(
    site: str, values: Array, missing: Array, lacking: bool
) -> tuple[Tensor, tuple[str, ...]]:
    """Whole numbers as classes of their own names, by size; -1 is a missing one."""
    values, missing = _whole(site, values, missing)
    present, codes = np.unique(values, return_inverse=True)
    first = int(np.searchsorted(present, 0))
    codes = np.where(missing, -1, codes - first)
    _check_some(site, codes, (), lacking)
    return torch.from_numpy(codes), tuple(map(str, present[first:].tolist()))


def _numbers(
    site: str,
    values: Array,
    missing: Array,
    classes: int | Sequence[str] | None,
    lacking: bool,
) -> tuple[Tensor, tuple[str, ...]]:
    """Numbers are codes themselves; -1 is a missing one."""
    if values.dtype.kind == "b" and classes is None:
        classes = ("False", "True")
    codes, missing = _whole(site, values, missing)
    if classes is None:
        present = np.unique(codes[codes >= 0])
        _check_some(site, codes, (), lacking)
        if len(present) and len(present) != present[-1] + 1:
            row = int(np.flatnonzero(codes == present[-1])[0])
            raise ValueError(
                f"site {site!r}, row {row}: got {present[-1]}, but only {len(present)} different "
                f"labels occur; expected all of 0..C-1 (-1 if missing), or classes={{{site!r}: C}}"
            )
        classes = len(present)
    if isinstance(classes, int | np.integer):
        names = tuple(map(str, range(classes)))
    else:
        names = given_names(site, classes)
    if (codes >= len(names)).any():
        row = int(np.flatnonzero(codes >= len(names))[0])
        raise ValueError(
            f"site {site!r}, row {row}: got {codes[row]}, expected a label in "
            f"0..{len(names) - 1}, or -1 if missing"
        )
    return torch.from_numpy(codes), names


def _whole(site: str, values: Array, missing: Array) -> tuple[Array, Array]:
    """Whole numbers of at least 0, -1 where they are missing, and where that is."""
    if values.dtype.kind == "f":
        missing = missing | np.isnan(values)
        values = np.where(missing, -1, values)
    bad = (np.floor(values) != values) | (np.abs(values.astype(float)) >= 2**62)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(f"site {site!r}, row {row}: got {values[row]}, expected a label")
    codes = np.where(missing, -1, values.astype(np.int64))
    if (codes < -1).any():
        row = int(np.flatnonzero(codes < -1)[0])
        raise ValueError(
            f"site {site!r}, row {row}: got {codes[row]}, expected a label, or -1 if missing"
        )
    return codes, codes < 0


def _check_some(site: str, codes: Array, wanted: Sequence[str], lacking: bool) -> None:
    if not lacking and not wanted and not (codes >= 0).any():
        raise ValueError(f"site {site!r} has no label at all, expected some")
