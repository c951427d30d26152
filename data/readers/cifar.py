"""CIFAR-10: 60,000 colour photographs of 32 x 32 pixels (Krizhevsky 2009)."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from ppl_models.data.readers.files import find_or_download, reading
from ppl_models.data.readers.published_split import from_published
from ppl_models.data.store.stored_array import Array
from ppl_models.data.tables.table import Dataset

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
TAR = "cifar-10-python.tar.gz"
OFFICIAL = {
    TAR: (
        f"https://www.cs.toronto.edu/~kriz/{TAR}",
        "c58f30108f718f92721af3b95e74349a",
    )
}
BATCHES = "cifar-10-batches-py"
CHOICES = (("cifar10*.npz",), (f"{BATCHES}/data_batch_*", f"{BATCHES}/test_batch"), (TAR,))
# All that an array of plain numbers takes; Python 2 wrote the first module name.
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


def files(root: str | Path | None = None) -> list[Path]:
    """The files of CIFAR-10; see :func:`load`."""
    return find_or_download("cifar10", CHOICES, OFFICIAL, root)


def load(
    root: str | Path | None = None,
    train: int | None = None,
    validation: int = 1000,
    test: int | None = None,
    labelled: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Sites ``x`` (32 x 32 x 3 colours, 0 to 1) and ``y`` (the kind of thing).

    Args:
        root: Folder of the official batches, of their tar file, or of an ``cifar10*.npz`` with
            arrays ``train_x``, ``train_y``, ``test_x``, ``test_y``. When left out:
            ``$PPL_DATA/cifar10``, ``$PPL_DATA`` and the user's cache folder, into which the
            tar file is downloaded if there is none.
        train: Training rows; all that are left over if None.
        validation: Validation rows, drawn from the official training rows.
        test: Test rows; all official ones if None.
        labelled: Training rows that keep their label, balanced; all if None.
        seed: Seed of the subsets and of the labels that are kept.

    Raises:
        FileNotFoundError: If the files are nowhere, saying which ones to put where.
        ValueError: If an option is out of range or a file is damaged, naming it.
    """
    paths = files(root)
    if paths[0].suffix == ".npz":
        (x, y), (test_x, test_y) = _npz(paths[0])
    else:
        batches = _tar(paths[0]) if paths[0].name == TAR else _files(paths)
        parts = {name: _batch(path, data) for name, (path, data) in sorted(batches.items())}
        test_x, test_y = parts.pop("test_batch")
        x, y = (np.concatenate(arrays) for arrays in zip(*parts.values(), strict=True))
    return from_published(
        "cifar10",
        {"x": x, "y": y},
        {"x": test_x, "y": test_y},
        root=root,
        sizes=(train, validation, test),
        classes={"y": CLASSES},
        labelled=labelled,
        seed=seed,
    )


def _npz(path: Path) -> list[tuple[Array, Array]]:
    with reading(path, "arrays train_x, train_y, test_x, test_y"), np.load(path) as npz:
        pairs = [(npz[f"{part}_x"], npz[f"{part}_y"]) for part in ("train", "test")]
    return [_checked(path, x, y) for x, y in pairs]


def _files(paths: list[Path]) -> dict[str, tuple[Path, bytes]]:
    return {path.name: (path, path.read_bytes()) for path in paths}


def _tar(path: Path) -> dict[str, tuple[Path, bytes]]:
    found = {}
    with reading(path, "the official tar file"), tarfile.open(path) as archive:
        for member in archive:
            name = Path(member.name).name
            if member.isfile() and (name.startswith("data_batch_") or name == "test_batch"):
                file = archive.extractfile(member)
                found[name] = (path, file.read() if file else b"")
        if len(found) < 2 or "test_batch" not in found:
            raise ValueError(f"it has the batches {sorted(found)}")
    return found


def _batch(path: Path, data: bytes) -> tuple[Array, Array]:
    with reading(path, "a batch of CIFAR-10"):
        batch = loads(data)
        planes, labels = batch[b"data"], batch[b"labels"]
        if not isinstance(planes, np.ndarray) or planes.shape[1:] != (3072,):
            raise ValueError("its b'data' is no array of rows of 3072")
        x = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return _checked(path, x, np.asarray(labels))


def _checked(path: Path, x: Array, y: Array) -> tuple[Array, Array]:
    if x.dtype != np.uint8 or x.shape[1:] != (32, 32, 3) or not len(x):
        raise ValueError(
            f"{path}: images are {x.dtype} of shape {x.shape}, expected uint8 (N, 32, 32, 3)"
        )
    if y.shape != (len(x),) or y.dtype.kind not in "iu" or y.min() < 0 or y.max() > 9:
        raise ValueError(f"{path}: labels are {y.dtype} of shape {y.shape}, expected 0..9 each")
    return x, y.astype(np.int64)


def loads(data: bytes) -> Any:
    """Read a pickle that holds nothing but built-in containers and arrays of numbers.

    Raises:
        pickle.UnpicklingError: If it asks for anything else; nothing has been run then.
    """
    return _Unpickler(io.BytesIO(data), encoding="bytes").load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What a pickle may build."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed")
        return super().find_class(module, name)
