"""A number that a traced step reads afresh each time."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ppl_models.inference.objectives.schedule import Progress

Outcome = tuple[Callable[[Any], bool], bool]  # of the progress


class Live:
    """Stands for the progress of training, or a number computed from it, in a trace.

    Arithmetic with numbers gives another such number, arithmetic with tensors a tensor of the
    graph. A comparison is answered for the moment of the trace and noted: the graph serves as
    long as it would be answered alike.

    Args:
        value: The number at the moment of the trace.
        tensor: The graph's tensor for it, a float64 scalar.
        outcomes: Gets a test of the progress and its outcome per comparison.
        at: The number as a function of the progress; the progress itself by default.

    Attributes:
        steps: How many steps are done, where it stands for the progress itself.
    """

    steps: Live

    def __init__(
        self,
        value: float,
        tensor: Tensor,
        outcomes: list[Outcome],
        at: Callable[[Any], float] = float,
    ) -> None:
        self.value, self.tensor, self.outcomes, self.at = value, tensor, outcomes, at

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Operations of torch see the tensor."""
        args, kwargs = tree_map(lambda v: v.tensor if isinstance(v, Live) else v, (args, kwargs))
        return func(*args, **(kwargs or {}))

    def _with(self, f: Callable[[Any, Any], Any], other: Any, swap: bool = False) -> Any:
        if isinstance(other, Tensor):
            return f(other, self.tensor) if swap else f(self.tensor, other)
        theirs, number, tensor = _parts(other)
        mine = self.at
        if swap:
            return Live(
                f(number, self.value),
                f(tensor, self.tensor),
                self.outcomes,
                lambda p: f(theirs(p), mine(p)),
            )
        return Live(
            f(self.value, number),
            f(self.tensor, tensor),
            self.outcomes,
            lambda p: f(mine(p), theirs(p)),
        )

    def cos(self) -> Live:
        """Its cosine."""
        return self._by(math.cos, torch.cos)

    def exp(self) -> Live:
        """Its exponential."""
        return self._by(math.exp, torch.exp)

    def _by(self, f: Callable[[float], float], of_tensors: Callable[[Tensor], Tensor]) -> Live:
        mine = self.at
        return Live(f(self.value), of_tensors(self.tensor), self.outcomes, lambda p: f(mine(p)))

    def _compare(self, f: Callable[[Any, Any], Any], other: Any) -> bool:
        theirs, number, _ = _parts(other)
        mine = self.at
        outcome = bool(f(self.value, number))
        self.outcomes.append((lambda p: bool(f(mine(p), theirs(p))), outcome))
        return outcome

    def __add__(self, other: Any) -> Any:
        return self._with(operator.add, other)

    def __radd__(self, other: Any) -> Any:
        return self._with(operator.add, other, swap=True)

    def __sub__(self, other: Any) -> Any:
        return self._with(operator.sub, other)

    def __rsub__(self, other: Any) -> Any:
        return self._with(operator.sub, other, swap=True)

    def __mul__(self, other: Any) -> Any:
        return self._with(operator.mul, other)

    def __rmul__(self, other: Any) -> Any:
        return self._with(operator.mul, other, swap=True)

    def __truediv__(self, other: Any) -> Any:
        return self._with(operator.truediv, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._with(operator.truediv, other, swap=True)

    def __pow__(self, other: Any) -> Any:
        return self._with(operator.pow, other)

    def __rpow__(self, other: Any) -> Any:
        return self._with(operator.pow, other, swap=True)

    def __neg__(self) -> Any:
        return self._with(operator.mul, -1.0)

    def __lt__(self, other: Any) -> bool:
        return self._compare(operator.lt, other)

    def __le__(self, other: Any) -> bool:
        return self._compare(operator.le, other)

    def __gt__(self, other: Any) -> bool:
        return self._compare(operator.gt, other)

    def __ge__(self, other: Any) -> bool:
        return self._compare(operator.ge, other)

    def __eq__(self, other: object) -> bool:
        return self._compare(operator.eq, other)

    def __ne__(self, other: object) -> bool:
        return self._compare(operator.ne, other)

    def __bool__(self) -> bool:
        return self._compare(operator.ne, 0.0)

    def __float__(self) -> float:
        raise TypeError("a schedule's value is read as a plain number, which would freeze it")

    __hash__ = None  # type: ignore[assignment]


def live_progress(progress: Progress, tensor: Tensor, outcomes: list[Outcome]) -> Live:
    """The progress of training, and its steps, in a trace.

    Args:
        progress: It at the moment of the trace.
        tensor: The graph's tensor of both numbers ``(2,)``, float64.
        outcomes: See :class:`Live`.
    """
    made = Live(float(progress), tensor[0], outcomes)
    made.steps = Live(float(progress.steps), tensor[1], outcomes, lambda p: p.steps)
    return made


def _parts(other: Any) -> tuple[Callable[[float], float], float, Any]:
    if isinstance(other, Live):
        return other.at, other.value, other.tensor
    return (lambda _: other), other, other
