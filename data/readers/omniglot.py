"""Omniglot: characters of many alphabets, each drawn by 20 people (Lake et al. 2015)."""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from ppl_models.config import unknown
from ppl_models.data.readers import zip_members
from ppl_models.data.readers.files import find_or_download, reading
from ppl_models.data.readers.published_split import from_published
from ppl_models.data.store.stored_array import Array
from ppl_models.data.tables.splits import split
from ppl_models.data.tables.table import Dataset

SIDE = 105
DRAWERS = 20
ADDRESS = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
MD5 = {  # of the two large sets
    "images_background": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation": "6b91aef0f799c5bb55b94e3f2daec811",
}
SMALL = ("images_background_small1", "images_background_small2")


@dataclass(frozen=True)
class Drawings:
    """The drawings of one zip file, sorted by alphabet, character and drawer.

    Attributes:
        images: Ink ``(N, 105, 105)``, bool.
        characters: Which character each is, ``0 .. C-1``.
        names: The characters, as ``alphabet/characterNN``.
        drawers: Who drew it, ``0 .. 19``.
    """

    images: Array
    characters: Array
    names: tuple[str, ...]
    drawers: Array


def files(part: str = SMALL[0], root: str | Path | None = None) -> list[Path]:
    """The zip file of a part; see :func:`read`."""
    if part not in (*MD5, *SMALL):
        raise ValueError(unknown("part of Omniglot", part, (*MD5, *SMALL)))
    official = {f"{part}.zip": (f"{ADDRESS}{part}.zip", MD5[part])} if part in MD5 else {}
    return find_or_download("omniglot", ((f"{part}.zip",),), official, root)


def read(part: str = SMALL[0], root: str | Path | None = None) -> Drawings:
    """Drawings of ``images_background``, ``images_evaluation`` or one of the small sets.

    Args:
        part: Name of the zip file, without its ending.
        root: Its folder; ``$PPL_DATA/omniglot``, ``$PPL_DATA`` and the user's cache if None,
            where the large sets are downloaded to if they are nowhere.

    Raises:
        FileNotFoundError: If it is not there, saying where to put it.
        ValueError: If it is damaged, holds anything else, or lacks one of the 20 drawings of a
            character.
    """
    (path,) = files(part, root)
    with (
        reading(path, "a zip of alphabet/characterNN/NNNN_NN.png"),
        zip_members.opened(path) as zipped,
    ):
        names = sorted(n for n in zipped.namelist() if n.endswith(".png"))
        places = [PurePosixPath(name) for name in names]
        of = [f"{place.parts[-3]}/{place.parts[-2]}" for place in places]
        drawers = np.array([int(place.stem.split("_")[1]) - 1 for place in places])
        characters, codes = np.unique(of, return_inverse=True)
        _check_drawers(characters, codes, drawers)
        images = np.stack([_image(zipped, name) for name in names])
    return Drawings(images, codes.astype(np.int64), tuple(characters.tolist()), drawers)


def load(
    part: str = SMALL[0],
    root: str | Path | None = None,
    side: int = 28,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    labelled: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Sites ``x`` (ink, 0 to 1) and ``y`` (the character); alphabets are in the class names.

    Of each character's 20 drawings about 4 are test rows and 2 validation rows. Sets of new
    characters are ``few_shot``.

    Args:
        part: See :func:`read`.
        root: See :func:`read`.
        side: Side in pixels: 105, or fewer by means over areas.
        train: Training rows; all that are left over if None.
        validation: Validation rows; a tenth if None.
        test: Test rows; a fifth if None.
        labelled: Training rows that keep their label, balanced; all if None.
        seed: Seed of the split and of the labels that are kept.

    Raises:
        FileNotFoundError: If it is not there, saying where to put it.
        ValueError: If an option is out of range or the file is damaged.
    """
    if not 1 <= side <= SIDE:
        raise ValueError(f"side is {side}, expected 1 to {SIDE}")
    drawn = read(part, root)
    ink = torch.from_numpy(drawn.images)[:, None].float()
    x = torch.nn.functional.adaptive_avg_pool2d(ink, side)[:, 0].numpy()
    sizes = [
        len(x) // 5 if test is None else test,
        len(x) // 10 if validation is None else validation,
    ]
    labels = torch.from_numpy(drawn.characters)
    held, kept = split(len(x), (sizes[0], len(x) - sizes[0]), seed, labels)
    training, testing = (
        {"x": x[rows.numpy()], "y": drawn.characters[rows.numpy()]} for rows in (kept, held)
    )
    return from_published(
        "omniglot",
        training,
        testing,
        root=root,
        sizes=(train, sizes[1], sizes[0]),
        classes={"y": drawn.names},
        labelled=labelled,
        seed=seed,
        options={"part": part, "side": side},
        numbers=(kept.numpy(), held.numpy()),
    )


def _check_drawers(characters: Array, codes: Array, drawers: Array) -> None:
    for code, character in enumerate(characters):
        found = sorted(drawers[codes == code].tolist())
        if found != list(range(DRAWERS)):
            raise ValueError(
                f"character {str(character)[:80]!r} has {len(found)} drawings, expected one of "
                f"each of {DRAWERS} drawers"
            )


def _image(zipped: zipfile.ZipFile, name: str) -> Array:
    from PIL import Image

    data = zip_members.read(zipped, zipped.getinfo(name))
    size = struct.unpack(">II", data[16:24])  # before anything of that size is made
    if size != (SIDE, SIDE):
        raise ValueError(f"{name[:80]!r} is {size}, expected {(SIDE, SIDE)}")
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        ink: Array = np.asarray(image.convert("1")) == 0  # ink is black
        return ink
