"""h5 files with one array per site, such as the microarrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from ppl_models.config import unknown
from ppl_models.data.readers.files import built, find, naming, reading
from ppl_models.data.store.checked_h5 import opened
from ppl_models.data.tables.labels import Classes
from ppl_models.data.tables.own_arrays import SPLITS, Splits, build
from ppl_models.data.tables.table import Dataset

MICROARRAYS = ("alon", "golub", "singh")


def load_file(
    path: str,
    labelled: int | None = None,
    splits: Splits = SPLITS,
    seed: int = 0,
    classes: Mapping[str, Classes] | None = None,
) -> Dataset:
    """A data set from an h5 file with one array per site at its top.

    Args:
        path: The file.
        labelled: Training rows that keep their label, balanced over the classes; all if None.
        splits: Shares, or numbers, of training, validation and test rows; or the name of the
            array that says the part of each row; or None for all rows in the test part, to
            predict.
        seed: Seed of the split and of the labels that are kept.
        classes: Number of classes, or their names in order, by label site.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, naming it, or its arrays do not fit together.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file, expected an h5 with an array per site")
    return built(
        Path(path), read(Path(path)), labelled=labelled, splits=splits, seed=seed, classes=classes
    )


def microarray_files(study: str = "golub", root: str | Path | None = None) -> list[Path]:
    """The file of a study; see :func:`load_microarray`."""
    if study not in MICROARRAYS:
        raise ValueError(unknown("microarray", study, MICROARRAYS))
    return find("microarray", ((f"{study}.h5",),), root)


def load_microarray(
    study: str = "golub",
    root: str | Path | None = None,
    labelled: int | None = None,
    splits: Splits = SPLITS,
    seed: int = 0,
) -> Dataset:
    """Microarrays: sites ``x`` (genes of each subject, as published) and ``y`` (diagnosis).

    Args:
        study: ``alon`` (colon, 62 x 2,000), ``golub`` (leukaemia, 72 x 7,129) or ``singh``
            (prostate, 102 x 12,600).
        root: Folder of the h5 file; ``$PPL_DATA/microarray``, ``$PPL_DATA`` and the user's
            cache folder if None.
        labelled: Training rows that keep their label, balanced; all if None.
        splits: Shares, or numbers, of training, validation and test rows.
        seed: Seed of the split and of the labels that are kept.

    Raises:
        FileNotFoundError: If the file is not there, saying where to put it.
        ValueError: If there is no such set, or the file is damaged.
    """
    (path,) = microarray_files(study, root)
    options = {
        "study": study,
        "root": None if root is None else str(root),
        "splits": splits,
    }
    with naming(path):
        return build(
            read(path),
            name=study,
            labelled=labelled,
            splits=splits,
            seed=seed,
            options=options,
            source="microarray",
        )


def read(path: Path) -> dict[str, Any]:
    """The arrays of a file by name."""
    with reading(path, "an h5 file with an array per site"), opened(path) as file:
        if "obs" in file and "var" in file:
            raise ValueError("it is a file of AnnData: name it .h5ad")
        arrays = {
            site: array[()] for site, array in file.items() if isinstance(array, h5py.Dataset)
        }
        if not arrays:
            raise ValueError("it has no arrays")
    return arrays
