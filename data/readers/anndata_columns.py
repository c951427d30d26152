"""Columns of the tables in h5ad files, in the layouts of anndata before 0.7 and since."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import h5py
import numpy as np

from ppl_models.config import unknown
from ppl_models.data.tables.own_values import Array, Own, text


def column(file: h5py.File, name: str) -> Own:
    """A column of the table of cells; categories keep their order.

    Args:
        file: The open file.
        name: Column of ``obs``.

    Raises:
        ValueError: If there is no such column, or its codes are out of range.
    """
    obs = file["obs"]
    if isinstance(obs, h5py.Dataset):  # before anndata 0.7: one compound array
        known = obs.dtype.names or ()
        if name not in known:
            raise ValueError(unknown("obs column", name, known))
        values, categories = obs[name], file.get(f"uns/{name}_categories")
    else:
        if name not in obs:
            raise ValueError(unknown("obs column", name, sorted(obs)))
        values, categories = obs[name], obs.get(f"__categories/{name}")
        if isinstance(values, h5py.Group):
            if "codes" not in values:
                return _nullable(name, values)
            values, categories = values["codes"], values["categories"]
    if categories is None:
        return _plain(values[()])
    return _categories(values[()], texts(categories))


def index(file: h5py.File, table: str) -> tuple[str, ...]:
    """Names of the rows of ``obs``, ``var`` or ``raw/var``; none if they have none."""
    found = file.get(table)
    if isinstance(found, h5py.Group):
        name = found.attrs.get("_index", "_index")
        name = name.decode() if isinstance(name, bytes) else str(name)
        names = texts(found[name]) if name in found else ()
    elif isinstance(found, h5py.Dataset) and "index" in (found.dtype.names or ()):
        names = tuple(map(text, found["index"].tolist()))
    else:
        return ()
    return names if any(names) else ()


def texts(values: Any) -> tuple[str, ...]:
    """The text of an array, or of a group of text with gaps, where a gap is ``"nan"``."""
    if isinstance(values, h5py.Group):
        words: Iterable[Any] = values["values"][()].tolist()
        gaps = values["mask"][()].tolist() if "mask" in values else ()
        return tuple("nan" if gap else text(w) for w, gap in zip(words, gaps, strict=True))
    return tuple(map(text, values[()].tolist()))


def _nullable(name: str, group: h5py.Group) -> Own:
    """Integers, truth values or text with a mask, as pandas' nullable kinds are written."""
    if "values" not in group or "mask" not in group:
        raise ValueError(f"obs column {name!r} is a group of {', '.join(group) or 'nothing'}")
    plain = _plain(group["values"][()])
    mask = group["mask"][()].astype(bool)
    if mask.shape != plain.values.shape:
        raise ValueError(f"obs column {name!r} has a mask of shape {mask.shape}")
    return Own(plain.values, plain.missing | mask)


def _plain(values: Array) -> Own:
    if values.dtype.kind in "OSU":
        words = np.empty(len(values), dtype=object)
        words[:] = [text(value) for value in values.tolist()]
        return Own(words, np.zeros(len(values), bool))
    return Own(values, np.zeros(values.shape, bool))


def _categories(codes: Array, names: tuple[str, ...]) -> Own:
    codes = codes.astype(np.int64)
    if ((codes < -1) | (codes >= len(names))).any():
        raise ValueError(f"codes reach from {codes.min()} to {codes.max()}")
    return Own(codes, codes < 0, names)
