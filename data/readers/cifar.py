"""CIFAR-10: 60,000 colour photographs of 32 x 32 pixels (Krizhevsky 2009)."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from ppl_models.data.readers import npz_stream, zip_members
from ppl_models.data.readers.files import find_or_download, reading
from ppl_models.data.readers.plain_pickle import loads
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
NAMES = ("test_batch", *(f"data_batch_{number}" for number in range(1, 6)))
MOST = 64 << 20  # bytes of a batch; the published ones have 31 million
PADDING = 1 << 20  # bytes of zeros that may follow the end of a tar file


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
    with (
        reading(path, "arrays train_x, train_y, test_x, test_y"),
        zip_members.opened(path) as npz,
    ):
        pairs = [
            (npz_stream.array(npz, f"{part}_x"), npz_stream.array(npz, f"{part}_y"))
            for part in ("train", "test")
        ]
    return [_checked(path, x, y) for x, y in pairs]


def _files(paths: list[Path]) -> dict[str, tuple[Path, bytes]]:
    there = {path.name: path for path in paths}
    with reading(paths[0].parent, "the official batches"):
        _check_names(there)
    for path in there.values():
        if path.stat().st_size > MOST:
            raise ValueError(f"{path}: has more than {MOST} bytes, expected a batch of CIFAR-10")
    return {name: (path, path.read_bytes()) for name, path in there.items()}


def _tar(path: Path) -> dict[str, tuple[Path, bytes]]:
    found = {}
    with reading(path, "the official tar file"), _Bounded(path) as packed:
        with tarfile.open(fileobj=packed, mode="r:") as archive:
            for member in archive:
                name = Path(member.name).name
                if member.isfile() and (name.startswith("data_batch_") or name == "test_batch"):
                    if name in found or member.size > MOST or member.issparse():
                        raise ValueError(
                            f"{name[:80]!r} claims {member.size} bytes, or is twice there"
                        )
                    file = archive.extractfile(member)
                    found[name] = (path, file.read() if file else b"")
        # Past the end of the archive lies that of the gzip stream, with the checksum of it all.
        if packed.read(PADDING).strip(b"\0") or packed.read(1):
            raise ValueError("something stands after its end")
        _check_names(found)
    return found


class _Bounded(gzip.GzipFile):
    """A stream of which a damaged header cannot ask for more than a batch."""

    def read(self, size: int | None = -1) -> bytes:
        """Bytes, at most those of a batch."""
        return super().read(MOST if size is None or size < 0 else min(size, MOST))


def _check_names(found: Any) -> None:
    if sorted(found) != sorted(NAMES):
        there = ", ".join(sorted(found))[:120] or "nothing"
        raise ValueError(f"it has {there}, expected {', '.join(sorted(NAMES))}")


def _batch(path: Path, data: bytes) -> tuple[Array, Array]:
    with reading(path, "a batch of CIFAR-10"):
        batch = loads(data)
        planes, labels = batch[b"data"], batch[b"labels"]
        if type(labels) is not list or any(type(label) is not int for label in labels):
            raise ValueError("its b'labels' are no list of numbers")
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
