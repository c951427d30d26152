"""Coordinates of a code that tell attributes, with perceptrons as heads and adversaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ppl_models import inference
from ppl_models.networks import Net


def attribute_game(
    site: str,
    size: int,
    places: Mapping[str, int],
    hidden: Sequence[int],
    excitation: float,
    inhibition: float,
    like: Tensor,
    **options: Any,
) -> tuple[inference.Objective, tuple[inference.Player, ...]]:
    """Terms by which each attribute has its coordinate, and their players.

    Args:
        site: The code.
        size: How many coordinates it has.
        places: By label, the place of its coordinate.
        hidden: Units of each hidden layer of the networks, of ReLUs.
        excitation: Weight of a label read off its own coordinate.
        inhibition: Weight of one hidden from all others; without, there are no adversaries.
        like: Gives device and floating type.
        options: Of the adversaries' player, see :func:`ppl_models.inference.guided_attributes`.
    """
    heads = {label: Net({site: 1}, hidden, 1, "relu").to(like) for label in places}
    adversaries = {
        label: Net({site: size - 1}, hidden, 1, "relu").to(like)
        for label in (places if inhibition else ())
    }
    return inference.guided_attributes(
        heads, adversaries, site, places, excitation, inhibition, **options
    )
