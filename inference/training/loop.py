"""The training loop: steps, curve, early stop, checkpoints."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ppl_models.batch import Batch
from ppl_models.data.streams.stream import Stream
from ppl_models.data.tables.table import Table
from ppl_models.inference.objectives.stage import Stage, Training
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.sites import Program
from ppl_models.inference.training import run_folder
from ppl_models.inference.training.compiled_step import Compiled, compiled_sides
from ppl_models.inference.training.not_finite import NotFinite, explain
from ppl_models.inference.training.precision import bfloat16, networks_of
from ppl_models.inference.training.process_noise import Draws
from ppl_models.inference.training.processes import Processes
from ppl_models.inference.training.run import Run
from ppl_models.inference.training.sides import Side, constant, sides, under
from ppl_models.pair import Pair
from ppl_models.quiet import quiet

START_ROWS = 1000  # rows that a stage's `start` looks at
RECORDS = 400  # points of the training curve per stage


class Loop:
    """The state of a training run; all of it is in a checkpoint."""

    checkpoint_seconds = 60.0
    interrupted: threading.Event

    def __init__(
        self,
        run: Run,
        plan: tuple[Stage, ...],
        seed: int,
        device: torch.device,
        folder: Path | None,
        description: dict[str, Any],
        progress: bool,
        callbacks: tuple[Callable[[Run, int], None], ...],
        processes: Processes,
    ) -> None:
        self.result, self.pair, self.plan, self.seed = run, run.pair, plan, seed
        self.device, self.folder, self.description = device, folder, description
        self.progress = progress and processes.first
        self.callbacks = callbacks if processes.first else ()
        self.processes = processes
        self.draws = Draws(seed, processes.rank, processes.count, device)
        self.stage, self.step = 0, 0
        self.done_before = 0  # steps of the stages before this one
        self.best: dict[str, Any] = {}
        self.sides: list[Side] = []
        self.compiled: dict[str, Compiled] = {}  # by side
        self.pending: list[dict[str, Any]] | None = None  # state of the sides to restore
        self.seconds = 0.0
        self.count = 0  # losses since the last point of the curve
        self.sum: Tensor | float = 0.0
        self.saved = time.monotonic()

    def run_stage(self, place: int, stage: Stage, table: Table, validation: Table | None) -> None:
        """Run one stage from ``self.step`` to its end."""
        if place > self.stage:
            self.stage, self.step, self.best, self.pending = place, 0, {}, None
        if stage.start is not None and self.step == 0:
            with torch.no_grad():
                stage.start(next(table.without(*self.pair.card.labels).batches(limit=START_ROWS)))
        options = stage.training
        stream = Stream(
            table,
            options.batch_size,
            options.labelled_batch_size or None,
            seed=self.seed + place,
            process=self.processes.rank,
            processes=self.processes.count,
        )
        self.draws.parts = stream.parts
        total = options.epochs * stream.steps_per_epoch
        self.sides = sides(self.pair, stage, len(table))
        for side, state in zip(self.sides, self.pending or (), strict=False):
            side.restore(state)
        self.processes.alike(self._tensors())
        trained = stage.pair or self.pair
        self.compiled = {}
        if options.compile:
            self.compiled = compiled_sides(self.sides, trained, self.processes.count)
        every = max(1, total // RECORDS)
        began = time.monotonic()
        with (
            constant(_frozen(self.pair, stage)),
            self._precision(stage, trained, stream),
            self._bar(stage, total) as bar,
        ):
            stale = bool(options.patience) and self.best.get("age", 0) >= options.patience
            while self.step < total and not stale:
                for side in self.sides:
                    side.objective.at(self.step / total)
                batches = stream.step(self.step)
                loss = self._take_step(stage, trained, batches, len(table))
                self.step += 1
                self.sum, self.count = self.sum + loss, self.count + 1
                if self.step % every == 0 or self.step == total:
                    value = float(self.sum) / self.count
                    self._finite(value, stage, trained, batches)
                    self.seconds += time.monotonic() - began
                    self._record(stage, value)
                    bar.update(self.step - bar.n)
                    bar.set_postfix_str(f"loss/row {value:.3f}", refresh=False)
                    self.sum, self.count, began = 0.0, 0, time.monotonic()
                if options.patience and self.step % stream.steps_per_epoch == 0:
                    if validation is None:
                        raise ValueError("patience needs validation rows, got a table without")
                    stale = self._stale(stage, trained, validation, options)
                # After the look at the validation rows: a resumed run does not repeat it.
                if self.folder is not None:
                    self._maybe_save()
        if self.best:
            self.pair.load_state_dict(self.best.pop("model"))
            self.best = {}
        self.done_before += self.step

    def _take_step(
        self, stage: Stage, trained: Program, batches: tuple[Batch, ...], rows: int
    ) -> Tensor | float:
        if stage.prepare is not None:
            key = self.stage, self.step, len(self.sides), 0
            with torch.no_grad():
                batches = self.draws.prepared(stage.prepare, batches, key)
        if self.compiled and self.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()  # gradients are kept until the next one
        if len(self.sides) == 1:
            loss = self._gradient(self.sides[0], stage, trained, batches, rows)
            self.sides[0].optimiser.step()
            return loss
        first: Tensor | float = 0.0
        for place, side in enumerate(self.sides):
            others = [p for s in self.sides if s is not side for p in s.parameters]
            with constant(others):
                for turn in range(side.steps):
                    loss = self._gradient(side, stage, trained, batches, rows, (place, turn))
                    if not stage.simultaneous:
                        side.optimiser.step()
            first = loss if place == 0 else first
        if stage.simultaneous:  # every gradient was taken at the same point
            for side in self.sides:
                side.optimiser.step()
        return first

    def _gradient(
        self,
        side: Side,
        stage: Stage,
        trained: Program,
        batches: tuple[Batch, ...],
        rows: int,
        turn: tuple[int, int] = (0, 0),
    ) -> Tensor | float:
        side.optimiser.zero_grad(set_to_none=True)
        on_cpu = self.device.type == "cpu"
        before = torch.get_rng_state()
        # Pyro's own checks read tensors on the host at every site; the first step has them.
        first = self.step == 0
        compiled = None
        if side.name in self.compiled and not first:
            compiled = self.compiled[side.name].gradient(batches, rows)
        if compiled is None:
            with pyro.validation_enabled(first):
                key = self.stage, self.step, *turn
                loss = self.draws.loss(side.objective, trained.model, trained.guide, batches, key)
            loss = loss / rows
        else:
            loss = compiled
        if self.processes.count > 1:
            loss.backward()
            stop = self.interrupted.is_set()
            loss = self.processes.sum_gradients(loss, side.parameters, stop)
        if on_cpu:  # no cost here; on a GPU the curve's points are checked instead
            value = loss.item()
            if not math.isfinite(value):
                torch.set_rng_state(before)
                self._finite(value, stage, trained, batches)
        if self.processes.count == 1 and compiled is None:
            loss.backward()
        return value if on_cpu else loss.detach()

    def _precision(
        self, stage: Stage, trained: Program, stream: Stream
    ) -> contextlib.AbstractContextManager[None]:
        if stage.training.precision == "full":
            return contextlib.nullcontext()

        def run() -> None:
            batches = stream.step(self.step)
            if stage.prepare is not None:
                batches = tuple(stage.prepare(batch) for batch in batches)
            for side in self.sides:
                side.objective.differentiable_loss(trained.model, trained.guide, batches)

        roots: list[Program | nn.Module] = [trained]
        roots += [s.module for s in self.sides if s.module is not None]
        return bfloat16(networks_of(roots, run), self.device)

    def _finite(
        self, value: float, stage: Stage, trained: Program, batches: tuple[Batch, ...]
    ) -> None:
        if math.isfinite(value):
            return

        def again(batch: Batch) -> Iterator[Any]:
            nesting = stage.objective.max_plate_nesting
            place = next(i for i, b in enumerate(batches) if b is batch)
            draws = self.draws.again(place, self.stage, self.step, 0, 0)
            with torch.no_grad(), pyro.validation_enabled(False), draws:
                w = Evaluation(trained.model, trained.guide, batch, nesting).weights()
            yield w.guide
            yield w.model

        error = explain(self.pair, self.step, again, batches)
        if self.processes.count == 1:
            raise error
        notes = self.processes.notes(str(error))  # the row is one process's
        raise NotFinite(next((note for note in notes if " at row " in note), notes[0]))

    def _stale(self, stage: Stage, trained: Program, table: Table, options: Training) -> bool:
        # Validation must not move the training's random state.
        with quiet(self.device, self.seed), torch.no_grad():
            total = 0.0
            for batch in table.batches(limit=1000):
                batch = batch.to(self.device, self.pair.like().dtype)
                if stage.prepare is not None:
                    batch = stage.prepare(batch)
                rows = stage.objective.per_datum(trained.model, trained.guide, batch)
                total += float(rows.sum())
        loss = total / len(table)
        self.result.record_validation(self.done_before + self.step, loss)
        if not self.best or loss < self.best["loss"]:
            model = {k: v.detach().clone() for k, v in self.pair.state_dict().items()}
            self.best = {"loss": loss, "model": model, "age": 0}
        else:
            self.best["age"] += 1
        return self.processes.any(self.best["age"] >= options.patience)

    def _record(self, stage: Stage, loss: float) -> None:
        step = self.done_before + self.step
        self.result.record(step, self.stage, loss, self.seconds)
        for callback in self.callbacks:
            callback(self.result, step)

    def _bar(self, stage: Stage, total: int) -> Any:
        return tqdm(
            total=total,
            initial=self.step,
            desc=stage.name,
            unit="step",
            disable=not self.progress,
            dynamic_ncols=True,
            mininterval=0.5,
        )

    def _maybe_save(self) -> None:
        if self.processes.stopping(self.step, self.interrupted.is_set()):
            self.save("interrupted")
            self.processes.any(False)  # nobody leaves before it is written
            raise KeyboardInterrupt(f"interrupted at step {self.step} of stage {self.stage + 1}")
        if time.monotonic() - self.saved >= self.checkpoint_seconds:
            self.save("running")

    def save(self, status: str) -> None:
        """Write state, then description: a description never claims more than the state."""
        assert self.folder is not None
        if not self.processes.first:
            return
        state = {
            "model": self.pair.state_dict(),
            "sides": [side.state() for side in self.sides],
            "stage": self.stage,
            "step": self.step,
            "done_before": self.done_before,
            "best": self.best,
            "history": self.result.history,
            "validation": self.result.validation,
            "seconds": self.seconds,
            "sum": float(self.sum),
            "count": self.count,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
        }
        run_folder.write_state(self.folder, state)
        self.description["status"] = status
        run_folder.write_description(self.folder, self.description)
        self.saved = time.monotonic()

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        try:
            self.pair.load_state_dict(state["model"])
            self.stage, self.step = state["stage"], state["step"]
            self.done_before, self.best = state["done_before"], state["best"]
            self.pending, self.seconds = state["sides"], state["seconds"]
            self.result.history, self.result.validation = state["history"], state["validation"]
            self.sum, self.count = state["sum"], state["count"]
            torch.set_rng_state(state["rng"])
        except (KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise run_folder.RunFolderError(
                f"{self.folder}: the saved state does not fit this run: {reason}"
            ) from None
        if self.device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"])

    def _tensors(self) -> Iterator[Tensor]:
        for module in (self.pair, *(side.module for side in self.sides)):
            if module is not None:
                yield from module.parameters()
                yield from module.buffers()

    def finish(self) -> None:
        """Mark the run as finished, past its last stage."""
        self.stage, self.step, self.sides = len(self.plan), 0, []
        if self.folder is not None:
            self.save("finished")


def _frozen(pair: Pair, stage: Stage) -> list[nn.Parameter]:
    return [p for n, p in pair.named_parameters() if any(under(n, f) for f in stage.freeze)]


@contextlib.contextmanager
def interruptible(active: bool) -> Iterator[threading.Event]:
    """With a folder, Ctrl-C waits for the end of the step, so that the state is whole."""
    event = threading.Event()
    if not active or threading.current_thread() is not threading.main_thread():
        yield event
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(s, lambda *_: event.set()) for s in signals]
    try:
        yield event
    finally:
        for s, handler in zip(signals, previous, strict=True):
            signal.signal(s, handler)
