"""Omniglot: characters of many alphabets, each drawn by 20 people (Lake et al. 2015)."""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from ppl_models.config import unknown
from ppl_models.data.readers import zip_members
from ppl_models.data.readers.files import find_or_download, reading
from ppl_models.data.readers.published_split import from_published
from ppl_models.data.store.stored_array import Array
from ppl_models.data.tables.from_parts import from_parts
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.splits import split
from ppl_models.data.tables.table import Dataset

SIDE = 105
DRAWERS = 20
BLOCK = 2048  # images that stand in memory as floats of all pixels
ADDRESS = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
MD5 = {  # of the two large sets
    "images_background": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation": "6b91aef0f799c5bb55b94e3f2daec811",
}
SMALL = ("images_background_small1", "images_background_small2")
# Splits by whole characters: which files, and how many characters each part has of them.
CHARACTERS = {
    "ns": (tuple(MD5), (1000, 200, 423)),
    "back_eval": (tuple(MD5), (868, 96, 659)),
    "small": (SMALL, (236, 0, 56)),
}


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


def files(
    part: str = SMALL[0], root: str | Path | None = None, characters: str | None = None
) -> list[Path]:
    """The zip file of a part, see :func:`read`; or those of a split, see :func:`load`."""
    if characters is not None:
        return [path for of in _split(characters)[0] for path in files(of, root)]
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
    characters: str | None = None,
    scaled: bool = False,
) -> Dataset:
    """Sites ``x`` (ink, 0 to 1) and ``y`` (the character); alphabets are in the class names.

    Of each character's 20 drawings about 4 are test rows and 2 validation rows. Or parts have
    whole characters, as sets of new ones want them; ready sets are ``few_shot``:

    - ``"ns"`` (Edwards and Storkey 2017, arXiv 1606.02185): 1000, 200 and 423 characters of all,
      which ones by the seed;
    - ``"back_eval"``: 9 in 10 of the background characters, by the seed, the others of them for
      validation, and all 659 of the evaluation set for the test (Giannone and Winther 2022, arXiv
      2110.12279, which has both);
    - ``"small"``: the first small background set and the first 100 characters of the second, no
      validation rows, and the last 56 characters for the test.

    Args:
        part: See :func:`read`; of no account where ``characters`` says the files.
        root: See :func:`read`.
        side: Side in pixels: 105, or fewer by means over areas.
        characters: A split by characters; by drawings if None.
        scaled: Whether each image is divided by its brightest pixel.
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
    if characters is not None:
        if (train, validation, test) != (None, None, None):
            raise ValueError(
                f"characters is {characters!r}, whose parts have whole characters; expected no "
                "train, validation or test"
            )
        return _by_character(characters, root, side, scaled, labelled, seed)
    drawn = read(part, root)
    x = shrunk(drawn.images, side, scaled)
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
        options={"part": part, "side": side, **({"scaled": True} if scaled else {})},
        numbers=(kept.numpy(), held.numpy()),
    )


def _split(characters: str) -> tuple[tuple[str, ...], tuple[int, int, int]]:
    if characters not in CHARACTERS:
        raise ValueError(unknown("split by characters", characters, CHARACTERS))
    return CHARACTERS[characters]


def _by_character(
    characters: str,
    root: str | Path | None,
    side: int,
    scaled: bool,
    labelled: int | None,
    seed: int,
) -> Dataset:
    names, counts = _split(characters)
    drawn = [read(part, root) for part in names]
    firsts = np.cumsum([0, *(len(part.names) for part in drawn)])
    if firsts[-1] != sum(counts):
        raise ValueError(
            f"{', '.join(names)} have {firsts[-1]} characters, expected {sum(counts)} for the "
            f"split {characters!r}"
        )
    code = np.concatenate([d.characters + n for d, n in zip(drawn, firsts[:-1], strict=True)])
    order = np.arange(sum(counts))
    if characters != "small":
        mixed = sum(counts) if characters == "ns" else sum(counts[:2])
        order[:mixed] = numpy_generator(seed).permutation(mixed)
    part_of = np.empty(len(order), np.int64)
    for part, (start, end) in enumerate(pairwise(np.cumsum([0, *counts]))):
        part_of[order[start:end]] = part
    x = np.concatenate([shrunk(part.images, side, scaled) for part in drawn])
    rows = [np.flatnonzero(part_of[code] == part) for part in range(3)]
    classes: list[str] = []
    for own in drawn:  # of the small sets, both have Greek and Latin
        classes += [f"{name} again" if name in classes else name for name in own.names]
    return from_parts(
        "omniglot",
        [{"x": x[kept].reshape(len(kept), side**2), "y": code[kept]} for kept in rows],
        options={
            "root": None if root is None else str(root),
            "side": side,
            "characters": characters,
            "scaled": scaled,
        },
        labelled=labelled,
        seed=seed,
        classes={"y": classes},
        numbers=rows,
        shapes={"x": (side, side)},
        roles={"y": "group"},
    )


def shrunk(images: Array, side: int, scaled: bool) -> Array:
    """Ink as means over areas.

    Args:
        images: ``(n, 105, 105)``, bool.
        side: Side in pixels of what comes back, ``(n, side, side)``.
        scaled: Whether each image is divided by its brightest pixel.
    """
    blocks = [
        torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(block)[:, None].float(), side)
        for block in np.array_split(images, -(-len(images) // BLOCK))
    ]
    x: Array = torch.cat(blocks)[:, 0].numpy()
    if scaled:
        x /= np.maximum(x.max((1, 2), keepdims=True), 1e-9)
    return x


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
