"""Tables of codes with known answers: five representations of five factors, and four models.

Each is rebuilt from its seed. What reference implementations gave on the same numbers stands in
``code_tables.json``: google-research/disentanglement_lib and noahcao/disentanglement_lib_med,
unchanged, under numpy 2.4.6, scipy 1.17.1 and scikit-learn 1.9.1.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ppl_models.inference import metrics

Array = np.ndarray[Any, Any]
SIZES = (3, 4, 5, 6, 4)  # values of the five factors


def independent_factors(source: np.random.RandomState, rows: int, sizes=SIZES) -> Array:
    """Uniform whole numbers ``(rows, K)``, each factor by itself."""
    return np.stack([source.randint(size, size=rows) for size in sizes], axis=1)


def unit(factors: Array, sizes=SIZES) -> Array:
    """Factors of mean 0 and variance 1 under the uniform distribution over their values."""
    size = np.asarray(sizes, dtype=np.float64)
    return (factors - (size - 1.0) / 2.0) / np.sqrt((size**2 - 1.0) / 12.0)


def turned(size: int, first: int, second: int, degrees: float) -> Array:
    """Rotation ``(size, size)`` in the plane of two axes."""
    matrix, angle = np.eye(size), np.deg2rad(degrees)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


def axis_aligned(factors: Array, noise: np.random.RandomState) -> Array:
    """One noiseless code per factor."""
    return unit(factors)


def rotated(factors: Array, noise: np.random.RandomState) -> Array:
    """All five codes mixed by a fixed rotation."""
    matrix = np.eye(5)
    for i in range(5):
        for j in range(i + 1, 5):
            matrix = matrix @ turned(5, i, j, 20.0 + 7.0 * (i + j))
    return unit(factors) @ matrix.T


def redundant(factors: Array, noise: np.random.RandomState) -> Array:
    """Every factor twice, with independent noise."""
    u = unit(factors)
    both = np.concatenate([u, -1.5 * u], axis=1)
    return both + 0.2 * noise.standard_normal(both.shape)


def constant_codes(factors: Array, noise: np.random.RandomState) -> Array:
    """Five codes of a factor each, three that are 0 and two that are 1.5."""
    u = unit(factors)
    u = u + 0.1 * noise.standard_normal(u.shape)
    rows = len(u)
    return np.concatenate(
        [u[:, :2], np.zeros((rows, 3)), u[:, 2:], np.full((rows, 2), 1.5)], axis=1
    )


def med_wide(factors: Array, noise: np.random.RandomState) -> Array:
    """64 codes: 8 of one factor each, 8 weak mixtures, 48 of noise."""
    u, rows = unit(factors), len(factors)
    of_one = np.stack([u[:, k % 5] for k in range(8)], axis=1)
    of_one = of_one + 0.3 * noise.standard_normal((rows, 8))
    weights = np.cos(1.0 + np.arange(8)[:, None] + 2 * np.arange(5))
    of_all = u @ weights.T + noise.standard_normal((rows, 8))
    of_none = noise.standard_normal((rows, 48))
    return np.concatenate([of_none[:, :24], of_one, of_all, of_none[:, 24:]], axis=1)


CODES: dict[str, Callable[[Array, np.random.RandomState], Array]] = {
    "axis_aligned": axis_aligned,
    "rotated": rotated,
    "redundant": redundant,
    "constant_codes": constant_codes,
    "med_wide": med_wide,
}
VALUES: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text())
SEEDS = {name: 100 + n for n, name in enumerate(CODES)}
TRAIN, TEST = 2_000, 1_000  # rows


def golden_arrays(name: str) -> tuple[Array, Array, Array, Array]:
    """Factors and codes to fit on, then factors and codes to ask."""
    source = np.random.RandomState(SEEDS[name])
    factors, test_factors = (independent_factors(source, rows) for rows in (TRAIN, TEST))
    noise = np.random.RandomState(SEEDS[name] + 1)
    codes, test_codes = (CODES[name](of, noise) for of in (factors, test_factors))
    return factors, codes, test_factors, test_codes


def golden(name: str) -> tuple[metrics.CodeTable, metrics.CodeTable]:
    """The table to fit on and the table to ask."""
    factors, codes, test_factors, test_codes = golden_arrays(name)
    return metrics.from_arrays(codes, factors), metrics.from_arrays(test_codes, test_factors)


def models_of_one_set() -> tuple[list[metrics.CodeTable], list[Array]]:
    """Codes of four models of the same 1,000 rows, and their mean KL per code ``(6,)``.

    The factors; the factors in another order and with noise; the factors turned by pairs; and
    three factors beside noise. The first three have a dead code.
    """
    factors = independent_factors(np.random.RandomState(300), 1_000)
    noise, u = np.random.RandomState(301), unit(factors)

    def dead() -> Array:
        return 0.01 * noise.standard_normal((len(u), 1))

    aligned = np.concatenate([u, dead()], axis=1)
    permuted = np.concatenate([dead(), -u[:, [2, 0, 1, 4, 3]]], axis=1)
    permuted = permuted + 0.05 * noise.standard_normal(permuted.shape)
    matrix = turned(5, 0, 1, 45.0) @ turned(5, 2, 3, 30.0)
    mixed = np.concatenate([u @ matrix.T, dead()], axis=1)
    half = np.concatenate([u[:, :3], noise.standard_normal((len(u), 3))], axis=1)
    kl = [
        np.array([2, 2, 2, 2, 2, 0.001]),
        np.array([0.001, 2, 2, 2, 2, 2]),
        np.array([2, 2, 2, 2, 2, 0.001]),
        np.array([2, 2, 2, 0.5, 0.5, 0.5]),
    ]
    return [metrics.from_arrays(of, factors) for of in (aligned, permuted, mixed, half)], kl
