"""Digits of two classes whose brightness gives the class away in training rows."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from ppl_models.data.render.handwriting import handwritten
from ppl_models.data.render.morpho import edit
from ppl_models.data.render.world_options import number, numbers
from ppl_models.data.tables.from_parts import Array, from_parts
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.table import Dataset


def load(
    train: int = 2_000,
    validation: int = 200,
    test: int = 500,
    source: str | None = None,
    labelled: int | None = None,
    seed: int = 0,
    *,
    digits: tuple[int, int] = (3, 8),
    correlation: float = 0.9,
    test_correlation: float = 0.0,
    intensity_effect: float = 1.0,
    noise: float = 2.5,
) -> Dataset:
    """Real digits of two classes edited to a thickness and an intensity, as in ``morpho_mnist``.

    Thickness t = 0.5 + Gamma(10, rate 5) in pixels; intensity i = 64 + 191 sigmoid(t - 2.5
    + 2.5 e) in grey levels. In training and validation rows the sign of e is correlated with the
    class by 0.9: most of the first class are bright for their thickness, most of the second dark.
    In test rows it is not. Each class has half of the rows, and over both e is N(0, 1). Sites
    ``x`` (28 x 28, 0 to 1), ``y`` (the class), ``thickness``, ``intensity``.

    Args:
        train: Training rows, digits of the source's training rows drawn at random.
        validation: Validation rows, other digits of the same.
        test: Test rows, from its test rows.
        source: ``mnist`` or ``digits`` (scikit-learn's, enlarged); when left out MNIST if it
            is there. Rows are repeated only where there are fewer digits than rows.
        labelled: Training rows that keep ``y``; all if None.
        seed: Seed of everything.
        digits: The two digits, the bright one first.
        correlation: Of the class and the sign of e in training and validation rows, -1 to 1.
        test_correlation: The same in test rows.
        intensity_effect: What a pixel of thickness adds to the logit of the intensity; 0 for no
            arrow.
        noise: Standard deviation of the noise on the logit of the intensity.

    Raises:
        FileNotFoundError: If MNIST was asked for and is not there.
        ValueError: If a part has too few rows, or an option is out of range.
    """
    both = tuple(map(int, numbers("digits", digits, 2, 0, 9)))
    if both != tuple(digits) or both[0] == both[1]:
        raise ValueError(f"digits is {digits}, expected two different whole numbers")
    told = number("correlation", correlation, -1, 1)
    told_in_tests = number("test_correlation", test_correlation, -1, 1)
    effect, noise = number("intensity_effect", intensity_effect), number("noise", noise, 0)
    for part, rows in (("train", train), ("validation", validation), ("test", test)):
        if rows < 2:
            raise ValueError(f"bright_digits has {rows} {part} rows, expected at least 2")
    source, (known, held) = handwritten(source)
    order = numpy_generator(seed, 3).permutation(len(known[1]))
    share = len(order) * train // (train + validation)
    last = numpy_generator(seed, 4).permutation(len(held[1]))
    parts = []
    for place, ((images, digit), pool, rows) in enumerate(
        ((known, order[:share], train), (known, order[share:], validation), (held, last, test))
    ):
        draw = numpy_generator(seed, place)
        y = draw.permutation(np.arange(rows) % 2)
        chosen = np.empty(rows, np.int64)
        for label, wanted in enumerate(both):
            chosen[y == label] = np.resize(pool[digit[pool] == wanted], (y == label).sum())
        thickness, e = causes(y, told_in_tests if place == 2 else told, draw)
        intensity = 64 + 191 * expit(effect * (thickness - 2.5) + noise * e)
        x = edit(images[chosen], thickness, intensity)
        parts.append({"x": x, "y": y, "thickness": thickness, "intensity": intensity})
    options = {
        "train": train,
        "validation": validation,
        "test": test,
        "digits": both,
        "correlation": told,
        "test_correlation": told_in_tests,
        "intensity_effect": effect,
        "noise": noise,
        "source": source,
    }
    return from_parts(
        "bright_digits",
        parts,
        options=options,
        labelled=labelled,
        seed=seed,
        classes={"y": tuple(map(str, both))},
    )


def causes(y: Array, correlation: float, draw: np.random.Generator) -> tuple[Array, Array]:
    """Thickness ``(n,)`` in pixels, and e ``(n,)``; see :func:`load`.

    Args:
        y: Classes ``(n,)``, 0 and 1.
        correlation: Of the class 0 and a positive e.
        draw: Source of both.
    """
    thickness = 0.5 + draw.gamma(10, 1 / 5, len(y))
    size, order = np.abs(draw.normal(size=len(y))), draw.random(len(y))
    said = np.zeros(len(y), bool)
    said[order.argsort()[: round((1 + correlation) / 2 * len(y))]] = True
    return thickness, np.where((y == 0) == said, size, -size)
