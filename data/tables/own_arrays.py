"""Your own arrays as a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_models.config import unknown
from ppl_models.data.tables.recipe import assemble
from ppl_models.data.tables.splits import split
from ppl_models.data.tables.table import Dataset, Table

Array = np.ndarray[Any, Any]
Splits = tuple[float, float, float]
SPLITS: Splits = (0.7, 0.1, 0.2)


def from_arrays(
    x: Any,
    y: Any = None,
    *,
    name: str = "arrays",
    labelled: int | Mapping[str, int] | None = None,
    classes: Mapping[str, int | Sequence[str]] | None = None,
    splits: Splits = SPLITS,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    **more: Any,
) -> Dataset:
    """A data set from numpy arrays, torch tensors or pandas objects with the same rows.

    One value per row that is an integer, a string or a boolean is a label, and so are floats
    that are whole numbers where some are NaN, which is how pandas keeps integers with gaps.
    A label that is -1, None or NaN is missing. All else are float32 vectors, of which a row is
    missing where all its entries are NaN; images ``(N, H, W, ...)`` are flattened and keep their
    shape beside.

    Rows with a missing value go to the training rows, on top of their split; the others are
    split at random, stratified by the first label site.

    Args:
        x: The site ``x``.
        y: The site ``y``.
        name: Name of the data set.
        labelled: Training rows that keep their label, balanced over the classes (by site
            where there are several label sites); all if None.
        classes: Number of classes, or their names in order, by label site. When left out:
            the strings that occur, sorted, or ``0 .. max``.
        splits: Shares, or numbers, of training, validation and test rows.
        shapes: Image shapes of vectors that come flattened, by site.
        seed: Seed of the split and of the labels that are kept.
        more: Further sites, by name.

    Raises:
        ValueError: Naming the site, row and column of what does not fit.
    """
    sites = {"x": x, **({} if y is None else {"y": y}), **more}
    options = {"splits": list(splits), "classes": _plain(classes), "shapes": _plain(shapes)}
    return build(
        sites, name, labelled, classes or {}, splits, shapes or {}, seed, options, source=name
    )


def build(
    sites: Mapping[str, Any],
    name: str,
    labelled: int | Mapping[str, int] | None,
    classes: Mapping[str, int | Sequence[str]],
    splits: Splits,
    shapes: Mapping[str, Sequence[int]],
    seed: int,
    options: Mapping[str, Any],
    source: str,
) -> Dataset:
    """What :func:`from_arrays` does, for readers, which have a name for the source."""
    if len(splits) != 3:
        raise ValueError(f"splits are {splits}, expected three: training, validation, test")
    for site in (*classes, *shapes):
        if site not in sites:
            raise ValueError(unknown("site", site, sites))
    values: dict[str, Tensor] = {}
    observed: dict[str, Tensor] = {}
    names: dict[str, tuple[str, ...]] = {}
    forms = {site: tuple(shape) for site, shape in shapes.items()}
    for site, given in sites.items():
        array = _array(site, given)
        if _is_label(array, site in classes):
            values[site], names[site] = _labels(site, array, classes.get(site))
            observed[site] = values[site] >= 0
        else:
            values[site] = _vectors(site, array)
            missing = values[site].isnan().all(-1)
            if missing.any() and not missing.all():
                observed[site] = ~missing
                values[site][missing] = 0
            if array.ndim > 2:
                forms.setdefault(site, array.shape[1:])
    # Checks it all once, in the rows as they were given.
    table = Table(name, values, observed, classes=names, shapes=forms)

    complete = torch.ones(len(table), dtype=torch.bool)
    for mask in observed.values():
        complete &= mask
    rows = complete.nonzero().flatten()
    label = next(iter(names), None)
    parts = split(len(rows), splits, seed, None if label is None else values[label][rows])
    train, validation, test = (rows[part] for part in parts)
    train = torch.cat((train, (~complete).nonzero().flatten())).sort().values
    tables = []
    for part, index in (("train", train), ("validation", validation), ("test", test)):
        tables.append(table.rows(index))
        tables[-1].name = f"{name}/{part}"
    return assemble(name, *tables, labelled=labelled, seed=seed, options=options, source=source)


def _array(site: str, given: Any) -> Array:
    array: Array = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if array.ndim == 0 or not array.size:
        raise ValueError(
            f"site {site!r} has shape {array.shape}, expected at least one row of one entry"
        )
    return array


def _is_label(array: Array, has_classes: bool) -> bool:
    if array.ndim > 1:
        return False
    if array.dtype.kind != "f":
        return True
    gaps = np.isnan(array)
    return has_classes or bool(gaps.any() and (np.floor(array) == array)[~gaps].all())


def _vectors(site: str, array: Array) -> Tensor:
    try:
        flat = np.asarray(array, dtype=np.float32).reshape(len(array), -1)
    except (TypeError, ValueError):
        raise ValueError(
            f"site {site!r} has type {array.dtype} and shape {array.shape}, expected numbers"
        ) from None
    return torch.from_numpy(flat.copy())


def _labels(
    site: str, array: Array, classes: int | Sequence[str] | None
) -> tuple[Tensor, tuple[str, ...]]:
    """Integers with -1 for missing ones, and the class names."""
    if array.dtype.kind in "OUS":
        array = _objects(array)
    if array.dtype.kind in "OUS":
        return _strings(site, array, classes)
    if array.dtype.kind == "b" and classes is None:
        classes = ("False", "True")
    if array.dtype.kind == "f":
        whole = np.floor(array) == array
        if not (whole | np.isnan(array)).all():
            row = int(np.flatnonzero(~whole & ~np.isnan(array))[0])
            raise ValueError(f"site {site!r}, row {row}: got {array[row]}, expected a label")
        array = np.where(np.isnan(array), -1, array)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"site {site!r} has type {array.dtype}, expected integers or strings")
    codes = array.astype(np.int64)
    if (codes < -1).any():
        row = int(np.flatnonzero(codes < -1)[0])
        raise ValueError(
            f"site {site!r}, row {row}: got {codes[row]}, expected a label, or -1 if missing"
        )
    if classes is None:
        present = np.unique(codes[codes >= 0])
        if not len(present):
            raise ValueError(f"site {site!r} has no label at all, expected some")
        if len(present) != present[-1] + 1:
            row = int(np.flatnonzero(codes == present[-1])[0])
            raise ValueError(
                f"site {site!r}, row {row}: got {present[-1]}, but only {len(present)} different "
                f"labels occur; expected all of 0..C-1 (-1 if missing), or classes={{{site!r}: C}}"
            )
        classes = len(present)
    names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
    if (codes >= len(names)).any():
        row = int(np.flatnonzero(codes >= len(names))[0])
        raise ValueError(
            f"site {site!r}, row {row}: got {codes[row]}, expected a label in "
            f"0..{len(names) - 1}, or -1 if missing"
        )
    return torch.from_numpy(codes), names


def _objects(array: Array) -> Array:
    # What pandas and lists with gaps give: look at the values to know what they are.
    missing = np.array([_is_missing(v) for v in array], dtype=bool)
    kept = [v for v, gap in zip(array, missing, strict=True) if not gap]
    if any(isinstance(v, str | bytes) for v in kept) or not kept:
        out = np.full(len(array), None, dtype=object)
        out[~missing] = [v.decode() if isinstance(v, bytes) else str(v) for v in kept]
        return out
    filled = np.full(len(array), -1.0)
    filled[~missing] = np.asarray(kept, dtype=float)
    return filled


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType") or value != value


def _strings(
    site: str, array: Array, classes: int | Sequence[str] | None
) -> tuple[Tensor, tuple[str, ...]]:
    present = sorted({v for v in array if v is not None})
    if isinstance(classes, int):
        raise ValueError(
            f"site {site!r} holds names, expected classes={{{site!r}: names}} or none"
        )
    names = tuple(present) if classes is None else tuple(classes)
    if not names:
        raise ValueError(f"site {site!r} has no label at all, expected some")
    code = {name: place for place, name in enumerate(names)}
    for row, value in enumerate(array):
        if value is not None and value not in code:
            raise ValueError(f"site {site!r}, row {row}: {unknown('class', value, names)}")
    return torch.tensor([-1 if v is None else code[v] for v in array]), names


def _plain(options: Mapping[str, Any] | None) -> dict[str, Any]:
    return {k: v if isinstance(v, int) else list(v) for k, v in (options or {}).items()}
