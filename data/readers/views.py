"""Published sets of photographed or modelled things from many sides: SmallNORB and Cars3D."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ppl_models.data.factors.grid import FactorData, from_images
from ppl_models.data.factors.loaders import sampled
from ppl_models.data.readers import mat5
from ppl_models.data.readers.files import find, reading
from ppl_models.data.store.stored_array import Array

SIDE = 64
NORB = {
    "smallnorb-5x46789x9x18x6x2x96x96-training": (4, 6, 7, 8, 9),
    "smallnorb-5x01235x9x18x6x2x96x96-testing": (0, 1, 2, 3, 5),
}
NORB_VALUES: dict[str, tuple[float | str, ...]] = {
    "category": ("animal", "human", "airplane", "truck", "car"),
    "elevation": tuple(30.0 + 5 * k for k in range(9)),
    "azimuth": tuple(20.0 * k for k in range(18)),
    "lighting": tuple(map(float, range(6))),
}
MAGIC = {0x1E3D4C55: "u1", 0x1E3D4C54: "<i4", 0x1E3D4C51: "<f4", 0x1E3D4C53: "<f8"}


def matrix(path: Path) -> Array:
    """The array in a file of SmallNORB's own binary format.

    Little-endian int32: magic number, dimensions, and at least three sizes; then the elements.

    Raises:
        ValueError: If it is no such file, or not as long as it says.
    """
    with reading(path, "a binary matrix of SmallNORB"):
        data = path.read_bytes()
        magic, dims = np.frombuffer(data[:8], "<i4")
        if int(magic) not in MAGIC or not 0 < dims < 8:
            raise ValueError(f"it starts with {data[:8].hex()}")
        start = 8 + 4 * max(3, int(dims))
        shape = tuple(int(n) for n in np.frombuffer(data[8:start], "<i4")[:dims])
        dtype = np.dtype(MAGIC[int(magic)])
        if len(data) - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"it has {len(data) - start} bytes of elements for shape {shape}")
        return np.frombuffer(data, dtype, offset=start).reshape(shape)


def smallnorb(root: str | None = None) -> FactorData:
    """SmallNORB: grey photographs of toys (LeCun et al. 2004), its first camera, 64 x 64.

    Factors category, elevation, azimuth and lighting. Which of the ten toys of a category is
    seen is drawn at each look, as in Locatello et al. (2019).

    Args:
        root: Folder of the six ``.mat`` files of both parts; ``$PPL_DATA/smallnorb``,
            ``$PPL_DATA`` and the user's cache folder if None.

    Raises:
        FileNotFoundError: If they are not there, saying where to put them.
        ValueError: If one is damaged, or an image is there twice or missing.
    """
    paths = smallnorb_files(root)
    sizes = (5, 10, 9, 18, 6)
    place = np.full(sizes, -1)
    images: list[Array] = []
    for dat, cat, info in (paths[:3], paths[3:]):
        pixels, category, more = matrix(dat), matrix(cat), matrix(info)
        n = len(category)
        if category.shape != (n,) or category.dtype.kind != "i" or more.dtype.kind != "i":
            raise ValueError(f"{cat}: categories and factors are no whole numbers for each image")
        if pixels.dtype != np.uint8 or pixels.shape != (n, 2, 96, 96) or more.shape != (n, 4):
            raise ValueError(f"{dat}: has shape {pixels.shape}, expected uint8 ({n}, 2, 96, 96)")
        instance, elevation, azimuth, lighting = more.T
        cell = (category, instance, elevation, azimuth // 2, lighting)
        if any((c < 0).any() or (c >= size).any() for c, size in zip(cell, sizes, strict=True)):
            raise ValueError(f"{info}: has a factor out of range, expected sizes {sizes}")
        place[cell] = sum(len(part) for part in images) + np.arange(n)
        images.append(np.stack([shrunk(image) for image in pixels[:, 0]]))
    every = np.concatenate(images)
    if (place < 0).any() or len(every) != place.size:
        raise ValueError(
            f"{paths[0].parent}: SmallNORB has {len(every)} images for {(place >= 0).sum()} "
            f"combinations of factors, expected {place.size} of each"
        )

    def draw(classes: Array, generator: np.random.Generator) -> dict[str, Array]:
        category, *rest = classes.T
        toy = generator.integers(10, size=len(classes))
        return {"x": every[place[(category, toy, *rest)]]}

    return FactorData("smallnorb", NORB_VALUES, draw, "official")


def cars3d(root: str | None = None) -> FactorData:
    """Cars3D: 183 car models from 4 heights and 24 sides (Reed et al. 2015), 64 x 64 x 3.

    Args:
        root: Folder of the published ``.mat`` files, or of their folder ``cars``;
            ``$PPL_DATA/cars3d``, ``$PPL_DATA`` and the user's cache folder if None.

    Raises:
        FileNotFoundError: If they are not there, saying where to put them.
        ValueError: If one is damaged.
    """
    paths = cars3d_files(root)
    cars = np.stack([_car(path) for path in paths])  # (car, height, side, 64, 64, 3)
    images = np.moveaxis(cars, 0, 2).reshape(-1, SIDE, SIDE, 3)
    values: dict[str, tuple[float | str, ...]] = {
        "elevation": tuple(map(float, range(4))),
        "azimuth": tuple(15.0 * k for k in range(24)),
        "object": tuple(path.stem for path in paths),
    }
    return from_images("cars3d", values, images)


def smallnorb_files(root: str | None = None) -> list[Path]:
    """Images, categories and further factors of each part; see :func:`smallnorb`."""
    names = [f"{part}-{what}.mat" for part in NORB for what in ("dat", "cat", "info")]
    return find("smallnorb", (names,), root)


def cars3d_files(root: str | None = None) -> list[Path]:
    """One file per car model; see :func:`cars3d`."""
    return find("cars3d", (("cars/*.mat",), ("*_mesh.mat",), ("car*.mat",)), root)


def _car(path: Path) -> Array:
    with reading(path, "a MATLAB file with an array 'im' of uint8 (h, w, 3, 4, 24)"):
        found = mat5.array(path.read_bytes(), "im")
        if found.shape[2:] != (3, 4, 24):
            raise ValueError(f"it has shape {found.shape}")
        views = found.transpose(3, 4, 0, 1, 2).reshape(-1, *found.shape[:3])
        small = np.stack([shrunk(view) for view in views])
        return small.reshape(4, 24, SIDE, SIDE, 3)


def shrunk(image: Array) -> Array:
    """An image in 64 x 64 pixels, by Lanczos' filter as the published readers do it."""
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.LANCZOS))


load_smallnorb = sampled(smallnorb)
load_cars3d = sampled(cars3d)
