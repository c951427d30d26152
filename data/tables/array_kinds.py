"""What somebody gives for a site, whatever library it came from, as one kind of array."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_models.data.tables.frame_columns import column, vector_or_column
from ppl_models.data.tables.given import Given, names_of, row_names_of

LARGEST = 8 << 30  # bytes of a sparse matrix made dense, where the memory is not known


def take(site: str, given: Any) -> Given:
    """What was given for a site, as an array.

    Args:
        site: Its name, for messages.
        given: A numpy array (masked or not), a tensor, a list, a sparse matrix of scipy or torch,
            a pandas column or an xarray variable.

    Raises:
        ValueError: If it is no array, saying which function takes it, or too large.
    """
    if isinstance(given, Given):
        return given
    for is_of, read in READERS:
        if is_of(given):
            return read(site, given)
    # Tables of polars and pyarrow make arrays, too, but without the names of their columns.
    table = hasattr(given, "data_vars") or hasattr(given, "to_pandas")
    if table or not hasattr(given, "__array__"):
        raise ValueError(f"site {site!r} is {_kind(given)}, expected an array{_instead(given)}")
    try:
        return Given(np.asarray(given))
    except Exception as error:  # of a library we do not know
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"site {site!r} is {_kind(given)} that makes no array ({why})") from None


def _kind(given: Any) -> str:
    name = type(given).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _instead(given: Any) -> str:
    """Which function takes what is no array."""
    kinds = {base.__name__ for base in type(given).__mro__}
    if "AnnData" in kinds:
        return "; data.from_anndata takes it"
    if "Dataset" in kinds and hasattr(given, "data_vars"):
        return "; data.from_xarray takes it"
    if hasattr(given, "to_pandas"):
        return "; make a pandas table of it (to_pandas()) for data.from_frame"
    if isinstance(given, Mapping):
        return "; give each of its arrays by name, from_arrays(**arrays)"
    if isinstance(given, str | Path):
        return "; data.load takes the path of a file"
    if "DataLoader" in kinds or hasattr(given, "__getitem__"):
        return "; stack its rows first (torch.stack)"
    if isinstance(given, Iterable) and not isinstance(given, Collection):
        return "; make a list of it first"
    return ""


def _tensor(site: str, tensor: Tensor) -> Given:
    tensor = tensor.detach()
    if tensor.is_meta:
        raise ValueError(f"site {site!r} is a tensor on device meta, which holds no values")
    if tensor.is_nested:
        raise ValueError(f"site {site!r} is a nested tensor, expected rows of one length")
    if tensor.layout != torch.strided:
        _check_size(site, tensor.shape)
        tensor = tensor.to_dense()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.is_floating_point() and tensor.dtype not in (
        torch.float16,
        torch.float32,
        torch.float64,
    ):
        tensor = tensor.float()  # bfloat16 and what has 8 bits: numpy has no such types
    return Given(tensor.cpu().resolve_conj().resolve_neg().numpy())


def _masked(site: str, array: Any) -> Given:
    missing = np.ma.getmaskarray(array)
    values = np.asarray(array.data)
    if missing.dtype.names or not missing.any():
        return Given(values)
    if values.dtype.kind == "f":
        values = np.where(missing, np.nan, values)
    return Given(values, missing)


def _list(site: str, given: Any) -> Given:
    if given and all(isinstance(row, Tensor) for row in given):
        try:
            return _tensor(site, torch.stack(list(given)))
        except RuntimeError as error:
            raise ValueError(f"site {site!r} is a list of tensors: {error}") from None
    kinds = set(map(type, given))
    if {str, bool, np.bool_, type(None)} & kinds and not {list, tuple, np.ndarray} & kinds:
        values = np.empty(len(given), dtype=object)  # numpy would make text or numbers of all
        values[:] = list(given)
        return Given(values)
    try:
        return Given(np.asarray(given))
    except (ValueError, TypeError, OverflowError) as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"site {site!r} is a list that makes no array ({why})") from None


def _sparse(site: str, matrix: Any) -> Given:
    _check_size(site, matrix.shape)
    return Given(matrix.toarray())


def _check_size(site: str, shape: tuple[int, ...]) -> None:
    size = 4 * int(np.prod([float(n) for n in shape]))
    try:
        most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        most = LARGEST
    if size > most:
        raise ValueError(
            f"site {site!r} is a sparse matrix of shape {tuple(shape)}, which takes "
            f"{size / 2**30:.1f} GiB as a table, expected at most {most / 2**30:.1f} GiB; choose "
            "some of its rows or columns first"
        )


def _xarray(site: str, array: Any) -> Given:
    found = take(site, array.values)
    units = array.attrs.get("units")
    columns = None
    if array.ndim == 2 and array.dims[1] in array.coords:
        columns = names_of(array.coords[array.dims[1]].to_index())
    rows = array.dims[0] in array.coords if array.ndim else False
    return replace(
        found,
        columns=columns,
        units=None if units is None else str(units),
        row_names=row_names_of(array.coords[array.dims[0]].to_index()) if rows else None,
    )


def _is_frame(given: Any) -> bool:
    return hasattr(given, "iloc") and hasattr(given, "columns")


READERS: tuple[tuple[Callable[[Any], bool], Callable[[str, Any], Given]], ...] = (
    (lambda given: isinstance(given, Tensor), _tensor),
    (lambda given: isinstance(given, np.ma.MaskedArray), _masked),
    (lambda given: isinstance(given, np.ndarray), lambda site, given: Given(np.asarray(given))),
    (lambda given: isinstance(given, list | tuple | range), _list),
    (_is_frame, vector_or_column),
    (lambda given: hasattr(given, "isna") and hasattr(given, "to_numpy"), column),
    (lambda given: hasattr(given, "toarray") and hasattr(given, "nnz"), _sparse),
    (lambda given: hasattr(given, "coords") and hasattr(given, "dims")
     and not hasattr(given, "data_vars"), _xarray),
    (np.isscalar, lambda site, given: _scalar(site, given)),
)  # fmt: skip


def _scalar(site: str, given: Any) -> Given:
    if isinstance(given, str | bytes):
        raise ValueError(f"site {site!r} is {_kind(given)}, expected an array{_instead(given)}")
    return Given(np.asarray(given))
