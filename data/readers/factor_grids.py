"""Published sets that hold one image for every combination of factors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ppl_models.data.factors import published
from ppl_models.data.factors.grid import FactorData, from_images
from ppl_models.data.factors.loaders import sampled
from ppl_models.data.readers import npz_stream
from ppl_models.data.readers.files import find, naming, reading
from ppl_models.data.store.built_sets import cached, identity
from ppl_models.data.store.checked_h5 import opened
from ppl_models.data.store.row_blocks import Blocks
from ppl_models.data.store.stored_array import Array
from ppl_models.data.tables import correlations
from ppl_models.data.tables.lazy_column import Column

MPI3D_KINDS = ("toy", "realistic", "real", "real_complex")
DSPRITES_STEM = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64"
ENDINGS = (".npz", ".hdf5", ".h5")
ROWS = 1024


class _Images:
    """Images of a column by row, in their shape; what :func:`from_images` asks of an array."""

    def __init__(self, column: Column, shape: tuple[int, ...]) -> None:
        self.column, self.shape = column, shape

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, rows: Array) -> Array:
        found: Array = self.column[torch.from_numpy(rows)].numpy()
        return found.reshape(-1, *self.shape)


def dsprites(root: str | None = None) -> FactorData:
    """The published dSprites: 737,280 white sprites (Matthey et al. 2017).

    The npz (or hdf5) file is read once and kept as bits; its pickled metadata are not read.

    Args:
        root: Folder of the file; ``$PPL_DATA/dsprites_official``, ``$PPL_DATA`` and the user's
            cache folder if None.

    Raises:
        FileNotFoundError: If it is not there, saying where to put it.
        ValueError: If it is damaged.
    """
    (path,) = dsprites_files(root)
    images = _kept("dsprites_official", path, "imgs", (64, 64), binary=True)
    with naming(path):
        return from_images(
            "dsprites_official", published.DSPRITES, images, correlations=correlations.DSPRITES
        )


def shapes3d(root: str | None = None) -> FactorData:
    """Shapes3D: 480,000 scenes of one thing in a room (Kim and Mnih 2018), in 64 x 64 x 3.

    Args:
        root: Folder of ``3dshapes.h5``; ``$PPL_DATA/shapes3d``, ``$PPL_DATA`` and the user's
            cache folder if None.

    Raises:
        FileNotFoundError: If it is not there, saying where to put it.
        ValueError: If it is damaged.
    """
    (path,) = shapes3d_files(root)
    images = _kept("shapes3d", path, "images", (64, 64, 3))
    with naming(path):
        return from_images(
            "shapes3d", published.SHAPES3D, images, correlations=correlations.SHAPES3D
        )


def mpi3d(kind: str = "toy", root: str | None = None) -> FactorData:
    """MPI3D: a robot arm that holds a thing (Gondal et al. 2019), in 64 x 64 x 3.

    How many colours and shapes there are is seen from the number of images: 1,036,800 in the
    full sets, 460,800 in those with 4 of each.

    Args:
        kind: ``toy``, ``realistic``, ``real`` or ``real_complex``.
        root: Folder of ``mpi3d_KIND.npz``; ``$PPL_DATA/mpi3d``, ``$PPL_DATA`` and the user's
            cache folder if None.

    Raises:
        FileNotFoundError: If it is not there, saying where to put it.
        ValueError: If there is no such kind, or the file is damaged.
    """
    (path,) = mpi3d_files(kind, root)
    count = npz_stream.shape(path, "images")[0]
    kinds = {1_036_800: 6, 460_800: 4}.get(count)
    if kinds is None:
        raise ValueError(f"{path}: has {count} images, expected 1036800 or 460800")
    images = _kept(f"mpi3d_{kind}", path, "images", (64, 64, 3))
    sizes = {"colour": kinds, "shape": kinds, "size": 2, "camera": 3, "background": 3}
    values = {name: tuple(map(float, range(size))) for name, size in sizes.items()}
    values |= {
        "pos_x": tuple(k / 39 for k in range(40)),
        "pos_y": tuple(k / 39 for k in range(40)),
    }
    return from_images("mpi3d", values, images, correlations=correlations.MPI3D)


def dsprites_files(root: str | None = None) -> list[Path]:
    """The file of the published dSprites; see :func:`dsprites`."""
    return find("dsprites_official", [(DSPRITES_STEM + end,) for end in ENDINGS], root)


def shapes3d_files(root: str | None = None) -> list[Path]:
    """The file of Shapes3D; see :func:`shapes3d`."""
    return find("shapes3d", (("3dshapes.h5",),), root)


def mpi3d_files(kind: str = "toy", root: str | None = None) -> list[Path]:
    """The file of one kind of MPI3D; see :func:`mpi3d`."""
    if kind not in MPI3D_KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(MPI3D_KINDS)}")
    return find("mpi3d", ((f"mpi3d_{kind}.npz",),), root)


def _kept(name: str, path: Path, array: str, shape: tuple[int, ...], binary: bool = False) -> Any:
    """Images of a published file, through a file of the store in which rows are found fast."""

    def blocks() -> Any:
        for images in _rows(path, array):
            if images.shape[1:] != shape:
                raise ValueError(f"{path}: images have shape {images.shape[1:]}, expected {shape}")
            if binary and images.max() > 1:
                raise ValueError(f"{path}: has the value {images.max()}, expected 0 or 1")
            yield {"x": images.astype(bool) if binary else images}

    with naming(path):
        dataset = cached(
            name,
            {"files": [identity(path)]},
            lambda: Blocks(name, blocks(), splits=(_count(path, array) - 2, 1, 1)),
            compress=True,
        )
    whole: Any = dataset.train.sites["x"]
    return _Images(Column(whole.source), shape)


def _count(path: Path, array: str) -> int:
    if path.suffix == ".npz":
        return npz_stream.shape(path, array)[0]
    with reading(path, f"an h5 file with an array {array!r}"), opened(path) as file:
        return len(file[array])


def _rows(path: Path, array: str) -> Any:
    if path.suffix == ".npz":
        yield from npz_stream.rows(path, array)
        return
    with reading(path, f"an h5 file with an array {array!r} of uint8"), opened(path) as file:
        if file[array].dtype != np.uint8:
            raise ValueError(f"it is {file[array].dtype}")
        for start in range(0, len(file[array]), ROWS):
            yield file[array][start : start + ROWS]


load_dsprites = sampled(dsprites)
load_shapes3d = sampled(shapes3d)
load_mpi3d = sampled(mpi3d)
