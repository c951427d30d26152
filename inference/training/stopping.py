"""How a training ends before its planned steps, without an error."""

from __future__ import annotations

import math
import time

from ppl_models.config import native_entry


class StopTraining(Exception):
    """Raised in a callback of ``fit``: the training ends after the step at hand.

    The pair has the weights of that step, or those of the best look at the validation rows where
    a stage has ``patience``. No later stage is begun. The run's ``status`` is ``"stopped"``, and
    its ``reason`` is what the exception says. Written to a folder it can be resumed.
    """


def deadline_in(minutes: object) -> float | None:
    """When so many minutes are over, by ``time.monotonic()``; None where there is no limit.

    Raises:
        ValueError: If it is no number above 0.
    """
    number = native_entry(minutes)
    if number is None:
        return None
    known = isinstance(number, int | float) and not isinstance(number, bool)
    if not known or not 0 < number < math.inf:
        raise ValueError(f"max_minutes is {minutes!r}, expected a number of minutes above 0")
    return time.monotonic() + 60.0 * float(number)
