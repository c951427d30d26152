"""Files of NumPy arrays, one per site."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ppl_models.data.readers import npz_stream, zip_members
from ppl_models.data.readers.files import built
from ppl_models.data.tables.labels import Classes
from ppl_models.data.tables.own_arrays import SPLITS, Splits
from ppl_models.data.tables.table import Dataset


def load_file(
    path: str,
    labelled: int | None = None,
    splits: Splits = SPLITS,
    seed: int = 0,
    classes: Mapping[str, Classes] | None = None,
) -> Dataset:
    """A data set from an ``.npz`` file with one array per site; see :func:`from_arrays`.

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
        ValueError: If it is damaged or holds Python objects, naming file and array.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file, expected an .npz with an array per site")
    site, sites = None, {}
    try:
        with zip_members.opened(Path(path)) as archive:
            for site in npz_stream.names(archive):
                sites[site] = npz_stream.array(archive, site)
    except Exception as error:  # a damaged archive fails anywhere inside zipfile and numpy
        what = "the file" if site is None else f"array {site[:80]!r}"
        raise ValueError(
            f"{path}: cannot read {what}, expected an .npz of plain numbers and strings "
            f"({' '.join(str(error).split())[:200] or type(error).__name__})"
        ) from None
    return built(Path(path), sites, labelled=labelled, splits=splits, seed=seed, classes=classes)
