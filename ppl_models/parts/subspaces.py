"""Subspaces of a code that are kept independent of each other by perceptrons as critics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ppl_models import inference
from ppl_models.networks import Label, Net


def subspace_game(
    sizes: Mapping[str, int],
    labels: Mapping[str, tuple[str, int]],
    hidden: Sequence[int],
    weight: float,
    like: Tensor,
    **options: Any,
) -> tuple[inference.Objective, inference.Player]:
    """A term that keeps subspaces independent, each given a label or not, and its player.

    Args:
        sizes: Size of each subspace, by site.
        labels: By subspace, the label that it is exchanged within and how many classes that
            has. Without any the first subspace is exchanged among all rows.
        hidden: Units of each hidden layer of the critics, of ReLUs.
        weight: Of the term; see :func:`ppl_models.inference.independent_codes`.
        like: Gives device and floating type.
        options: Of :class:`ppl_models.inference.Player`.
    """
    given = {z: {s: Label(classes)} for z, (s, classes) in labels.items()}
    given = given or {next(iter(sizes)): {}}
    critics = {z: Net({**sizes, **label}, hidden, 1, "relu") for z, label in given.items()}
    within = {z: label for z, (label, _) in labels.items()}
    networks = nn.ModuleDict(critics).to(like)
    return inference.independent_codes(networks, tuple(sizes), within, weight, **options)
