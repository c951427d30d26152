"""A value that one side of a game makes small and the other large."""

from __future__ import annotations

from typing import Any

from torch import nn

from ppl_models.inference.objectives.base import Objective, Sum
from ppl_models.inference.objectives.stage import Player


def max_min(
    value: Objective,
    weight: float = 1.0,
    *,
    module: nn.Module | None = None,
    parameters: tuple[str, ...] = (),
    name: str = "adversary",
    **options: Any,
) -> tuple[Sum, Player]:
    """The two objectives of opposite sign over one value: a term, and a player against it.

    The stage's own side makes ``weight * value`` small, beside whatever it is added to, and the
    player makes ``value`` large, by networks outside the pair or by a part of the pair, as in
    ``max_min(Classification("y"), parameters=("guide.factors.y",))``.

    Args:
        value: The value, as a loss.
        weight: Of the term on the stage's own side; below 0 both make the value large.
        module: Networks outside the pair that the player trains.
        parameters: Prefixes of the names of parameters of the pair that it trains.
        name: Of the player.
        options: Of :class:`Player`: ``steps``, ``learning_rate``, ``betas``, ...
    """
    return value * weight, Player(name, value * -1.0, module, parameters, **options)
