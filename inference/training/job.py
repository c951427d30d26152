"""What a training run was asked to do."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ppl_models.inference.objectives.stage import Stage
from ppl_models.inference.training.processes import Processes
from ppl_models.inference.training.run import Run


@dataclass(frozen=True)
class Job:
    """A plan, and where and how it is carried out.

    Attributes:
        run: Gets the curve; its pair is trained.
        plan: The stages.
        seed: Of all draws and of the order of rows.
        device: Where the pair and the rows are.
        processes: Who shares the work.
        folder: Of the run, if it is kept.
        description: Goes into the folder with the run's status.
        checkpoint_seconds: Between two writes of the state.
        progress: Whether a bar is shown.
        callbacks: Called at every point of the curve.
        deadline: When the run should end, by ``time.monotonic()``; None if no limit was set.
        interrupted: Set when the run should end after the step at hand.
    """

    run: Run
    plan: tuple[Stage, ...]
    seed: int
    device: torch.device
    processes: Processes
    folder: Path | None = None
    description: dict[str, Any] = field(default_factory=dict)
    checkpoint_seconds: float = 60.0
    progress: bool = True
    callbacks: tuple[Callable[[Run, int], None], ...] = ()
    deadline: float | None = None
    interrupted: threading.Event = field(default_factory=threading.Event)

    @property
    def ending(self) -> bool:
        """Whether this process wants the run to end after the step at hand."""
        late = self.deadline is not None and time.monotonic() >= self.deadline
        return late or self.interrupted.is_set()

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """With a folder, Ctrl-C waits for the end of the step, so that the state is whole."""
        if self.folder is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        previous = [signal.signal(s, lambda *_: self.interrupted.set()) for s in signals]
        try:
            yield
        finally:
            for number, handler in zip(signals, previous, strict=True):
                signal.signal(number, handler)
