"""Options of a simulated world: checks of numbers, ranges and kinds, and classes by frequency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ppl_models.config import check_seed, names, native, unknown
from ppl_models.data.tables.from_parts import Array

Span = tuple[float, float]


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """An option that is a number in a range, ends included.

    Raises:
        ValueError: Naming the option, its value and what was expected.
    """
    expected = "a number"
    if math.isfinite(low):
        expected = f">= {low:g}" if math.isinf(high) else f"a number in {low:g}..{high:g}"
    found = native(value)
    if not _is_number(found) or not low <= found <= high:
        raise ValueError(f"{name} is {value!r}, expected {expected}")
    return float(found)


def span(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> Span:
    """An option that is a range, least and largest number; equal ends are one number.

    Raises:
        ValueError: Naming the option, its value and what was expected.
    """
    ends = native(value)
    two = isinstance(ends, list | tuple) and len(ends) == 2 and all(map(_is_number, ends))
    if not two or not low <= ends[0] <= ends[1] <= high:
        least, most = (f"{end:g} <= " if math.isfinite(end) else "" for end in (low, high))
        within = f"{least}low <= high" + (f" <= {high:g}" if most else "")
        raise ValueError(f"{name} is {value!r}, expected two numbers with {within}")
    return float(ends[0]), float(ends[1])


def numbers(
    name: str, value: Any, count: int, low: float = -math.inf, high: float = math.inf
) -> tuple[float, ...]:
    """An option that is so many numbers in a range.

    Raises:
        ValueError: Naming the option, its value and what was expected.
    """
    found = native(value)
    fits = isinstance(found, list | tuple) and len(found) == count and all(map(_is_number, found))
    if not fits or not all(low <= entry <= high for entry in found):
        within = f" in {low:g}..{high:g}" if math.isfinite(low) else ""
        raise ValueError(f"{name} is {value!r}, expected {count} numbers{within}")
    return tuple(map(float, found))


def frequencies(name: str, value: Any, count: int) -> tuple[float, ...] | None:
    """An option that is the probability of each class, or None where all are equal.

    Raises:
        ValueError: If they are not so many numbers that sum to 1.
    """
    if value is None:
        return None
    found = native(value)
    fits = isinstance(found, list | tuple) and len(found) == count and all(map(_is_number, found))
    if not fits or min(found) < 0 or abs(math.fsum(found) - 1) > 1e-6:
        raise ValueError(
            f"{name} is {value!r}, expected {count} probabilities that sum to 1, one of each class"
        )
    return tuple(map(float, found))


def chosen(name: str, value: Any, known: Sequence[str]) -> tuple[str, ...]:
    """An option that lists some of the known kinds, each once.

    Raises:
        ValueError: Naming the option, its value and what was expected.
    """
    kinds = names(name, value)
    for kind in kinds:
        if kind not in known:
            raise ValueError(unknown(f"kind in {name}", kind, known))
    if not kinds or len(set(kinds)) < len(kinds):
        raise ValueError(f"{name} is {kinds}, expected some of {', '.join(known)}, each once")
    return kinds


def one_of(name: str, value: Any, known: Sequence[str]) -> str:
    """An option that is one of the known names.

    Raises:
        ValueError: Naming the nearest.
    """
    if value not in known:
        raise ValueError(unknown(name, value, known))
    return str(value)


def own_seed(name: str, value: Any, seed: int) -> int:
    """A seed of one part of the world; that of everything if None.

    Raises:
        ValueError: If it is no seed.
    """
    return seed if value is None else check_seed(value, name)


def spread(rows: int, count: int, frequency: Sequence[float] | None) -> Array:
    """Classes ``(rows,)`` of which each has its share of the rows, to the next whole number.

    Args:
        rows: Number of rows N.
        count: Number of classes.
        frequency: Share of each class; equal if None.
    """
    if frequency is None:
        return np.arange(rows) % count
    ends = np.rint(rows * np.cumsum(frequency)).astype(np.int64)
    return np.repeat(np.arange(count), np.diff(ends, prepend=0))


def redrawn(
    fair: Array, count: int, frequency: Sequence[float] | None, draw: np.random.Generator
) -> Array:
    """Classes by frequency from equally frequent ones, which are kept where all are equal.

    A fair class is the first digit, to the base ``count``, of a uniform number whose other
    digits are drawn; where that falls among the cumulated frequencies is the class. So one
    seed's rows change class only as far as the frequencies do.

    Args:
        fair: Classes ``(...)``, each with probability 1 / count.
        count: Number of classes.
        frequency: Probability of each class; equal if None.
        draw: Source of the further digits; not that of anything else.
    """
    if frequency is None:
        return fair
    uniform = (fair + draw.random(fair.shape)) / count
    ends = np.cumsum(frequency)[:-1]
    classes: Array = np.searchsorted(ends, uniform, side="right")
    return classes


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
