"""What an objective is composed of: the objectives inside it, and the networks that they hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from ppl_models.inference.objectives.base import Objective


def terms_of(value: Any) -> Iterator[Any]:
    """The objectives inside an objective, and the modules they hold."""
    if isinstance(value, Objective):
        yield value
        for part in vars(value).values():
            yield from terms_of(part)
    elif isinstance(value, nn.Module):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from terms_of(part)


def networks_in(objective: Any) -> list[nn.Module]:
    """The networks that an objective holds, such as a critic or a target."""
    return [part for part in terms_of(objective) if isinstance(part, nn.Module)]
