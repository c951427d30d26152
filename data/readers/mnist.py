"""MNIST: 70,000 real handwritten digits of 28 x 28 pixels (LeCun, Cortes, Burges 1998)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_models.data.readers import idx
from ppl_models.data.readers.files import download
from ppl_models.data.tables.recipe import assemble
from ppl_models.data.tables.splits import split
from ppl_models.data.tables.table import Dataset, Table

CLASSES = tuple("0123456789")
URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MD5 = {  # of the official gzip files
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
ROWS = {"train": 60_000, "t10k": 10_000}
HELD_OUT = 10_000  # last rows of the official training file, as in Kingma et al. 2014


def load(
    root: str | Path | None = None,
    side: int = 28,
    train: int = 50_000,
    validation: int = 10_000,
    test: int = 10_000,
    labelled: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Sites ``x`` (grey pixels, 0 black to 1 white) and ``y`` (the digit).

    Validation rows are the last 10,000 of the official training file. Row numbers count
    through the training file and go on through the test file from 60,000.

    Args:
        root: Folder of the four idx files, gzipped or not. When left out they are looked for
            in ``$PPL_DATA/mnist``, ``$PPL_DATA`` and the user's cache folder, and are
            downloaded into the cache if they are nowhere.
        side: 28, or 14 for means of 2 x 2 pixels.
        train: Training rows; fewer than 50,000 are a random subset with the same shares of
            the digits.
        validation: Validation rows, likewise.
        test: Test rows, likewise.
        labelled: Training rows that keep their label, balanced over the digits; all if None.
        seed: Seed of the subsets and of the labels that are kept.

    Raises:
        FileNotFoundError: If the files are nowhere, saying which ones to put where.
        ValueError: If an option is out of range or a file is damaged, naming it.
    """
    if side not in (14, 28):
        raise ValueError(f"side is {side}, expected 28 or 14")
    images, labels, test_images, test_labels = files(root)
    x, y = _read(images, labels, ROWS["train"])
    test_x, test_y = _read(test_images, test_labels, ROWS["t10k"])
    first = len(y) - HELD_OUT

    def table(part: str, rows: int, x: Tensor, y: Tensor, start: int) -> Table:
        if rows > len(y):
            raise ValueError(f"{part} is {rows}, but there are {len(y)} such rows")
        (chosen,) = split(len(y), (rows,), seed, y)
        return Table(
            f"mnist/{part}",
            {"x": _pixels(x[chosen], side), "y": y[chosen]},
            numbers=chosen + start,
            classes={"y": CLASSES},
            shapes={"x": (side, side)},
        )

    options: dict[str, Any] = {
        "root": None if root is None else str(root),
        "side": side,
        "train": train,
        "validation": validation,
        "test": test,
    }
    return assemble(
        "mnist",
        table("train", train, x[:first], y[:first], 0),
        table("validation", validation, x[first:], y[first:], first),
        table("test", test, test_x, test_y, len(y)),
        labelled=labelled,
        seed=seed,
        options=options,
    )


def files(root: str | Path | None = None) -> list[Path]:
    """Images and labels for training, and for the test.

    Args:
        root: See :func:`load`.

    Raises:
        FileNotFoundError: If they are nowhere, saying which ones to put where.
    """
    folder = _find(root)
    return [path for name in MD5 if (path := _file(folder, name))]


def _read(images: Path, labels: Path, rows: int) -> tuple[Tensor, Tensor]:
    x, y = idx.read_labelled(images, labels)
    if x.dtype != np.uint8 or x.shape != (rows, 28, 28):
        raise ValueError(
            f"{images}: has {x.dtype} of shape {x.shape}, expected uint8 of shape {(rows, 28, 28)}"
        )
    return torch.from_numpy(x), torch.from_numpy(y.astype(np.int64))


def _pixels(images: Tensor, side: int) -> Tensor:
    x = images.float() / 255
    if side == 14:
        x = torch.nn.functional.avg_pool2d(x[:, None], 2)
    return x.flatten(1)


def _find(root: str | Path | None) -> Path:
    import pooch

    cache = Path(pooch.os_cache("ppl-models")) / "mnist"
    if root is not None:
        folders = [Path(root)]
    else:
        own = os.environ.get("PPL_DATA")
        folders = [*([Path(own) / "mnist", Path(own)] if own else []), cache]
    for folder in folders:
        if all(_file(folder, name) for name in MD5):
            return folder
    reason = "" if root is not None else _download(cache)
    if reason or root is not None:
        missing = [name for name in MD5 if not _file(folders[0], name)]
        raise FileNotFoundError(
            f"MNIST is not there: put {', '.join(missing)} (or .gz) into {folders[0]}"
            + ("" if root else f" or name their folder with root=; {reason}")
        )
    return cache


def _file(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / f"{name}.gz", folder / name) if p.is_file()), None)


def _download(folder: Path) -> str:
    return download({f"{n}.gz": (f"{URL}{n}.gz", md5) for n, md5 in MD5.items()}, folder)
