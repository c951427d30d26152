"""Where a training run stands: what a checkpoint holds beside the networks and optimisers."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

KINDS: dict[str, type] = {
    "stage": int, "step": int, "done_before": int, "best": dict, "sides": list,
    "seconds": float, "sum": float, "count": int,
}  # fmt: skip
WORDS = {int: "a whole number >= 0", float: "a number", dict: "a table", list: "a list"}
CURVES = {"history": ("step", "stage", "loss", "seconds"), "validation": ("step", "loss")}


@dataclass
class State:
    """A place in the plan, and what has been added up since the curve's last point.

    Attributes:
        stage: Place of the stage in the plan.
        step: Steps of this stage that are done.
        done_before: Steps of the stages before this one.
        best: The stage's best ``loss`` on the validation rows, the ``model`` that had it, and
            its ``age`` in looks; empty without early stopping.
        sides: States of the stage's sides that wait to be restored.
        seconds: Of training, up to the curve's last point.
        sum: Losses per row since then, added up.
        count: How many these are.
    """

    stage: int = 0
    step: int = 0
    done_before: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    sides: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    sum: Tensor | float = 0.0
    count: int = 0

    def enter(self, place: int) -> None:
        """Start a stage, unless it is the one at hand."""
        if place > self.stage:
            self.stage, self.step, self.best, self.sides = place, 0, {}, []

    def add(self, loss: Tensor | float) -> None:
        """Count a step's loss."""
        self.step += 1
        self.sum, self.count = self.sum + loss, self.count + 1

    def mean(self) -> float:
        """Mean loss since the last call; the sum starts anew."""
        value = float(self.sum) / self.count
        self.sum, self.count = 0.0, 0
        return value

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return self.done_before + self.step

    def save(self) -> dict[str, Any]:
        """The state as plain values and tensors."""
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "sum": float(self.sum)}

    @classmethod
    def load(cls, saved: dict[str, Any], stages: int) -> State:
        """The state from :meth:`save`.

        Args:
            saved: What was saved.
            stages: Number of stages in the plan.

        Raises:
            KeyError: If an entry is missing.
            ValueError: If one is of another kind, or outside the plan.
        """
        state = cls(**{f.name: saved[f.name] for f in fields(cls)})
        for name, kind in KINDS.items():
            value: Any = getattr(state, name)
            if type(value) is not kind or (isinstance(value, int) and value < 0):
                raise ValueError(f"its {name} is {value!r}, expected {WORDS[kind]}")
        # Older versions left the last stage when they were done.
        if state.stage > stages or (state.stage == stages and state.step):
            raise ValueError(f"its stage is {state.stage + 1}, expected 1 to {stages}")
        return state


def curves(saved: dict[str, Any]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """The training curve and that of the validation rows, from a saved state.

    Raises:
        KeyError: If one is missing.
        ValueError: If one is no table of equally many numbers.
    """
    found = []
    for name, columns in CURVES.items():
        curve = saved[name]
        lists = list(curve.values()) if isinstance(curve, dict) else []
        numbers = all(
            isinstance(column, list) and all(type(n) in (int, float) for n in column)
            for column in lists
        )
        if not numbers or tuple(curve) != columns or len({len(column) for column in lists}) > 1:
            raise ValueError(f"its {name} is no table of the numbers {', '.join(columns)}")
        found.append(curve)
    return found[0], found[1]
