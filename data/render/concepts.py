"""Concepts with all their drawings: characters of Omniglot, MNIST's digits, or stroke digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ppl_models.config import unknown
from ppl_models.data.render import fewshot
from ppl_models.data.render.handwriting import files as digits_files, handwritten
from ppl_models.data.streams.row_steps import check_share
from ppl_models.data.tables.groups import grouped
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.splits import PARTS
from ppl_models.data.tables.table import Dataset

SOURCES = ("omniglot", "mnist", "strokes")


def load(
    source: str | None = None,
    root: str | Path | None = None,
    size: int | tuple[int, int] = 20,
    test_size: int | tuple[int, int] = 5,
    validation: float = 0.05,
    binary: bool = True,
    labelled: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Rows that are pools of drawings of one ``concept``: ``x`` (M x 196, from 0 to 1).

    Training draws its sets from them anew in each batch (:func:`ppl_models.data.drawn_sets`). Of
    Omniglot and stroke digits the images are those of ``few_shot``, and test rows have concepts
    that are in no other row. Of MNIST (14 x 14, means of 2 x 2 pixels) the concepts are the ten
    digits, of the official training and test files.

    Args:
        source: ``omniglot``, ``mnist`` or ``strokes``; when left out Omniglot if its files are
            there, else strokes.
        root: Folder of the files, if not where data are looked for.
        size: Most drawings of a training row, or the least and the greatest number, drawn for
            each row. A concept with more makes several rows.
        test_size: Likewise of validation and test rows, in which each drawing is once.
        validation: Share of the training drawings' concepts (of MNIST, of the drawings) that are
            validation rows: of Omniglot whole characters, with all their turned copies.
        binary: Draw each pixel of validation and test rows as 0 or 1 once, by the seed.
        labelled: Training rows that keep their concept; all if None.
        seed: Seed of splits, rows and pixels.

    Raises:
        FileNotFoundError: If files were asked for and are not there.
        ValueError: If an option is out of range.
    """
    check_share("validation", validation)
    source = _source(source, root)
    draw = numpy_generator(seed)
    if source == "mnist":
        _, (known, held) = handwritten("mnist", fewshot.SIDE)
        known, held = ((images / np.float32(255), of) for images, of in (known, held))
        names: tuple[str, ...] = tuple(map(str, range(10)))
        own = draw.random(len(known[1])) < validation
    elif source == "omniglot":
        known, held, names = fewshot.omniglot(root)
        # A character's eight versions, and its drawings in the other file, are on one side.
        _, character = np.unique([name.split()[0] for name in names], return_inverse=True)
        own = (draw.random(len(names)) < validation)[character[known[1]]]
    else:
        known, held = fewshot.stroke_concepts(numpy_generator(seed, 3))
        names = tuple(f"{k % 10} in hand {k // 10}" for k in range(10 * fewshot.HANDS))
        own = (draw.random(len(names)) < validation)[known[1]]
    part = np.concatenate([own.astype(int), np.full(len(held[1]), 2)])
    x = np.concatenate([known[0], held[0]]).astype(np.float32).reshape(len(part), -1)
    if source == "mnist":  # as bright as the others
        x /= np.maximum(x.max(1, keepdims=True), 1e-9)
    if binary:
        x[part > 0] = draw.random(x[part > 0].shape) < x[part > 0]
    concept = np.concatenate([known[1], held[1]])
    options: dict[str, Any] = {
        "source": source,
        "root": None if root is None else str(root),
        "size": size,
        "test_size": test_size,
        "validation": validation,
        "binary": binary,
    }
    return grouped(
        "concept",
        {"x": x, "concept": np.array(names)[concept]},
        {"train": size, "validation": test_size, "test": test_size},
        np.array(PARTS)[part],
        seed,
        name="concepts",
        labelled=labelled,
        options=options,
    )


def files(source: str | None = None, root: str | Path | None = None) -> list[Path]:
    """The files of a source, none of stroke digits; see :func:`load`."""
    source = _source(source, root)
    if source == "mnist":
        return digits_files("mnist")
    return fewshot.files(source, root)


def _source(source: str | None, root: str | Path | None) -> str:
    if source not in (None, *SOURCES):
        raise ValueError(unknown("source", source, SOURCES))
    return source or ("omniglot" if fewshot.files(None, root) else "strokes")
