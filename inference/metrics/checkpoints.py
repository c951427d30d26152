"""Where a training passed: weights along its way, with how far each step went from there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, overload

from torch import Tensor, nn

from ppl_models.config import whole
from ppl_models.inference.objectives.schedule import Progress

PLAIN = "sgd"  # whose steps are the learning rate times the gradient


@dataclass(frozen=True)
class Checkpoint:
    """Weights that a training passed, and the steps that led to them.

    Attributes:
        state: The pair's ``state_dict()`` at the last of the steps.
        rate: Learning rate of these steps; their mean where it changed.
        steps: How many steps since the checkpoint before, at least 1.
        progress: The share of the stage that was done, for objectives that change with it.
        optimiser: What moved the weights, as ``fit`` takes it.
        stage: Place of the stage among the run's.

    Raises:
        ValueError: If rate or steps are none.
    """

    state: Mapping[str, Tensor]
    rate: float
    steps: int
    progress: float = 1.0
    optimiser: str = PLAIN
    stage: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        whole("steps of a checkpoint", self.steps, 1)
        if not 0 <= self.rate < math.inf:
            raise ValueError(
                f"rate of a checkpoint is {self.rate}, expected a finite number of at least 0"
            )


class Moving(Protocol):
    """What is asked of a run while it goes on."""

    history: dict[str, list[float]]
    planned: int
    learning_rate: float
    optimiser: str

    @property
    def pair(self) -> nn.Module:
        """What is trained."""
        ...


class Checkpoints(Sequence[Checkpoint]):
    """Collects checkpoints: ``inference.fit(..., callbacks=(checkpoints,))``.

    ``fit`` calls at the recorded points of its curve, 400 of a stage. A checkpoint is kept at the
    first of them that is ``every`` steps or more after the last, and at the end of each stage, on
    the CPU. Give each run a collector of its own, from its first step on.

    Args:
        every: Steps from one checkpoint to the next, at least.

    Raises:
        ValueError: If that is no whole number of at least 1.
    """

    def __init__(self, every: int) -> None:
        self.every = whole("every", every, 1)
        self._kept: list[Checkpoint] = []
        self._seen = self._last = self._began = 0  # steps: called at, kept at, the stage began at
        self._stage = 0
        self._lengths: list[float] = []  # of the way since the last one: rates times steps

    def __call__(self, run: Moving, step: int) -> None:
        """Look at a run that has done this many steps."""
        if step <= self._seen:
            raise ValueError(
                f"a run at step {step} calls checkpoints that are at step {self._seen} already, "
                "expected a collector of its own for each run"
            )
        stage = int(run.history["stage"][-1])
        if stage != self._stage:
            self._stage, self._began = stage, self._seen
        self._lengths.append(run.learning_rate * (step - self._seen))
        self._seen = step
        done, over = step - self._last, step == run.planned
        if done < self.every and not over:
            return
        state = {
            name: value.detach().to("cpu", copy=True)
            for name, value in run.pair.state_dict().items()
        }
        rate, taken = math.fsum(self._lengths) / done, step - self._began
        progress = Progress(taken / (run.planned - self._began), taken)
        self._kept.append(Checkpoint(state, rate, done, progress, run.optimiser, stage))
        self._last, self._lengths = step, []

    def __len__(self) -> int:
        """How many were kept."""
        return len(self._kept)

    @overload
    def __getitem__(self, place: int) -> Checkpoint: ...

    @overload
    def __getitem__(self, place: slice) -> list[Checkpoint]: ...

    def __getitem__(self, place: int | slice) -> Checkpoint | list[Checkpoint]:
        """One of them, or several, in the order of the steps."""
        return self._kept[place]
