"""Numbers that change over training, as functions of its progress in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_NOTHING = compile("", "", "exec")


@dataclass(frozen=True)
class Anneal:
    """Goes linearly from ``first`` to ``last`` between two moments of training.

    Args:
        first: Value up to ``start``.
        last: Value from ``end`` on.
        start: Share of the training steps after which the change begins.
        end: Share after which it is complete; equal to ``start`` for a jump.
    """

    first: float
    last: float
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        """Check the two moments."""
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(
                f"Anneal runs from {self.start} to {self.end}, expected 0 <= start <= end <= 1"
            )

    def __call__(self, progress: float) -> float:
        """The value when this share of the steps is done."""
        if progress >= self.end:
            return self.last
        if progress <= self.start:
            return self.first
        share = (progress - self.start) / (self.end - self.start)
        return self.first + share * (self.last - self.first)

    def __str__(self) -> str:
        """E.g. ``1 -> 0``."""
        return f"{self.first:g} -> {self.last:g}"


def follows_progress(value: Any) -> bool:
    """Whether an objective changes with the share of training that is done.

    It does where one of its options is an :class:`Anneal`, and is taken to where a class that
    does not belong to this package reads ``progress``.

    Args:
        value: The objective, or an option of one.
    """
    if isinstance(value, Anneal):
        return True
    if isinstance(value, Mapping):
        return any(map(follows_progress, value.values()))
    if isinstance(value, list | tuple):
        return any(map(follows_progress, value))
    if not callable(getattr(value, "at", None)) or not hasattr(value, "progress"):
        return False
    own = [cls for cls in type(value).__mro__ if not cls.__module__.startswith("ppl_models.")]
    methods = [method for cls in own for method in vars(cls).values()]
    reads = any("progress" in getattr(m, "__code__", _NOTHING).co_names for m in methods)
    return reads or any(map(follows_progress, vars(value).values()))


def value_at(number: float | Anneal, progress: float) -> float:
    """A number that may be a schedule, when this share of the steps is done."""
    return number(progress) if isinstance(number, Anneal) else number


def smallest(number: float | Anneal) -> float:
    """The smallest value that a number takes."""
    return min(number.first, number.last) if isinstance(number, Anneal) else number


def written(number: float | Anneal) -> str:
    """As a formula shows it: ``0.5`` or ``(1 -> 0)``."""
    return f"({number})" if isinstance(number, Anneal) else f"{number:g}"


def check_range(option: str, number: float | Anneal, least: float = -math.inf) -> None:
    """Raise a ValueError where a number, or an end of a schedule, is below ``least`` or nan."""
    for value in (number.first, number.last) if isinstance(number, Anneal) else (number,):
        if not least <= value < math.inf:
            bound = "a finite number" if least == -math.inf else f"a finite number >= {least:g}"
            raise ValueError(f"{option} is {value}, expected {bound}")
