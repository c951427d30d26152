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


@dataclass(frozen=True, eq=False)
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
    the CPU. Give each run a collector of its own; of a run that goes on from its folder it keeps
    what is left.

    Args:
        every: Steps from one checkpoint to the next, at least.

    Raises:
        ValueError: If that is no whole number of at least 1.
    """

    def __init__(self, every: int) -> None:
        self.every = whole("every", every, 1)
        self._kept: list[Checkpoint] = []
        self._seen = self._last = (
            0  # steps that were done when it was called, and when it kept one
        )
        self._lengths: list[float] = []  # of the way since the last one: rates times steps

    def __call__(self, run: Moving, step: int) -> None:
        """Look at a run that has done this many steps."""
        if step <= self._seen:
            raise ValueError(
                f"a run at step {step} calls checkpoints that are at step {self._seen} already, "
                "expected a collector of its own for each run"
            )
        points = list(zip(run.history["step"], run.history["stage"], strict=True))
        stage = int(points[-1][1])
        began = int(max((at for at, of in points if of < stage), default=0))
        before = int(points[-2][0]) if len(points) > 1 else 0
        if not self._seen:
            self._last = before  # not 0 of a run that goes on from its folder
        self._seen = step
        self._lengths.append(run.learning_rate * (step - before))
        done = step - self._last
        if done < self.every and step != run.planned:
            return
        state = {
            name: value.detach().to("cpu", copy=True)
            for name, value in run.pair.state_dict().items()
        }
        rate = math.fsum(self._lengths) / done
        progress = Progress((step - began) / (run.planned - began), step - began)
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
