"""What a loss is made of, by name: the bound, and what stands beside it.

Every part is a loss, what is made small, in nats: that of a bound is minus the bound, and all of
them add up to the loss. The names say what a number is:

- ``bound``: in expectation a lower bound of log p of what the rows observe, at any number of
  draws; exactly once, not weighted;
- ``estimate``: of such a bound or of log p, on either side of it at finitely many draws, or of
  another model;
- ``weighted_bound``, ``weighted_estimate``: either times a weight of rows or of the term;
- ``extra_kl``: what weights and floors change in the KL terms of a bound;
- ``distillation``, ``classification``, ``classification(y)``, ...: terms beside it.

Two kinds of names stand beside these and are no addends of the loss (see :func:`is_addend`):

- ``reconstruction`` and ``kl(z)``, ``kl(y)``, ...: what ``bound`` is made of, minus log p of all
  that the rows observe and log q - log p of each site of the guide, where it is a sum of them;
  ``kl(global sites)`` is that of all sites outside the rows;
- ``critic.classification(y)``: a part of a player's loss, under the player's name.
"""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ppl_models.inference.objectives.base import Objective

BOUND, ESTIMATE = "bound", "estimate"
RECONSTRUCTION, KL, GLOBAL_KL = "reconstruction", "kl", "kl(global sites)"
EXTRA_KL, DISTILLATION, CLASSIFICATION = "extra_kl", "distillation", "classification"
# Names that a training curve, and the group that it becomes in a file, keep for themselves.
NOTHING: Mapping[str, Any] = types.MappingProxyType({})
COLUMNS = ("step", "stage", "loss", "seconds")
RESERVED = (*COLUMNS, "chain")


@dataclass(frozen=True, slots=True)
class LossByPart:
    """A loss of a data set and what it is made of.

    Attributes:
        total: The loss, a scalar with its gradient, nats.
        names: Names of its parts, and behind them of what its bound is made of.
        values: The parts ``(n,)``, without gradient; the addends come to the loss.
    """

    total: Tensor
    names: tuple[str, ...]
    values: Tensor

    @classmethod
    def of_rows(
        cls, rows: Mapping[str, Tensor], scale: float, breakdown: Mapping[str, Tensor] = NOTHING
    ) -> LossByPart:
        """From losses per row ``(B,)``, each of which stands for so many rows.

        Args:
            rows: The parts, which add up to the loss.
            scale: How many rows each stands for.
            breakdown: What the bound among them is made of, likewise ``(B,)``.
        """
        total = scale * added(rows).sum()
        if len(rows) == 1 and not breakdown:
            return cls(total, tuple(rows), total.detach().reshape(1))
        told = [value.detach() for value in (*rows.values(), *breakdown.values())]
        if any(value.shape != told[0].shape for value in told):
            told = list(torch.broadcast_tensors(*told))
        values = torch.stack(told).sum(-1)
        values = values if scale == 1 else scale * values
        return cls(total, (*rows, *breakdown), values)

    def plus(self, other: LossByPart) -> LossByPart:
        """Both, part by part."""
        total = self.total + other.total
        if self.names == other.names:
            return LossByPart(total, self.names, self.values + other.values)
        every = dict.fromkeys(self.names + other.names)
        names = tuple(sorted(every, key=lambda name: not is_addend(name)))
        return LossByPart(total, names, self._under(names) + other._under(names))

    def plus_scalars(
        self,
        parts: Mapping[str, Tensor | float],
        weight: float = 1.0,
        breakdown: Mapping[str, Tensor | float] = NOTHING,
    ) -> LossByPart:
        """With losses of the data set added, as those of sites outside the rows are.

        Args:
            parts: The losses by name; those that are the number 0 are left out.
            weight: Their weight.
            breakdown: What the bound among them is made of.
        """
        told = self._told(parts)
        if not told:
            return self
        return self.plus(LossByPart.of_rows(told, weight, self._told(breakdown)))

    def _told(self, parts: Mapping[str, Tensor | float]) -> dict[str, Tensor]:
        like = self.total.detach()
        return {
            n: (v if isinstance(v, Tensor) else like.new_ones(()) * v)[None]
            for n, v in parts.items()
            if isinstance(v, Tensor) or v != 0
        }

    def times(self, weight: float) -> LossByPart:
        """All of it, times a weight."""
        return LossByPart(weight * self.total, self.names, weight * self.values)

    def per(self, rows: int) -> LossByPart:
        """All of it, per row."""
        return LossByPart(self.total / rows, self.names, self.values / rows)

    def _under(self, names: Sequence[str]) -> Tensor:
        own = dict(zip(self.names, self.values.unbind(), strict=True))
        zero = self.values.new_zeros(())
        return torch.stack([own.get(name, zero) for name in names])


def added(parts: Mapping[str, Any]) -> Any:
    """The sum of the parts; 0.0 of none."""
    values = list(parts.values())
    if len(values) > 2 and all(isinstance(v, Tensor) for v in values):
        return torch.stack(values).sum(0)
    return sum(values[1:], values[0]) if values else 0.0


def parts_of(objective: Objective, what: str, argument: Any) -> dict[str, Any]:
    """What an objective's ``rows``, ``outside`` or ``across`` gives, by the names of its parts.

    Args:
        objective: The objective.
        what: Which of the three; where a class, or the objective itself, has it anew and not
            its ``..._by_part``, that is what counts, under the first of the names.
        argument: Its argument.
    """
    if _whole(type(objective), what) or what in vars(objective):
        return {objective.part_names[0]: getattr(objective, what)(argument)}
    found: dict[str, Any] = getattr(objective, f"{what}_by_part")(argument)
    return found


@functools.cache
def _whole(cls: type, what: str) -> bool:
    for base in cls.__mro__:
        if f"{what}_by_part" in vars(base):
            return False
        if what in vars(base):
            return True
    return False


def is_addend(name: str) -> bool:
    """Whether a part adds to the loss, or tells what the bound or a player's loss is made of."""
    head = name.split("(")[0]
    return "." not in head and head not in (RECONSTRUCTION, KL)


@functools.cache
def prefixed(player: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of parts of a player's loss in the training curve."""
    return tuple(f"{player}.{name}" for name in names)


def weighted(name: str, weight: Any) -> str:
    """The name of a part that has a weight: a bound times a weight is none."""
    return f"weighted_{name}" if weight != 1 and name in (BOUND, ESTIMATE) else name


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    """The names, a further one of its kind with a number: ``hinge(y)``, ``hinge(y)_2``."""
    found: list[str] = []
    for name in names:
        number, told = 1, name
        while told in found:
            number += 1
            told = f"{name}_{number}"
        found.append(told)
    return tuple(found)


@functools.cache
def printed(about: str) -> str:
    """What a part is about, as files can hold it: there a slash begins a path."""
    return re.sub(r"[^\w ().,:+*^=<>\[\]|-]", "_", about)


def name_of(objective: object, *about: str) -> str:
    """The name of a term: that of its class and what it is about, ``classification(y)``."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(objective).__name__).lower()
    if about:
        return f"{words}({printed(', '.join(about))})"
    return f"{words}_loss" if words in RESERVED else words
