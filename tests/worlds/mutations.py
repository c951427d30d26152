"""Damaged files: what is changed in a valid one, and what a reader may make of it.

A target is a kind of file; ``TARGETS`` has those of the data readers, and others add theirs.
"""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import scipy.io
import scipy.sparse
import torch
from PIL import Image
from worlds import candle_files, h5ad_files

from ppl_models import data
from ppl_models.data.factors import published
from ppl_models.data.readers import candle, cifar, factor_grids, idx, omniglot, views

ROWS = np.arange(40)
KINDS = ("bits", "truncated", "inserted", "swapped", "zeros", "claim")
CLAIMS = (0, 1, 0xFF, 0x7FFF, 0xFFFF, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1)


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        make: Writes valid files into a folder; the one it returns is damaged.
        read: What a reader makes of the folder; to be compared by :func:`same`.
        checksum: Whether a checksum covers all that counts. Where there is none, a changed
            value cannot be told from one that was written, and only structure is checked.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    checksum: bool


def mutated(content: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """A file with one damage of a kind of ``KINDS``."""
    size = len(content)
    place, length = int(rng.integers(size)), int(2 ** rng.uniform(0, 12))
    if rng.random() < 0.4:  # structure stands at the ends of many formats
        place = min(size - 1, int(rng.integers(min(size, 600))))
        place = place if rng.random() < 0.5 else size - 1 - place
    out = bytearray(content)
    if kind == "bits":
        for bit in range(int(rng.integers(1, 9))):
            out[min(size - 1, place + bit * length // 8)] ^= 1 << int(rng.integers(8))
    elif kind == "truncated":
        del out[place:]
    elif kind == "inserted":
        out[place:place] = rng.bytes(length)
    elif kind == "swapped":
        other = int(rng.integers(size))
        length = min(length, size - place, size - other)
        out[place : place + length], out[other : other + length] = (
            content[other : other + length],
            content[place : place + length],
        )
    elif kind == "zeros":
        out[place : place + length] = bytes(len(out[place : place + length]))
    else:
        order = str(rng.choice(("little", "big")))
        width = int(rng.choice((2, 4, 8)))
        claim = int(rng.choice(np.array(CLAIMS, np.uint64))) % 256**width
        out[place : place + width] = claim.to_bytes(width, order)[: size - place]
    return bytes(out)


def verdict(target: Target, folder: Path, path: Path, expected: Any) -> tuple[str, str]:
    """``same``, ``refused``, ``silent``, ``unnamed`` or ``traceback``, and the message."""
    try:
        found = target.read(folder)
    except (ValueError, FileNotFoundError) as error:
        named = path.name in str(error) and "\n" not in str(error) and len(str(error)) < 1000
        return "refused" if named else "unnamed", str(error)[:500]
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"[:500]
    return ("same" if same(found, expected) else "silent"), ""


def same(a: Any, b: Any) -> bool:
    """Whether two results are equal, bit by bit where they are numbers."""
    if isinstance(a, torch.Tensor):
        a = a.numpy()
        b = b.numpy() if isinstance(b, torch.Tensor) else b
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray)
            and (a.dtype, a.shape) == (b.dtype, b.shape)
            and a.tobytes() == b.tobytes()
        )
    return bool(a == b)


def tables(dataset: data.Dataset) -> Any:
    """All that a data set gives."""
    parts = [dataset.train, dataset.validation, dataset.test]
    return [
        [{s: v[:] for s, v in t.sites.items()}, dict(t.observed), t.numbers, dict(t.classes)]
        for t in parts
    ]


def _labels() -> np.ndarray:
    return ROWS % 3


def _pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _idx(pack: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for name, array in (("labels", _labels().astype(np.uint8)), ("images", _pixels(40, 9, 9))):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (folder / name).write_bytes(pack(head + array.tobytes()))
        return folder / "images"

    return make


def _zipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def _batches() -> dict[str, bytes]:
    rows = range(10)
    return {
        name: pickle.dumps(
            {b"data": _pixels(10, 3072), b"labels": [r % 10 for r in rows], b"names": [b"x"] * 10},
            2,
        )
        for name in cifar.NAMES
    }


def _cifar_folder(folder: Path) -> Path:
    (folder / cifar.BATCHES).mkdir()
    for name, content in _batches().items():
        (folder / cifar.BATCHES / name).write_bytes(content)
    return folder / cifar.BATCHES / "data_batch_3"


def _cifar_tar(folder: Path) -> Path:
    with tarfile.open(fileobj=(packed := BytesIO()), mode="w") as archive:
        for name, content in _batches().items():
            member = tarfile.TarInfo(f"{cifar.BATCHES}/{name}")
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
    (folder / cifar.TAR).write_bytes(_zipped(packed.getvalue()))
    return folder / cifar.TAR


def _cifar_npz(folder: Path) -> Path:
    x, y = _pixels(40, 32, 32, 3), (ROWS % 10).astype(np.uint8)
    np.savez_compressed(folder / "cifar10.npz", train_x=x, train_y=y, test_x=x, test_y=y)
    return folder / "cifar10.npz"


def _omniglot(folder: Path) -> Path:
    path = folder / "images_background_small1.zip"
    ink = np.random.default_rng(0).random((40, 105, 105)) < 0.05
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for k in range(40):
            Image.fromarray(ink[k]).save(file := BytesIO(), "PNG")
            name = f"{path.stem}/Greek/character{k // 20:02}/0001_{k % 20 + 1:02}.png"
            archive.writestr(name, file.getvalue())
    return path


def _drawings(folder: Path) -> Any:
    found = omniglot.read(root=folder)
    return [found.images, found.characters, found.names, found.drawers]


def _norb(folder: Path) -> Path:
    array = _pixels(20, 2, 9, 9)
    head = struct.pack("<6i", 0x1E3D4C55, 4, *array.shape)
    (folder / "norb-dat.mat").write_bytes(head + array.tobytes())
    return folder / "norb-dat.mat"


def _cars(compressed: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "car_1_mesh.mat"
        scipy.io.savemat(path, {"im": _pixels(4, 4, 3, 4, 24)}, do_compression=compressed)
        return path

    return make


def _candle(damaged: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        candle_files.write(folder, [(1, 0, 1, 3, 2, 0), (4, 2, 0, 5, 15, 1)])
        return folder / damaged

    return make


def _scenes(folder: Path) -> Any:
    made = candle.candle(str(folder))
    found = made.sites(made.classes(made.cells), np.random.default_rng(0))
    return [made.cells, found["x"], found["box"]]


SPRITES = {"shape": ("a", "b"), "scale": (0.5, 1.0), "pos_x": (0.0, 0.5, 1.0)}


def _grid(ending: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / f"{factor_grids.DSPRITES_STEM}.{ending}"
        images = (_pixels(12, 64, 64) < 20).astype(np.uint8)
        if ending == "npz":
            np.savez_compressed(path, imgs=images)
        else:
            with h5py.File(path, "w") as file:
                file.create_dataset("imgs", data=images, chunks=(4, 64, 64), compression="gzip")
        return path

    return make


def _sprites(folder: Path) -> Any:
    with (
        tempfile.TemporaryDirectory() as built,
        mock.patch.dict(os.environ, PPL_DATA=built),
        mock.patch.object(published, "DSPRITES", SPRITES),
    ):
        made = factor_grids.dsprites(str(folder))
        return made.render(made.classes(np.arange(12)), np.random.default_rng(0))


def _npz(folder: Path) -> Path:
    np.savez(folder / "own.npz", x=_pixels(40, 5), y=np.array(["b", "a", "ü"])[_labels()])
    return folder / "own.npz"


def _arrays(folder: Path) -> Path:
    with h5py.File(folder / "own.h5", "w") as file:
        file.create_dataset("x", data=np.sin(_pixels(40, 5)), chunks=(16, 5), compression="gzip")
        file["y"] = _labels()
        file["kind"] = np.array(["b", "a", "ü"], dtype=object)[_labels()]
    return folder / "own.h5"


def _h5ad(form: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        counts, text = _pixels(40, 6) // 60, h5py.string_dtype()
        path = folder / "cells.h5ad"
        with h5py.File(path, "w") as file:
            if form == "old":
                file["X"] = counts.astype(np.float32)
                obs = np.zeros(40, [("index", "S8"), ("gene", "i1")])
                obs["gene"] = _labels()
                file["obs"], file["var"] = obs, np.zeros(6, [("index", "S8")])
                file["uns/gene_categories"] = np.array([b"a", b"b", b"c"])
            else:
                packed, group = scipy.sparse.csr_matrix(counts), file.create_group("X")
                for name in ("data", "indices", "indptr"):
                    group.create_dataset(
                        name, data=getattr(packed, name), chunks=(32,), compression="gzip"
                    )
                group.attrs["encoding-type"], group.attrs["shape"] = "csr_matrix", counts.shape
                file["obs/gene/codes"] = _labels().astype(np.int8)
                file["obs/gene/categories"] = np.array(["a", "b", "c"], dtype=text)
                file["var/_index"] = np.array([f"g{k}" for k in range(6)], dtype=text)
                file["var"].attrs["_index"] = "_index"
        return path

    return make


def _two() -> dict[str, dict[str, Any]]:
    """Two modalities of 40 cells, of which each lacks some."""
    cells = [f"c{k}" for k in ROWS]
    return {
        "rna": {
            "counts": _pixels(30, 6) // 60, "form": "csr", "cells": cells[:30],
            "features": [f"g{k}" for k in range(6)], "kind": np.array(list("abc" * 10), object),
        },
        "prot": {
            "counts": _pixels(25, 3) // 9, "form": "dense", "cells": cells[:14:-1],
            "features": ["CD3", "CD4", "CD8"],
        },
    }  # fmt: skip


def _h5mu(folder: Path) -> Path:
    kinds = np.array(list("xy" * 20), object)
    h5ad_files.write_mudata(folder / "two.h5mu", [f"c{k}" for k in ROWS], _two(), lane=kinds)
    return folder / "two.h5mu"


def _beside(damaged: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for name, given in _two().items():
            with h5py.File(folder / f"{name}.h5ad", "w") as file:
                h5ad_files.modality(file, **given)
        return folder / f"{damaged}.h5ad"

    return make


def _beside_read(folder: Path) -> Any:
    beside = {"prot": str(folder / "prot.h5ad")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of missing labels
        return tables(
            data.load(str(folder / "rna.h5ad"), site="rna", beside=beside, labels="kind")
        )


def _store(folder: Path) -> Path:
    block = {
        "x": (ROWS[:, None] >> np.arange(40) % 10 & 1).astype(bool),
        "f": np.sin(ROWS[:, None] + np.arange(5.0)),
        "y": (_labels(), ROWS % 2 > 0),
    }
    return data.write(
        data.Blocks("set", iter([block]), classes={"y": ["a", "b", "c"]}), folder / "s.h5"
    )


def _stored(folder: Path) -> Any:
    found = data.open(folder / "s.h5")
    return [tables(found), found.recipe, dict(found.roles)]


def _cifar(folder: Path) -> Any:
    return tables(cifar.load(folder, validation=5))


TARGETS = {
    "idx, gzipped": Target(
        _idx(_zipped), lambda f: idx.read_labelled(f / "images", f / "labels"), True
    ),
    "idx, plain": Target(
        _idx(bytes), lambda f: idx.read_labelled(f / "images", f / "labels"), False
    ),
    "CIFAR batches": Target(_cifar_folder, _cifar, False),
    "CIFAR tar": Target(_cifar_tar, _cifar, True),
    "CIFAR npz": Target(_cifar_npz, _cifar, True),
    "Omniglot zip": Target(_omniglot, _drawings, True),
    "SmallNORB": Target(_norb, lambda f: views.matrix(f / "norb-dat.mat"), False),
    "Cars3D, compressed": Target(_cars(True), lambda f: views._car(f / "car_1_mesh.mat"), True),
    "Cars3D, plain": Target(_cars(False), lambda f: views._car(f / "car_1_mesh.mat"), False),
    "CANDLE json": Target(_candle("0.json"), _scenes, False),
    "CANDLE png": Target(_candle("0.png"), _scenes, True),
    "dSprites npz": Target(_grid("npz"), _sprites, True),
    "dSprites h5": Target(_grid("hdf5"), _sprites, False),
    "own npz": Target(_npz, lambda f: tables(data.load(str(f / "own.npz"))), True),
    "own h5": Target(_arrays, lambda f: tables(data.load(str(f / "own.h5"))), False),
    "h5ad, sparse": Target(
        _h5ad("new"), lambda f: tables(data.load(str(f / "cells.h5ad"), labels="gene")), False
    ),
    "h5ad, by blocks": Target(
        _h5ad("new"),
        lambda f: tables(data.load(str(f / "cells.h5ad"), labels="gene", memory=64)),
        False,
    ),
    "h5ad, old": Target(
        _h5ad("old"), lambda f: tables(data.load(str(f / "cells.h5ad"), labels="gene")), False
    ),
    "h5mu": Target(_h5mu, lambda f: tables(data.load(str(f / "two.h5mu"), labels="lane")), False),
    "h5ad beside another": Target(_beside("prot"), _beside_read, False),
    "store": Target(_store, _stored, True),
}
