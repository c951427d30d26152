"""h5ad and h5mu files as anndata 0.12 and mudata 0.3 lay them out, written by h5py alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.sparse

CELLS, GENES = 60, 7
WORDS = np.array(["myc", "non-targeting", "tp53"], dtype=object)
MISSING = np.arange(CELLS) % 5 == 0


def counts_of(cells: int = CELLS, genes: int = GENES, seed: int = 0) -> np.ndarray:
    """Counts, with a first gene that no cell lacks, and cells that lack all others."""
    counts = np.random.default_rng(seed).poisson(0.7, (cells, genes))
    counts[:, 0] += 1
    counts[3, 1:] = 0
    return counts


def element(parent: h5py.Group, name: str, kind: str, version: str, **arrays: Any) -> h5py.Group:
    """A group of arrays with the attributes by which anndata tells what it is."""
    group = parent.create_group(name)
    group.attrs["encoding-type"], group.attrs["encoding-version"] = kind, version
    for key, values in arrays.items():
        array(group, key, values)
    return group


def array(parent: h5py.Group, name: str, values: np.ndarray) -> None:
    """Numbers, or texts of any length."""
    if values.dtype.kind == "O":
        made = parent.create_dataset(name, data=values.astype("S"), dtype=h5py.string_dtype())
        kind = "string-array"
    else:
        made, kind = parent.create_dataset(name, data=values), "array"
    made.attrs["encoding-type"], made.attrs["encoding-version"] = kind, "0.2.0"


def values(parent: h5py.Group, name: str, counts: np.ndarray, form: str) -> None:
    """A matrix: ``dense``, ``csr`` or ``csc``, with indices of 32 or 64 bits (``csr int64``)."""
    kind, _, width = form.partition(" ")
    if kind == "dense":
        array(parent, name, counts.astype(np.float32))
        return
    made = getattr(scipy.sparse, f"{kind}_matrix")(counts.astype(np.float32))
    index = np.dtype(width or "int32")
    group = element(
        parent, name, f"{kind}_matrix", "0.1.0", data=made.data,
        indices=made.indices.astype(index), indptr=made.indptr.astype(index),
    )  # fmt: skip
    group.attrs["shape"] = np.array(counts.shape)


def table(parent: h5py.Group, name: str, rows: int, nullable: bool) -> h5py.Group:
    """A table with an index of texts, which pandas 3 may let anndata write as nullable ones."""
    made = element(parent, name, "dataframe", "0.2.0")
    made.attrs["_index"] = "_index"
    names = np.array([f"{name[-3:]}{k}" for k in range(rows)], dtype=object)
    if nullable:
        mask = np.zeros(rows, bool)
        element(made, "_index", "nullable-string-array", "0.1.0", values=names, mask=mask)
    else:
        array(made, "_index", names)
    return made


def columns(obs: h5py.Group) -> dict[str, tuple[list[int], tuple[str, ...]]]:
    """Columns of all kinds, and by name the codes and classes that they should come to."""
    code = np.arange(CELLS) % 3
    hidden = np.where(MISSING, -1, code)
    categorical = {"categories": WORDS[[2, 0, 1]]}  # in an order of their own
    element(obs, "category", "categorical", "0.2.0", codes=code.astype(np.int8), **categorical)
    element(obs, "gaps", "categorical", "0.2.0", codes=hidden.astype(np.int8), **categorical)
    sizes = {"categories": np.array([10, 2, 33])}
    element(obs, "sizes", "categorical", "0.2.0", codes=code.astype(np.int8), **sizes)
    array(obs, "text", WORDS[code])
    nullable = {"mask": MISSING}
    blank = np.where(MISSING, "", WORDS[code])
    element(obs, "string", "nullable-string-array", "0.1.0", values=blank, **nullable)
    element(obs, "integer", "nullable-integer", "0.1.0", values=code + 4, **nullable)
    element(obs, "boolean", "nullable-boolean", "0.1.0", values=code == 1, **nullable)
    array(obs, "truth", code == 1)
    words = tuple(WORDS)
    true = np.where(MISSING, -1, code == 1)
    return {
        "category": (code.tolist(), (words[2], words[0], words[1])),
        "gaps": (hidden.tolist(), (words[2], words[0], words[1])),
        "sizes": (code.tolist(), ("10", "2", "33")),
        "text": (code.tolist(), words),
        "string": (hidden.tolist(), words),
        "integer": (hidden.tolist(), ("4", "5", "6")),
        "boolean": (true.tolist(), ("False", "True")),
        "truth": ((code == 1).astype(int).tolist(), ("False", "True")),
    }


def write(path: Path, form: str, counts: np.ndarray, nullable: bool = False) -> dict[str, Any]:
    """A file of all that is above; returns what its columns should come to."""
    with h5py.File(path, "w") as file:
        file.attrs["encoding-type"], file.attrs["encoding-version"] = "anndata", "0.1.0"
        values(file, "X", counts, form)
        element(file, "layers", "dict", "0.1.0")
        values(file["layers"], "twice", 2 * counts, form)
        element(file, "raw", "raw", "0.1.0")
        more = np.concatenate([counts, counts[:, :1]], 1)
        values(file["raw"], "X", more, form)
        table(file["raw"], "var", more.shape[1], nullable)
        table(file, "var", counts.shape[1], nullable)
        expected = {}
        obs = table(file, "obs", len(counts), nullable)
        if len(counts) == CELLS:
            expected = columns(obs)
    return expected


def cell_table(parent: h5py.Group, name: str, names: list[str], **columns: np.ndarray) -> None:
    """A table with these names of rows, and categories of texts."""
    made = element(parent, name, "dataframe", "0.2.0")
    made.attrs["_index"] = "_index"
    array(made, "_index", np.array(names, dtype=object))
    for key, given in columns.items():
        if given.dtype.kind == "O":
            kept, codes = np.unique(given.astype(str), return_inverse=True)
            kinds = {"codes": codes.astype(np.int8), "categories": kept.astype(object)}
            element(made, key, "categorical", "0.2.0", **kinds)
        else:
            array(made, key, given)


def modality(
    parent: h5py.Group, counts: np.ndarray, form: str, cells: list[str], features: list[str],
    **columns: np.ndarray,
) -> None:  # fmt: skip
    """What anndata writes of one modality."""
    parent.attrs["encoding-type"], parent.attrs["encoding-version"] = "anndata", "0.1.0"
    values(parent, "X", counts, form)
    element(parent, "layers", "dict", "0.1.0")
    values(parent["layers"], "half", counts / 2, form)
    cell_table(parent, "obs", cells, **columns)
    cell_table(parent, "var", features)


def write_mudata(
    path: Path, cells: list[str], modalities: dict[str, dict[str, Any]], **columns: np.ndarray
) -> None:
    """An h5mu file: modalities with the arguments of :func:`modality`, and columns of all cells.

    As mudata does, it begins with a block that says what it is.
    """
    with h5py.File(path, "w", userblock_size=512) as file:
        file.attrs["encoding-type"], file.attrs["encoding-version"] = "MuData", "0.1.0"
        file.attrs["axis"] = 0
        cell_table(file, "obs", cells, **columns)
        mod, at = file.create_group("mod"), element(file, "obsmap", "dict", "0.1.0")
        mod.attrs["mod-order"] = np.array(list(modalities), dtype=object)
        for name, given in modalities.items():
            modality(mod.create_group(name), **given)
            row = {cell: k + 1 for k, cell in enumerate(given["cells"])}
            array(at, name, np.array([row.get(cell, 0) for cell in cells], np.uint32))
    with open(path, "r+b") as raw:
        raw.write(b"MuData (format-version=0.1.0;creator=muon;creator-version=0.3.10)")
