"""The training loop: stages, curve, early stop, checkpoints."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ppl_models.data.streams.stream import Stream
from ppl_models.data.tables.table import Table
from ppl_models.inference.objectives.schedule import Progress
from ppl_models.inference.objectives.stage import Stage
from ppl_models.inference.posterior.confusion import labelled_rows
from ppl_models.inference.training import run_folder, validation_curve
from ppl_models.inference.training.early_stop import Watch, better_of
from ppl_models.inference.training.job import Job
from ppl_models.inference.training.not_finite import exploded, not_finite
from ppl_models.inference.training.pace import Pace, spoken
from ppl_models.inference.training.process_noise import Draws
from ppl_models.inference.training.sides import Side, constant, frozen, sides
from ppl_models.inference.training.state import State, curves
from ppl_models.inference.training.steps import Steps
from ppl_models.inference.training.stopping import StopTraining
from ppl_models.inference.training.turns import draw_weights, networks_beside

log = logging.getLogger(__name__)

START_ROWS = 1000  # rows that a stage's `start` looks at
RECORDS = 400  # points of the training curve per stage


def steps_of(stage: Stage, stream: Stream) -> int:
    """Steps of a stage.

    Args:
        stage: The stage.
        stream: Its rows in order.
    """
    return stage.training.steps or stage.training.epochs * stream.steps_per_epoch


class Loop:
    """Carries out a job; all that it comes to is in a checkpoint.

    Args:
        job: What to do.

    Attributes:
        ended: The status of a run that ends before its plan; empty for all others.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.state, self.pair = job, State(), job.run.pair
        self.draws = Draws(job.seed, job.processes.rank, job.processes.count, job.device)
        self.sides: list[Side] = []
        self.watch = Watch(job.seed)
        self.began = self.saved = time.monotonic()
        self.ended = ""
        # In all processes alike, whichever of them was given callbacks.
        self.asking = job.processes.any(bool(job.callbacks))

    def run_stage(self, place: int, table: Table, validation: Table | None) -> None:
        """Run one stage from the state's step to its end."""
        job, state, stage = self.job, self.state, self.job.plan[place]
        options = stage.training
        state.enter(place)
        if stage.start is not None and state.step == 0:
            with torch.no_grad():
                stage.start(next(table.without(*self.pair.card.labels).batches(limit=START_ROWS)))
        stream = self._stream(place, table)
        total = steps_of(stage, stream)
        steps = self._steps(place, stream, len(table), total)
        job.run.planned = state.done_before + total
        every = max(1, total // RECORDS)
        last, looks = place == len(job.plan) - 1, 0
        if validation is not None and not options.patience:
            looks = validation_curve.spacing(total, every, options.batch_size, len(validation))
        began = time.monotonic()
        with (
            constant(frozen(self.pair, stage)),
            steps.precision(lambda: stream.step(state.step)),
            self._pace(stage, len(table), total) as pace,
        ):
            stale = bool(options.patience) and state.best.get("age", 0) >= options.patience
            while state.step < total and not stale and not self.ended:
                for side in self.sides:
                    side.objective.at(Progress(state.step / total, state.step))
                state.add(*steps.take(state.step, stream.step(state.step)))
                pace.step(state.step)
                if point := state.step % every == 0 or state.step == total:
                    loss, parts = state.mean()
                    steps.check(loss, state.step - 1)
                    self._check_parameters()
                if options.patience and state.step % stream.steps_per_epoch == 0:
                    stale = self._stale(stage, validation)
                elif looks and point and (state.step % looks == 0 or state.step == total):
                    looks = looks if self._looked(stage, validation) else 0
                over = last and (stale or state.step == total)
                if point:
                    state.seconds += time.monotonic() - began
                    pace.loss(loss)
                    self._record(loss, parts, over)
                    began = time.monotonic()
                # After the looks at the validation rows: a resumed run does not repeat them.
                self._pause(over)
        if not last and not self.ended:  # the last one may be prolonged
            self._keep_best()
            state.done_before += state.step

    def _stream(self, place: int, table: Table) -> Stream:
        options, processes = self.job.plan[place].training, self.job.processes
        return Stream(
            table,
            options.batch_size,
            options.labelled_batch_size or None,
            seed=self.job.seed + place,
            process=processes.rank,
            processes=processes.count,
        )

    def _steps(self, place: int, stream: Stream, rows: int, total: int) -> Steps:
        """The stage's sides, as they were left, and who moves them."""
        self.draws.shares = stream.shares
        if not self.state.step:
            draw_weights(self.pair, self.job.plan, place, self.job.seed)
        self.sides = sides(self.pair, self.job.plan[place], rows)
        if self.state.step:
            self._restore_sides(total)
        self.job.processes.alike(self._tensors())
        return Steps(self.job, place, self.sides, self.draws, rows, total)

    def _pace(self, stage: Stage, rows: int, total: int) -> Pace:
        job, done = self.job, self.state.step
        first = job.processes.first
        return Pace(stage, rows, str(job.device), done, total, job.progress, first)

    def _record(self, loss: float, parts: dict[str, float], over: bool) -> None:
        job, state = self.job, self.state
        job.run.record(state.steps, state.stage, loss, state.seconds, parts)
        job.run.optimiser = job.plan[state.stage].training.optimiser
        job.run.learning_rate = float(self.sides[0].optimiser.param_groups[0]["lr"])
        stops = []
        for callback in job.callbacks if job.processes.first else ():
            try:
                callback(job.run, state.steps)
            except StopTraining as stop:  # the others see this point, too
                stops.append(" ".join(str(stop).split()))
        if self.asking and job.processes.any(bool(stops)) and not over:
            self._end("stopped", job.processes.from_first(lambda: stops[0]))

    def _end(self, status: str, reason: str) -> None:
        """End the training after the step at hand, in all processes."""
        job, state = self.job, self.state
        self.ended, job.run.reason = status, reason
        if job.processes.first:
            log.info("%s at step %d of %d: %s", status, state.steps, job.run.planned, reason)

    def _looked(self, stage: Stage, validation: Table | None) -> bool:
        """Add a look to the validation curve; whether that can be done."""
        assert validation is not None
        job, state = self.job, self.state
        most = validation_curve.AT_ONCE * stage.training.batch_size
        try:
            loss = self.watch.loss(self.pair, stage, validation, state.steps, False, most)
        except Exception as error:  # nobody has asked for it: training goes on without
            why = " ".join(str(error).split()) or type(error).__name__
            log.info("stage %r has no validation curve: %s", stage.name, why)
            return False
        job.run.record_validation(state.steps, loss)
        return True

    def _stale(self, stage: Stage, validation: Table | None) -> bool:
        """Look at the validation rows; whether the best look is too long ago."""
        assert validation is not None  # fit has seen to it
        job, state = self.job, self.state
        loss = self.watch.loss(self.pair, stage, validation, state.steps, job.processes.first)
        job.run.record_validation(state.steps, loss)
        state.best = better_of(state.best, loss, self.pair)
        stale = job.processes.any(state.best.get("age", 0) >= stage.training.patience)
        if stale and job.processes.first:
            log.info(
                "stage %r stops early at step %d: no better validation loss than %.6g in the last "
                "%d epochs", stage.name, state.steps, state.best["loss"], stage.training.patience,
            )  # fmt: skip
        return stale

    def _pause(self, over: bool) -> None:
        """Between two steps: write the state when it is time, and end where somebody wants to.

        Args:
            over: Whether this was the last step of the plan, after which it is too late to end.
        """
        job, state = self.job, self.state
        if job.folder is None and job.deadline is None:
            return
        if not self.ended and job.processes.stopping(state.step, job.ending):
            if job.processes.any(job.interrupted.is_set()):
                self.save("interrupted")
                job.processes.any(False)  # nobody leaves before it is written
                raise KeyboardInterrupt(
                    f"interrupted at step {state.step} of stage {state.stage + 1}"
                )
            if not over:
                self._end("interrupted", "max_minutes are over")
        elif job.folder is not None and time.monotonic() - self.saved >= job.checkpoint_seconds:
            self.save("running")

    def save(self, status: str) -> None:
        """Write state, then description: a description never claims more than the state.

        Parameters that are no longer finite never replace a state: the loss of the next step,
        or the end, tells of them in all processes alike.
        """
        job = self.job
        assert job.folder is not None
        if not job.processes.first or not_finite(self._parameters()) is not None:
            return
        state = {
            **self.state.save(),
            "run": run_folder.digest_of(job.description["identity"]),
            **self._weights(status),
            "sides": [side.state() for side in self.sides],
            "players": [m.state_dict() for m in self._beside()],
            "history": job.run.history,
            "validation": job.run.validation,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if job.device.type == "cuda" else None,
        }
        run_folder.write_state(job.folder, state)
        job.description.update(status=status, planned=job.run.planned, reason=job.run.reason)
        run_folder.write_description(job.folder, job.description)
        self.saved = time.monotonic()
        log.info("wrote the state at step %d to %s", self.state.steps, job.folder)

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            RunFolderError: If it does not fit the run, naming its file.
        """
        run = self.job.run
        with self._fitting():
            self.pair.load_state_dict(saved.get("last", saved["model"]))
            self.state = State.load(saved, len(self.job.plan))
            if "last" in saved:
                self.state.best = {**self.state.best, "model": saved["model"]}
            for module, held in zip(self._beside(), saved.get("players", ()), strict=False):
                module.load_state_dict(held)
            run.history, run.validation = curves(saved)
            torch.set_rng_state(saved["rng"])
            if self.job.device.type == "cuda" and saved["cuda_rng"] is not None:
                torch.cuda.set_rng_state(saved["cuda_rng"])

    def _restore_sides(self, total: int) -> None:
        """Optimisers and players as they were in the midst of the stage."""
        state, stage = self.state, self.job.plan[self.state.stage]
        with self._fitting():
            if state.step > total:
                raise ValueError(f"it is at step {state.step} of {total} of stage {stage.name!r}")
            if len(state.sides) != len(self.sides):
                raise ValueError(
                    f"it has {len(state.sides)} optimisers, but {len(self.sides)} train in stage "
                    f"{stage.name!r}"
                )
            for side, saved in zip(self.sides, state.sides, strict=True):
                side.restore(saved)
        state.sides = []

    @contextlib.contextmanager
    def _fitting(self) -> Iterator[None]:
        try:
            yield
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            lacks = f"it lacks {error}" if isinstance(error, KeyError) else ""
            raise run_folder.RunFolderError(
                f"{self.job.folder}/{run_folder.STATE} does not fit this run: "
                f"{lacks or str(error).splitlines()[0]}"
            ) from None

    def _weights(self, status: str) -> dict[str, Any]:
        """The networks; at an end the best, and then those of the last step besides."""
        last, best = self.pair.state_dict(), self.state.best
        if status == "running" or not best:
            return {"model": last}
        told = {key: value for key, value in best.items() if key != "model"}
        return {"model": best["model"], "last": last, "best": told}

    def _keep_best(self) -> None:
        if self.state.best:
            self.pair.load_state_dict(self.state.best["model"])
            self.state.best = {}

    def _parameters(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.pair.named_parameters()
        for side in self.sides:
            if side.module is not None:
                yield from side.module.named_parameters(side.name)

    def _check_parameters(self) -> None:
        if (name := not_finite(self._parameters())) is not None:
            raise exploded(name, self.state.step)

    def _tensors(self) -> Iterator[Tensor]:
        for module in (self.pair, *self._beside(), *(side.module for side in self.sides)):
            if module is not None:
                yield from module.parameters()
                yield from module.buffers()

    def _beside(self) -> list[nn.Module]:
        like, plan = self.pair.like(), self.job.plan
        found = networks_beside(self.pair, plan, self.state.stage)
        return [module.to(like.device, like.dtype) for module in found]

    def finish(self, table: Table) -> None:
        """Mark the run as finished, or ended; what it takes to go on with it is kept.

        Args:
            table: The training rows, of which the labelled ones are looked at once more.
        """
        self._check_parameters()
        job = self.job
        if job.folder is not None:
            self.save(self.ended or "finished")
        self._keep_best()
        job.run.status = self.ended or "finished"
        job.run.labelled = labelled_rows(self.pair, table)
        if job.processes.first:
            took = spoken(time.monotonic() - self.began)
            log.info("%s at step %d after %s", job.run.status, self.state.steps, took)
        if job.folder is not None and job.processes.first:
            told = {name: found.plain() for name, found in job.run.labelled.items()}
            job.description["labelled"] = told
            run_folder.write_description(job.folder, job.description)
