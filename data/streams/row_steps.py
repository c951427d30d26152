"""Steps of a view of any rows: noise, dropped features, jittered time.

A step is a function of rows ``(B, ...)`` that are independent of each other. What is random is
drawn row by row, from torch's own generator: row numbers come first in every draw, so that a
batch that processes share gets the numbers that one process would have drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

Range = tuple[float, float]


# What a view is made by: other rows of the same shape; of images ``(B, C, H, W)``. One that is
# not content with every shape has a method ``refusal``, which says from the images' shape
# (H, W, C), None for rows of any other kind, what it expects instead; an empty text where it is.
Step = Callable[[Tensor], Tensor]


def check_share(what: str, value: Any) -> None:
    """Refuse what is no number from 0 to 1.

    Raises:
        ValueError: In one line, naming the option.
    """
    if not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise ValueError(f"{what} is {value!r}, expected a number from 0 to 1")


def check_size(what: str, value: Any, most: float = math.inf) -> None:
    """Refuse what is no number from 0 to ``most``.

    Raises:
        ValueError: In one line, naming the option.
    """
    if not isinstance(value, Real) or not 0 <= float(value) <= most or float(value) == math.inf:
        up_to = "" if most == math.inf else f" and at most {most:g}"
        raise ValueError(f"{what} is {value!r}, expected a number of at least 0{up_to}")


def check_range(what: str, value: Any, most: float = math.inf) -> None:
    """Refuse what are no two numbers above 0, the smaller first.

    Raises:
        ValueError: In one line, naming the option.
    """
    good = isinstance(value, tuple) and len(value) == 2
    good = good and all(isinstance(v, Real) and 0 < float(v) < math.inf for v in value)
    if not (good and value[0] <= value[1] <= most):
        up_to = "" if most == math.inf else f", at most {most:g}"
        raise ValueError(f"{what} is {value!r}, expected (least, most) above 0{up_to}")


def uniform(rows: Tensor, count: int) -> list[Tensor]:
    """Numbers of each row from (0, 1), ``count`` times ``(B,)``; the same for every dtype."""
    drawn = torch.rand((len(rows), count), dtype=torch.float64, device=rows.device)
    return [part.to(rows.dtype) for part in drawn.unbind(1)]


def between(share: Tensor, ends: Range) -> Tensor:
    """A share of the way from one end to the other."""
    return ends[0] + (ends[1] - ends[0]) * share


def around(share: Tensor, size: float) -> Tensor:
    """From minus to plus a size."""
    return size * (2 * share - 1)


def each(value: Tensor, rows: Tensor) -> Tensor:
    """A number of each row, to be multiplied with the rows."""
    return value.reshape(-1, *[1] * (rows.dim() - 1))


def in_some(share: Tensor, probability: float, changed: Tensor, rows: Tensor) -> Tensor:
    """Changed rows where a uniform number is below the probability, the others as they were."""
    return torch.where(each(share < probability, rows), changed, rows)


@dataclass(frozen=True)
class Noise:
    """Normal noise, of a deviation that each row draws.

    Args:
        deviation: Least and greatest standard deviation, in the unit of the rows.
        probability: Of a row to get any.

    Raises:
        ValueError: If an option is out of range.
    """

    deviation: Range = (0.1, 0.1)
    probability: float = 1.0

    def __post_init__(self) -> None:
        """Check the options."""
        check_range("deviation of Noise", self.deviation)
        check_share("probability of Noise", self.probability)

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows of any shape."""
        some, size = uniform(rows, 2)
        noise = torch.randn(rows.shape, dtype=rows.dtype, device=rows.device)
        changed = rows + each(between(size, self.deviation), rows) * noise
        return in_some(some, self.probability, changed, rows)


@dataclass(frozen=True)
class Dropout:
    """Entries set to a value, each on its own; the others are not made larger.

    Args:
        share: Probability of an entry to be dropped.
        value: What it is set to.

    Raises:
        ValueError: If the share is out of range.
    """

    share: float = 0.1
    value: float = 0.0

    def __post_init__(self) -> None:
        """Check the options."""
        check_share("share of Dropout", self.share)

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows of any shape."""
        drawn = torch.rand(rows.shape, dtype=torch.float64, device=rows.device)
        return torch.where(drawn < self.share, self.value, rows)


@dataclass(frozen=True)
class TimeJitter:
    """Series ``(B, T)`` or ``(B, T, ...)`` that start earlier or later and run slower or faster.

    Read off between the points of time by straight lines; beyond the ends stand the end values.

    Args:
        shift: Most that the start moves, as a share of the whole time.
        speed: Least and greatest factor of speed, about the middle.

    Raises:
        ValueError: If an option is out of range.
    """

    shift: float = 0.1
    speed: Range = (1.0, 1.0)

    def __post_init__(self) -> None:
        """Check the options."""
        check_share("shift of TimeJitter", self.shift)
        check_range("speed of TimeJitter", self.speed)

    def __call__(self, rows: Tensor) -> Tensor:
        """Series with time in their first dimension."""
        by, speed = uniform(rows, 2)
        length = rows.shape[1]
        middle = (length - 1) / 2
        t = torch.arange(length, dtype=rows.dtype, device=rows.device) - middle
        at = between(speed, self.speed)[:, None] * t + middle
        at = (at + around(by, self.shift)[:, None] * length).clamp(0, length - 1)
        before = at.floor().clamp_max(max(length - 2, 0))
        part = (at - before).reshape(*at.shape, *[1] * (rows.dim() - 2))
        index = before.long().reshape(part.shape).expand(rows.shape)
        after = (index + 1).clamp_max(length - 1)
        return rows.gather(1, index) * (1 - part) + rows.gather(1, after) * part

    def refusal(self, shape: tuple[int, ...] | None) -> str:
        """No images, whose first dimension is no time."""
        return "expected series, without shape=" if shape is not None else ""
