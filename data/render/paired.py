"""Two views of one thing, for multimodal models (Joy et al. 2022, arXiv 2106.12570)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ppl_models.data.readers import digits
from ppl_models.data.render.strokes import DIGITS, styled
from ppl_models.data.render.world_options import number, own_seed, span
from ppl_models.data.tables.from_parts import Array, from_parts
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.table import Dataset

KINDS = {
    "crown": ("white", "black", "red", "brown"),
    "wing": ("grey", "blue", "barred", "spotted"),
    "belly": ("cream", "yellow", "streaked", "plain"),
    "bill": ("short", "long", "hooked", "curved"),
    "tail": ("forked", "square", "round", "fan"),
    "leg": ("orange", "pink", "dark", "pale"),
}
SYNONYMS = {
    "crown": "cap", "wing": "pinion", "belly": "underside",
    "bill": "beak", "tail": "rump", "leg": "shank",
}  # fmt: skip
# "V0 N0" are value and name of the first attribute that is mentioned.
SENTENCES = (
    "a bird with V0 N0 and V1 N1 and V2 N2 .",
    "this bird has V0 N0 , V1 N1 and V2 N2 .",
    "N0 is V0 , N1 is V1 , N2 is V2 .",
)
_PLAIN = {w for s in SENTENCES for w in s.split() if not w[-1].isdigit()}
VOCABULARY = tuple(
    sorted(_PLAIN | {*KINDS, *SYNONYMS.values()} | {v for kind in KINDS.values() for v in kind})
)


def load_digits(
    train: int = 8_000,
    validation: int = 200,
    test: int = 397,
    labelled: int | None = None,
    seed: int = 0,
    *,
    angle: tuple[float, float] = (-0.25, 0.25),
    scale: tuple[float, float] = (0.75, 1.0),
    width: tuple[float, float] = (0.05, 0.09),
    inverted: float = 0.5,
    noise: float = 0.02,
) -> Dataset:
    """Real digits ``s`` (8 x 8) beside styled stroke digits ``t`` (12 x 12) of the same class.

    An offline stand-in for MNIST-SVHN: 1,200 of scikit-learn's digits for training (each in
    several pairs), 200 and 397 others for validation and test. Site ``y`` is the digit.
    :func:`ppl_models.data.unpair` leaves a share of the rows with both, 1 to 0.0625 in the
    paper.

    Args:
        train: Training pairs.
        validation: Validation pairs.
        test: Test pairs.
        labelled: Training rows that keep ``y``; all if None.
        seed: Seed of everything.
        angle: Range of turns clockwise of ``t``, radians, uniform.
        scale: Range of its sizes, where 1 fills the picture, uniform.
        width: Range of its strokes' half width, in units of the picture's side, uniform.
        inverted: Probability that its ground and ink are swapped.
        noise: Standard deviation of the Normal noise on its pixels, before they are cut to 0..1.

    Raises:
        ValueError: If an option is out of range.
    """
    style: dict[str, Any] = {
        "angle": span("angle", angle),
        "scale": span("scale", scale, 0),
        "width": span("width", width, 0),
        "inverted": number("inverted", inverted, 0, 1),
        "noise": number("noise", noise, 0),
    }
    source = digits.load(train=1_200, validation=200, test=397, seed=seed)
    parts = []
    for place, (table, rows) in enumerate(
        zip((source.train, source.validation, source.test), (train, validation, test), strict=True)
    ):
        draw = numpy_generator(seed, place)
        # Each digit is used before any is used again.
        turns = [draw.permutation(len(table)) for _ in range(-(-rows // len(table)))]
        chosen = np.concatenate(turns)[:rows]
        y = table.sites["y"].numpy()[chosen]
        s = table.sites["x"].numpy()[chosen].reshape(-1, 8, 8)
        parts.append({"s": s, "t": styled(y, draw, **style), "y": y})
    options = {"train": train, "validation": validation, "test": test, **style}
    return from_parts(
        "paired_digits",
        parts,
        options=options,
        labelled=labelled,
        seed=seed,
        classes={"y": DIGITS},
    )


def load_captions(
    train: int = 8_000,
    validation: int = 500,
    test: int = 1_000,
    labelled: Mapping[str, int] | None = None,
    seed: int = 0,
    *,
    noise: float = 0.1,
    network_seed: int | None = None,
) -> Dataset:
    """Features ``s`` (64 numbers) of made-up birds beside captions ``t`` (12 words).

    An offline stand-in for CUB: six attributes of four values each, label sites of their own;
    ``s`` is a fixed random network of all of them plus noise of 0.1; a caption names three
    of them, drawn at random, each by either of two names, in one of three sentences. Site
    ``t`` holds words by their place in :data:`VOCABULARY`.

    Args:
        train: Training pairs.
        validation: Validation pairs.
        test: Test pairs.
        labelled: Training rows that keep an attribute, by its name; all if None.
        seed: Seed of everything.
        noise: Standard deviation of the Normal noise on the features ``s``.
        network_seed: Seed of the network that makes features of attributes; ``seed`` if None.

    Raises:
        ValueError: If an option is out of range.
    """
    noise = number("noise", noise, 0)
    weights = numpy_generator(own_seed("network_seed", network_seed, seed), 4)
    first, second = weights.normal(0, 0.5, (24, 64)), weights.normal(0, 64**-0.5, (64, 64))
    parts = []
    for place, rows in enumerate((train, validation, test)):
        draw = numpy_generator(seed, place)
        values = draw.integers(4, size=(rows, 6))
        hidden = np.tanh(np.eye(4)[values].reshape(rows, 24) @ first)
        s = np.tanh(hidden @ second) + draw.normal(0, noise, (rows, 64))
        parts.append(
            {"s": s, "t": captions(values, draw), **dict(zip(KINDS, values.T, strict=True))}
        )
    options = {
        "train": train,
        "validation": validation,
        "test": test,
        "noise": noise,
        "network_seed": network_seed,
    }
    return from_parts(
        "captions",
        parts,
        options=options,
        labelled=labelled,
        seed=seed,
        classes={"t": VOCABULARY, **KINDS},
    )


def captions(values: Array, generator: np.random.Generator) -> Array:
    """Words ``(n, 12)`` that name three attributes of each bird ``(n, 6)``."""
    n, code = len(values), {word: place for place, word in enumerate(VOCABULARY)}
    named = generator.permuted(np.tile(np.arange(6), (n, 1)), axis=1)[:, :3]
    noun = np.array([[code[kind], code[SYNONYMS[kind]]] for kind in KINDS])
    adjective = np.array([[code[value] for value in kind] for kind in KINDS.values()])
    slots = {}
    for k, kind in enumerate(named.T):
        slots[f"N{k}"] = noun[kind, generator.integers(2, size=n)]
        slots[f"V{k}"] = adjective[kind, values[np.arange(n), kind]]
    said = np.stack(
        [
            np.stack([slots[w] if w in slots else np.full(n, code[w]) for w in s.split()], axis=1)
            for s in SENTENCES
        ]
    )
    chosen: Array = said[generator.integers(len(SENTENCES), size=n), np.arange(n)]
    return chosen
