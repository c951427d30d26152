"""Small sets of one concept: Omniglot characters, or stroke digits without the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ppl_models.config import unknown, whole
from ppl_models.data.readers import omniglot as published
from ppl_models.data.render.strokes import ink, strokes, turns
from ppl_models.data.render.world_options import own_seed, span
from ppl_models.data.tables.from_parts import Array, from_parts
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.table import Dataset

SOURCES = ("omniglot", "strokes")
SIDE = 14
HELD_OUT = 56  # last characters of the second small background set
HANDS, DRAWINGS = 40, 20  # of stroke digits
Concepts = tuple[Array, Array]  # images and which concept each is of


def load(
    train: int = 4_000,
    validation: int = 200,
    test: int = 500,
    size: int = 5,
    source: str | None = None,
    root: str | Path | None = None,
    labelled: int | None = None,
    seed: int = 0,
    *,
    hands: int = HANDS,
    lean: tuple[float, float] = (-0.6, 0.6),
    stretch: tuple[float, float] = (0.6, 1.0),
    press: tuple[float, float] = (0.03, 0.09),
    hands_seed: int | None = None,
) -> Dataset:
    """Sets ``x`` (size x 14 x 14, from 0 to 1) of drawings of one ``concept`` each.

    Omniglot (Lake et al. 2015) as in SCHA-VAE's offline recipe (Giannone and Winther 2022):
    the two small background sets, inverted, averaged to 14 x 14 and divided by their
    brightest pixel. For training all of the first set and the first 100 characters of the
    second, each in 8 turned and mirrored versions: 1,888 concepts, 400 of them copies of
    others, since Greek and Latin are in both (their second names say "again"); validation draws
    other sets of the same concepts; for the test the last 56 characters as they are, none of
    them in training. A set has no drawing twice. Binarise anew at each step where a model
    wants it.

    Args:
        train: Training sets.
        validation: Validation sets.
        test: Test sets.
        size: Drawings in a set, at most 20.
        source: ``omniglot``, or ``strokes`` for 400 concepts of stroke digits; when left out
            Omniglot if its files are there.
        root: Folder of Omniglot's zip files, if not where data are looked for.
        labelled: Training sets that keep ``concept``, of each as many; all if None.
        seed: Seed of the sets and of the labels that are kept.
        hands: Hands that draw the ten stroke digits, at least 2; the last fifth, of the test.
        lean: Range of the turns of their digits, radians, uniform, one for each concept.
        stretch: Range of their widths, in units of a digit's own, likewise.
        press: Range of their strokes' half width, in units of the picture's side, likewise.
        hands_seed: Seed of the hands and their drawings; ``seed`` if None.

    Raises:
        FileNotFoundError: If Omniglot was asked for and is not there.
        ValueError: If an option is out of range.
    """
    hand = {
        "lean": span("lean", lean),
        "stretch": span("stretch", stretch, 0),
        "press": span("press", press, 0),
    }
    hands, drawn = whole("hands", hands, 2), own_seed("hands_seed", hands_seed, seed)
    if files(source, root):
        known, held, names = omniglot(root)
        source = "omniglot"
    else:
        source = "strokes"
        known, held = stroke_concepts(numpy_generator(drawn, 3), hands, **hand)
        names = tuple(f"{k % 10} in hand {k // 10}" for k in range(10 * hands))
    parts = []
    for place, rows in enumerate((train, validation, test)):
        draw = numpy_generator(seed, place)
        images, concept = held if place == 2 else known
        members = sets(concept, rows, size, draw)
        parts.append({"x": images[members], "concept": concept[members[:, 0]]})
    options: dict[str, Any] = {
        "train": train,
        "validation": validation,
        "test": test,
        "size": size,
        "source": source,
        "root": None if root is None else str(root),
        "hands": hands,
        **hand,
        "hands_seed": hands_seed,
    }
    return from_parts(
        "few_shot",
        parts,
        options=options,
        labelled=labelled,
        seed=seed,
        classes={"concept": names},
        roles={"concept": "group"},
    )


def files(source: str | None = None, root: str | Path | None = None) -> list[Path]:
    """The zip files of Omniglot, none of stroke digits; see :func:`load`."""
    if source not in (None, *SOURCES):
        raise ValueError(unknown("source", source, SOURCES))
    if source == "strokes":
        return []
    try:
        return [path for part in published.SMALL for path in published.files(part, root)]
    except FileNotFoundError:
        if source is not None or root is not None:
            raise
        return []


def sets(concept: Array, rows: int, size: int, generator: np.random.Generator) -> Array:
    """Row numbers ``(rows, size)`` of sets of one concept each, drawn at random.

    Args:
        concept: Concept of each image ``(n,)``.
        rows: Number of sets.
        size: Images in a set, all different.
        generator: Source of the draws.

    Raises:
        ValueError: If a concept has fewer images than a set.
    """
    order = np.argsort(concept, kind="stable")
    kinds, first, count = np.unique(concept[order], return_index=True, return_counts=True)
    if not 1 <= size <= count.min():
        raise ValueError(
            f"size is {size}, expected 1 to {count.min()}, the images of concept "
            f"{kinds[count.argmin()]}"
        )
    chosen = generator.integers(len(kinds), size=rows)
    # The smallest of random numbers, of which those beyond a concept's images are never.
    ranks = generator.random((rows, count.max()))
    ranks[np.arange(count.max()) >= count[chosen, None]] = np.inf
    picked = ranks.argsort(axis=1)[:, :size]
    members: Array = order[first[chosen, None] + picked]
    return members


def episode(
    concept: Array, ways: int, shots: int, queries: int, generator: np.random.Generator
) -> tuple[Array, Array]:
    """Row numbers of an N-way K-shot episode: support ``(N, K)`` and queries ``(N, Q)``.

    Args:
        concept: Concept of each image ``(n,)``.
        ways: Number N of concepts, all different.
        shots: Number K of images that are shown of each.
        queries: Number Q of other images of each that are asked for.
        generator: Source of the draws.

    Raises:
        ValueError: If there are too few concepts or images.
    """
    kinds = np.unique(concept)
    if not 1 <= ways <= len(kinds):
        raise ValueError(f"ways is {ways}, expected 1 to {len(kinds)} concepts")
    rows = [
        generator.permutation(np.flatnonzero(concept == kind))[: shots + queries]
        for kind in generator.permutation(kinds)[:ways]
    ]
    if (least := min(map(len, rows))) < shots + queries:
        raise ValueError(
            f"shots and queries are {shots} and {queries}, but a concept has {least} images"
        )
    table = np.stack(rows)
    return table[:, :shots], table[:, shots:]


def omniglot(root: str | Path | None = None) -> tuple[Concepts, Concepts, tuple[str, ...]]:
    """Images and concepts for training and for test, and the names of all concepts."""
    parts = [published.read(part, root) for part in published.SMALL]
    images = np.concatenate([published.shrunk(part.images, SIDE, True) for part in parts])
    concept = np.concatenate([parts[0].characters, parts[1].characters + len(parts[0].names)])
    twice = set(parts[0].names)
    names = parts[0].names + tuple(f"{n} again" if n in twice else n for n in parts[1].names)
    kept = len(names) - HELD_OUT
    is_test = concept >= kept
    own, of = images[~is_test], concept[~is_test]
    turned = [np.rot90(m, k, (1, 2)) for m in (own, own[:, :, ::-1]) for k in range(4)]
    known = np.concatenate(turned), np.concatenate([of + k * kept for k in range(8)])
    held = images[is_test], concept[is_test] + 7 * kept
    versions = [
        f"{name} {90 * k}{m}" for m in ("", " mirrored") for k in range(4) for name in names[:kept]
    ]
    return known, held, (*versions, *names[kept:])


def stroke_concepts(
    generator: np.random.Generator,
    hands: int = HANDS,
    lean: tuple[float, float] = (-0.6, 0.6),
    stretch: tuple[float, float] = (0.6, 1.0),
    press: tuple[float, float] = (0.03, 0.09),
) -> tuple[Concepts, Concepts]:
    """Stroke digits in 40 hands each as 400 concepts of 20 drawings; 32 hands for training.

    Args:
        generator: Source of hands and drawings.
        hands: Number of hands; four fifths are for training.
        lean: Range of turns, radians.
        stretch: Range of widths.
        press: Range of the strokes' half width.
    """
    concept = np.repeat(np.arange(10 * hands), DRAWINGS)
    # A hand leans, stretches and presses in its own way, each drawing a little differently.
    turn, wide, half = (
        generator.uniform(*ends, 10 * hands)[concept] + generator.normal(0, wobble, len(concept))
        for ends, wobble in ((lean, 0.06), (stretch, 0.03), (press, 0.004))
    )
    linear = turns(turn)
    linear[:, :, 0] *= wide[:, None]
    shift = generator.normal(0, 0.02, (len(concept), 2))
    images = ink(strokes(concept % 10, linear, shift), half, SIDE, 0.06)
    is_test = concept >= 10 * (hands * 4 // 5)
    return (images[~is_test], concept[~is_test]), (images[is_test], concept[is_test])
