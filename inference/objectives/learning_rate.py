"""How the learning rate changes over a stage: exact functions of the number of steps done.

A stage's rates are its learning rates times ``warm-up x schedule``. Step t, counted from 0, of a
stage of T steps has the warm-up ``min(1, (t + 1) / warmup)``, and with W steps of warm-up, the
share ``s = (t - W) / (T - W)``, at least 0 and at most 1, and the end ``last`` the schedule

- ``constant``: 1;
- ``linear``: ``1 + s (last - 1)``;
- ``cosine``: ``last + (1 - last) (1 + cos(pi s)) / 2``;
- ``step``: ``factor`` to the power of the number of drops up to t: at the steps, or shares of
  the stage, in ``at``, or ``every`` so many steps.

``steps=`` gives ``linear`` and ``cosine`` a length T of their own; with it, and with drops told
in steps, the rates do not depend on how long the stage is, so that a run can be prolonged.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from ppl_models.config import unknown, whole
from ppl_models.inference.objectives.called import called

Factor = Callable[[int, int], float]  # of the steps done, and the stage's steps


def constant(done: int, total: int, warmup: int) -> float:
    """1 throughout."""
    return 1.0


def linear(done: int, total: int, warmup: int, last: float = 0.0, steps: int = 0) -> float:
    """A line from 1 to ``last``."""
    return 1.0 + _share(done, total, warmup, steps) * (last - 1.0)


def cosine(done: int, total: int, warmup: int, last: float = 0.0, steps: int = 0) -> float:
    """Half a wave from 1 to ``last``."""
    share = _share(done, total, warmup, steps)
    return last + (1.0 - last) * (1.0 + math.cos(math.pi * share)) / 2.0


def step(
    done: int,
    total: int,
    warmup: int,
    every: int = 0,
    at: int | float | Sequence[int | float] = (),
    factor: float = 0.1,
) -> float:
    """``factor`` for each drop so far."""
    drops = done // every if every else 0
    drops += sum(done >= moment * (total if _is_share(moment) else 1) for moment in _several(at))
    found: float = factor**drops
    return found


SCHEDULES: dict[str, Callable[..., float]] = {
    f.__name__: f for f in (constant, linear, cosine, step)
}
OPTIONS = {name: list(inspect.signature(f).parameters)[3:] for name, f in SCHEDULES.items()}


def learning_rate_factor(schedule: str, warmup: int = 0) -> Factor:
    """What the learning rates are multiplied by, as a function of the step.

    Args:
        schedule: ``constant``, ``linear``, ``cosine`` or ``step``, with options in parentheses;
            see this module.
        warmup: Steps of warm-up.

    Raises:
        ValueError: Naming the schedule, or option, with the nearest one, or the value.
    """
    name, given = _read(schedule)

    def factor(done: int, total: int) -> float:
        ramp = (done + 1) / warmup if done < warmup else 1.0
        return ramp * shape(done, total, warmup)

    shape = functools.partial(SCHEDULES[name], **given)
    return factor


def rates_follow_share(schedule: str) -> bool:
    """Whether the rates depend on how long the stage is."""
    name, given = _read(schedule)
    if name in ("linear", "cosine"):
        return not given.get("steps", 0)
    return any(map(_is_share, _several(given.get("at", ()))))


def _read(schedule: str) -> tuple[str, dict[str, Any]]:
    name, given = called("schedule", schedule)
    if name not in SCHEDULES:
        raise ValueError(unknown("schedule", name, SCHEDULES))
    for option, value in given.items():
        if option not in OPTIONS[name]:
            if not OPTIONS[name]:
                raise ValueError(f"schedule {name!r} takes no options, got {option!r}")
            raise ValueError(unknown(f"option of schedule {name!r}", option, OPTIONS[name]))
        _check(f"{option} of schedule {schedule!r}", option, value)
    if name == "step" and bool(given.get("every")) == bool(_several(given.get("at", ()))):
        raise ValueError(f"schedule {schedule!r}: expected one of every= and at=")
    return name, given


def _check(what: str, option: str, value: Any) -> None:
    if option in ("every", "steps"):
        whole(what, value, 1)
        return
    for number in _several(value) if option == "at" else (value,):
        kind = isinstance(number, int | float) and not isinstance(number, bool)
        if not kind or not 0 <= number < math.inf:
            raise ValueError(f"{what} is {value!r}, expected a finite number >= 0")
        if option == "at" and _is_share(number) and not number < 1:
            raise ValueError(f"{what} has {number}, expected whole steps, or shares below 1")


def _share(done: int, total: int, warmup: int, steps: int) -> float:
    length = (steps or total) - warmup
    return min(1.0, max(0, done - warmup) / length) if length > 0 else 1.0


def _is_share(moment: int | float) -> bool:
    return isinstance(moment, float)


def _several(at: Any) -> tuple[Any, ...]:
    return tuple(at) if isinstance(at, tuple | list) else (at,)
