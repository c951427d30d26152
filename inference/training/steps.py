"""The steps of a stage: one gradient of every side, and what was not finite in it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ppl_models.batch import Batch
from ppl_models.inference.objectives.composition import networks_in
from ppl_models.inference.objectives.loss_parts import LossByPart, prefixed
from ppl_models.inference.objectives.schedule import Progress
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.sites import Program
from ppl_models.inference.training.compiled_step import compiled_sides
from ppl_models.inference.training.job import Job
from ppl_models.inference.training.not_finite import NotFinite, explain, exploded, not_finite
from ppl_models.inference.training.optimisers import mover
from ppl_models.inference.training.precision import bfloat16, networks_of
from ppl_models.inference.training.process_noise import Draws
from ppl_models.inference.training.processes import LostProcess
from ppl_models.inference.training.sides import Side
from ppl_models.inference.training.turns import turns
from ppl_models.quiet import unmoved

Batches = tuple[Batch, ...]
Taken = tuple[Tensor | float, tuple[str, ...], Tensor]  # a loss per row, its parts' names and they


class Steps:
    """Takes the steps of one stage.

    Args:
        job: The run's job.
        place: Place of the stage in the plan.
        sides: The stage's sides, the pair's own first.
        draws: Random numbers, the same however many processes share them.
        rows: Rows of the stage's data.
        total: Steps of the stage.
    """

    def __init__(
        self, job: Job, place: int, sides: list[Side], draws: Draws, rows: int, total: int
    ) -> None:
        self.job, self.place, self.sides, self.draws, self.rows = job, place, sides, draws, rows
        self.stage, self.total = job.plan[place], total
        options = self.stage.training
        self.move = {s.name: mover(s.optimiser, s.parameters, options, total) for s in sides}
        self.trained = self.stage.pair or job.run.pair
        self.turns = turns(job.run.pair, self.stage, sides) if len(sides) > 1 else []
        self.modules = [job.run.pair, *(side.module for side in sides if side.module is not None)]
        self.modules += [m for side in sides for m in networks_in(side.objective)]
        self.compiled = {}
        self.seen: Batches = ()
        if self.stage.training.compile:
            self.compiled = compiled_sides(sides, self.trained, job.processes.count)

    def precision(self, batches: Callable[[], Batches]) -> contextlib.AbstractContextManager[None]:
        """The precision that the stage asks for, while its steps are taken.

        Args:
            batches: Gives those of the next step, on which the networks are looked for.
        """
        if self.stage.training.precision == "full":
            return contextlib.nullcontext()

        def run() -> None:
            ready = batches()
            if self.stage.prepare is not None:
                ready = tuple(self.stage.prepare(batch) for batch in ready)
            for side in self.sides:
                side.objective.differentiable_loss(self.trained.model, self.trained.guide, ready)

        roots: list[Program | nn.Module] = [self.trained]
        roots += [side.module for side in self.sides if side.module is not None]
        return bfloat16(networks_of(roots, run), self.job.device)

    def take(self, step: int, batches: Batches) -> Taken:
        """Move every side; returns the first side's loss per row, and every side's parts.

        Those of a player stand behind the first side's, under its name: ``critic.hinge(y)``.
        They are those of its last turn.

        Raises:
            NotFinite: If a loss is NaN or infinite, on a CPU.
        """
        stage = self.stage
        if stage.prepare is not None:
            key = self.place, step, len(self.sides), 0
            with torch.no_grad():
                batches = self.draws.prepared(stage.prepare, batches, key)
        self.seen = batches
        if self.compiled and self.job.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()  # gradients are kept until the next one
        if len(self.sides) == 1:
            taken = self._gradient(self.sides[0], step, batches, (0, 0))
            self.move[self.sides[0].name](step)
        else:
            taken = self._play(step, batches)
        if stage.changes:
            progress = Progress(step / self.total, step)
            with torch.no_grad():
                for change in stage.changes:
                    change(progress)
        return taken

    def _play(self, step: int, batches: Batches) -> Taken:
        """Move the sides of a game, in turn or at once."""
        stage = self.stage
        taken: list[Taken] = []
        for place, side in enumerate(self.sides):
            with self.turns[place]():
                for turn in range(side.steps):
                    loss = self._turn(side, step, batches, (place, turn))
                    if not stage.simultaneous:
                        self.move[side.name](step)
            taken.append(loss)
        if stage.simultaneous:  # every gradient was taken at the same point
            for side in self.sides:
                self.move[side.name](step)
        players = zip(self.sides[1:], taken[1:], strict=True)
        names = [prefixed(side.name, names) for side, (_, names, _) in players]
        every = torch.cat([parts for _, _, parts in taken])
        return taken[0][0], sum(names, taken[0][1]), every

    def _turn(self, side: Side, step: int, batches: Batches, turn: tuple[int, int]) -> Taken:
        """A gradient of one side, which draws from its own stream unless it is the first."""
        if not turn[0]:
            return self._gradient(side, step, batches, turn)
        with self.draws.turn(self.place, step, *turn):
            return self._gradient(side, step, batches, turn)

    def _gradient(self, side: Side, step: int, batches: Batches, turn: tuple[int, int]) -> Taken:
        side.optimiser.zero_grad(set_to_none=True)
        processes, on_cpu = self.job.processes, self.job.device.type == "cpu"
        before = torch.get_rng_state()
        # Pyro's own checks read tensors on the host at every site; the first step has them.
        first = step == 0
        compiled = None
        if side.name in self.compiled and not first:
            compiled = self.compiled[side.name].gradient(batches, self.rows)
        if compiled is None:
            model, guide = self.trained.model, self.trained.guide
            key = self.place, step, *turn

            def run() -> LossByPart:
                return self.draws.loss(side.objective, model, guide, batches, key).per(self.rows)

            with pyro.validation_enabled(first):
                try:
                    told = run()
                except LostProcess:
                    raise
                except (ValueError, RuntimeError):
                    torch.set_rng_state(before)
                    if (not_a_number := self._overflown(run, step)) is None:
                        raise
                    told = not_a_number
        else:
            told = compiled
        loss, parts = told.total, told.values
        if compiled is None and not loss.requires_grad:
            raise ValueError(
                f"the loss of {side.name!r} in stage {self.stage.name!r} depends on nothing that "
                "it trains"
            )
        if processes.count > 1:
            loss.backward()
            stop = self.job.ending
            loss, parts = processes.sum_gradients(loss, side.parameters, stop, parts)
        if on_cpu:  # no cost here; on a GPU the curve's points are checked instead
            value = loss.item()
            if not math.isfinite(value):
                torch.set_rng_state(before)
                if turn[0]:  # the pair's densities were finite when it moved
                    raise NotFinite(
                        f"step {step + 1}: the loss of player {side.name!r} is not finite; try a "
                        "smaller learning rate for it"
                    )
                self.check(value, step)
        if processes.count == 1 and compiled is None:
            loss.backward()
        return value if on_cpu else loss.detach(), told.names, parts

    def _overflown(self, run: Callable[[], LossByPart], step: int) -> LossByPart | None:
        """The loss that is not finite, if that is what Pyro's checks or torch stumbled over.

        Raises:
            NotFinite: If it is a parameter that is not.
        """
        if (name := not_finite(self.job.run.pair.named_parameters())) is not None:
            raise exploded(name, step)
        with (
            contextlib.suppress(ValueError, RuntimeError),
            pyro.validation_enabled(False),
            unmoved(*self.modules),
        ):
            told = run()
            return None if bool(told.total.isfinite()) else told
        return None

    def check(self, loss: float, step: int) -> None:
        """Find what made a loss infinite or NaN.

        Args:
            loss: The loss.
            step: The last step, counted from 0.

        Raises:
            NotFinite: Naming site and row, in every process.
        """
        if math.isfinite(loss):
            return
        batches = self.seen

        def again(batch: Batch) -> Iterator[Any]:
            nesting = self.stage.objective.max_plate_nesting
            kind = next(i for i, b in enumerate(batches) if b is batch)
            draws = self.draws.again(kind, self.place, step, 0, 0)
            still = unmoved(*self.modules)
            with torch.no_grad(), pyro.validation_enabled(False), still, draws:
                run = Evaluation(self.trained.model, self.trained.guide, batch, nesting)
                weights = run.weights()
            yield weights.guide
            yield weights.model

        error = explain(self.job.run.pair, step + 1, again, batches)
        if self.job.processes.count == 1:
            raise error
        notes = self.job.processes.notes(str(error))  # the row is one process's
        raise NotFinite(next((note for note in notes if " at row " in note), notes[0]))
