"""Where a training run stands: what a checkpoint holds beside the networks and optimisers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from ppl_models.inference.objectives.loss_parts import COLUMNS, RESERVED
from ppl_models.inference.posterior.netcdf_kinds import name_problem

KINDS: dict[str, type] = {
    "stage": int, "step": int, "done_before": int, "best": dict, "sides": list,
    "seconds": float, "sum": float, "count": int,
}  # fmt: skip
WORDS = {int: "a whole number >= 0", float: "a number", dict: "a table", list: "a list"}
CURVES = {"history": COLUMNS, "validation": ("step", "loss")}
Parts = tuple[tuple[str, ...], Tensor | None]  # names, and sums (n,) once there are any


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
        parts: What they are made of, by name.
    """

    stage: int = 0
    step: int = 0
    done_before: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    sides: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    sum: Tensor | float = 0.0
    count: int = 0
    parts: Parts = ((), None)

    def enter(self, place: int) -> None:
        """Start a stage, unless it is the one at hand."""
        if place > self.stage:
            self.stage, self.step, self.best, self.sides = place, 0, {}, []

    def add(self, loss: Tensor | float, names: tuple[str, ...], values: Tensor) -> None:
        """Count a step's loss.

        Args:
            loss: Per row.
            names: Names of its parts.
            values: The parts ``(n,)``; nothing here waits for them.
        """
        self.step += 1
        held, sums = self.parts
        if sums is None or held != names:
            # Where steps before this one told no such parts, their sum is not known.
            start = 0.0 if not self.count else math.nan
            sums = values.new_full(values.shape, start, dtype=torch.float64)
        self.parts = names, sums.to(values.device) + values
        self.sum, self.count = self.sum + loss, self.count + 1

    def mean(self) -> tuple[float, dict[str, float]]:
        """Mean loss since the last call, and its parts; the sums start anew."""
        value, parts = float(self.sum) / self.count, self._parts()
        means = {name: total / self.count for name, total in parts.items()}
        self.sum, self.count, self.parts = 0.0, 0, ((), None)
        return value, means

    def _parts(self) -> dict[str, float]:
        names, sums = self.parts
        return {} if sums is None else dict(zip(names, sums.tolist(), strict=True))

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return self.done_before + self.step

    def save(self) -> dict[str, Any]:
        """The state as plain values and tensors."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**plain, "sum": float(self.sum), "parts": self._parts()}

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
        state = cls(**{f.name: saved[f.name] for f in fields(cls) if f.name != "parts"})
        state.parts = _read_parts(saved.get("parts", {}))  # older versions had none
        for name, kind in KINDS.items():
            value: Any = getattr(state, name)
            if type(value) is not kind or (isinstance(value, int) and value < 0):
                raise ValueError(f"its {name} is {value!r}, expected {WORDS[kind]}")
        # Older versions left the last stage when they were done.
        if state.stage > stages or (state.stage == stages and state.step):
            raise ValueError(f"its stage is {state.stage + 1}, expected 1 to {stages}")
        return state


def _read_parts(saved: Any) -> Parts:
    told = isinstance(saved, dict) and all(type(v) is float for v in saved.values())
    if not told or any(map(name_problem, saved)):
        raise ValueError(f"its parts is {saved!r}, expected numbers by name")
    if not saved:
        return (), None
    return tuple(saved), torch.tensor(list(saved.values()), dtype=torch.float64)


def curves(saved: dict[str, Any]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """The training curve and that of the validation rows, from a saved state.

    Behind its own columns the training curve has one for each part of the losses, by name;
    curves of older versions have none.

    Raises:
        KeyError: If one is missing.
        ValueError: If one is no table of equally many numbers, or a part has no name.
    """
    found = []
    for name, columns in CURVES.items():
        curve = saved[name]
        lists = list(curve.values()) if isinstance(curve, dict) else []
        numbers = all(
            isinstance(column, list) and all(type(n) in (int, float) for n in column)
            for column in lists
        )
        own = tuple(curve)[: len(columns)] if numbers else ()
        if own != columns or len({len(column) for column in lists}) > 1:
            raise ValueError(f"its {name} is no table of the numbers {', '.join(columns)}")
        for part in list(curve)[len(columns) :]:
            if name != "history" or part in RESERVED or name_problem(part):
                known = ", ".join(columns)
                raise ValueError(f"its {name} has a column {part!r}, expected {known}")
        found.append(curve)
    return found[0], found[1]
