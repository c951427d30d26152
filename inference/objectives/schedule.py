"""Numbers that change over training, as functions of its progress."""

from __future__ import annotations

import dis
import functools
import math
import operator
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_NOTHING = compile("", "", "exec")
SHAPES = ("linear", "cosine", "exponential")
DECAY = 5.0  # time constants that an exponential change takes in all


class Progress(float):
    """The share of a stage's steps that is done, a number in [0, 1], and how many these are.

    Attributes:
        steps: How many steps are done.
    """

    steps: float

    def __new__(cls, share: float, steps: float) -> Progress:
        """A number, with one more."""
        made = super().__new__(cls, share)
        made.steps = steps
        return made


@dataclass(frozen=True)
class Anneal:
    """Goes from ``first`` to ``last`` between two moments of training.

    Args:
        first: Value up to ``start``.
        last: Value from ``end`` on.
        start: Share of the training steps after which the change begins.
        end: Share after which it is complete; equal to ``start`` for a jump.
        steps: Number of steps of which these are shares; 0 for those of the stage. A run whose
            numbers change by steps can be prolonged.
        shape: ``"linear"``; ``"cosine"`` for half a wave, slow at both ends; or
            ``"exponential"``, :math:`(1 - e^{-5s}) / (1 - e^{-5})` at the share s of the way: it
            has a time constant of a fifth of the way, and is at ``last`` at its end.
    """

    first: float
    last: float
    start: float = 0.0
    end: float = 1.0
    steps: int = field(default=0, metadata={"added": True})
    shape: str = field(default="linear", metadata={"added": True})

    def __post_init__(self) -> None:
        """Check moments, steps and shape."""
        if not hasattr(self.steps, "__index__") or self.steps < 0:
            raise ValueError(f"steps of Anneal is {self.steps!r}, expected a whole number >= 0")
        object.__setattr__(self, "steps", operator.index(self.steps))
        if self.shape not in SHAPES:
            allowed = ", ".join(SHAPES)
            raise ValueError(f"shape of Anneal is {self.shape!r}, expected one of {allowed}")
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(
                f"Anneal runs from {self.start} to {self.end}, expected 0 <= start <= end <= 1"
            )

    def __call__(self, progress: float) -> float:
        """The value when this share of the steps is done.

        Raises:
            ValueError: If it goes by steps, and the progress says nothing of them.
        """
        if self.steps:
            progress = _steps_done(progress) / self.steps
        if progress >= self.end:
            return self.last
        if progress <= self.start:
            return self.first
        share = (progress - self.start) / (self.end - self.start)
        if self.shape == "cosine":
            share = (1 - _cosine(math.pi * share)) / 2
        elif self.shape == "exponential":
            share = (1 - _exponential(-DECAY * share)) / (1 - math.exp(-DECAY))
        return self.first + share * (self.last - self.first)

    def __str__(self) -> str:
        """E.g. ``1 -> 0``."""
        return f"{self.first:g} -> {self.last:g}"


def as_progress(share: float) -> Progress:
    """The progress; one that says nothing of steps has done none."""
    return share if isinstance(share, Progress) else Progress(share, 0)


def _steps_done(progress: Any) -> Any:
    steps = getattr(progress, "steps", None)
    if steps is None and progress != 0:
        raise ValueError(
            f"a number changes by steps, but the progress is {progress}; expected "
            "Progress(share, steps)"
        )
    return 0.0 if steps is None else steps


def _cosine(angle: Any) -> Any:
    return math.cos(angle) if isinstance(angle, float) else angle.cos()  # a traced number


def _exponential(power: Any) -> Any:
    return math.exp(power) if isinstance(power, float) else power.exp()


def follows_progress(value: Any) -> bool:
    """Whether an objective changes with the share of training that is done.

    It does where one of its options is an :class:`Anneal` that goes by shares, and is taken to
    where a class that does not belong to this package reads ``progress``.

    Args:
        value: The objective, or an option of one.
    """
    if isinstance(value, Anneal):
        return not value.steps
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


def change_follows_progress(change: Callable[[Progress], Any]) -> bool:
    """Whether what a stage does after its steps changes with the share of training that is done.

    It does where it holds an :class:`Anneal` that goes by shares, and is taken to where a
    function that does not belong to this package reads its argument.

    Args:
        change: Called with the progress.
    """
    if isinstance(change, functools.partial):
        held = change.args, change.keywords
        return follows_progress(held) or change_follows_progress(change.func)
    function = getattr(change, "__func__", change)
    if not isinstance(function, types.FunctionType):
        return True
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    if follows_progress(cells):
        return True
    if function.__module__.startswith("ppl_models.inference."):
        return False
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return bool(names) and any(
        names[-1] in (found.argval if isinstance(found.argval, tuple) else (found.argval,))
        for found in dis.get_instructions(function)
        if found.opname.startswith("LOAD")
    )


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
