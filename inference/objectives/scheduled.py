"""Buffers whose entries follow schedules, such as how far parts of a network are faded in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from ppl_models.inference.objectives.schedule import Anneal, Progress


def scheduled(
    module: nn.Module, name: str, numbers: Sequence[Anneal]
) -> Callable[[Progress], None]:
    """What makes a buffer follow schedules, for ``after`` of a :class:`Stage`.

    After each step the buffer has the values of the next one. It is saved and resumed with the
    pair that holds it, and a run that it changes can be prolonged. Before the first step the
    buffer has the values that it is given.

    Args:
        module: Holds the buffer.
        name: Name of the buffer, a vector.
        numbers: By entry, a schedule that goes by steps.

    Raises:
        ValueError: If there is no such buffer, it is no vector with an entry per schedule, or a
            schedule goes by shares.
    """
    shape = tuple(getattr(dict(module.named_buffers()).get(name), "shape", ()))
    if shape != (len(numbers),):
        raise ValueError(
            f"buffer {name!r} of {type(module).__name__} has shape {shape}, expected a vector of "
            f"{len(numbers)}, one entry per schedule"
        )
    for number in numbers:
        if not number.steps:
            raise ValueError(f"{number!r} goes by shares, expected one with steps=")

    def follow(progress: Progress) -> None:
        ahead = Progress(progress, progress.steps + 1)
        buffer = module.get_buffer(name)
        with torch.no_grad():
            buffer.copy_(buffer.new_tensor([number(ahead) for number in numbers]))

    return follow
