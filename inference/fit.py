"""Training: one loop for every pair and objective."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from ppl_models.batch import Batch
from ppl_models.data import Dataset, Stream, Table
from ppl_models.inference import checkpoint
from ppl_models.inference.checks import check_data, explain
from ppl_models.inference.evaluation import Evaluation
from ppl_models.inference.objectives import Objective
from ppl_models.inference.run import Run, describe_run
from ppl_models.inference.stage import Stage, Training, with_training
from ppl_models.pair import Pair

START_ROWS = 1000  # rows that a stage's `start` looks at
RECORDS = 400  # points of the training curve per stage


def fit(
    pair: Pair,
    data: Dataset | Table,
    objective: Objective | None = None,
    *,
    stages: tuple[Stage, ...] | None = None,
    freeze: tuple[str, ...] = (),
    seed: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 60.0,
    progress: bool = True,
    callbacks: tuple[Callable[[Run, int], None], ...] = (),
    **training: Any,
) -> Run:
    """Train a pair; labelled and unlabelled rows are drawn apart and their losses added.

    The pair is trained in place and stays on the device. The caller's global random state is
    left as it was.

    Args:
        pair: The pair.
        data: A data set (its training rows are used), or the rows themselves.
        objective: In place of the paper's own, in the last stage.
        stages: In place of the paper's own stages.
        freeze: Prefixes of the names of parameters that no stage changes, e.g. ``("decoder",)``.
        seed: Seed of all draws and of the order of rows.
        device: ``"auto"`` takes a GPU if there is one.
        out: Folder for the run: its description and a state that can be resumed, written
            every ``checkpoint_seconds`` and when interrupted. Nothing is written if None.
        resume: Continue the run in ``out``: the result equals that of an uninterrupted run.
        checkpoint_seconds: Seconds between two writes of the state.
        progress: Show a progress bar with loss per row and steps per second.
        callbacks: Called as ``callback(run, step)`` at every recorded point of the curve.
        training: Fields of :class:`Training` that differ from the paper's; a tuple gives one
            value per stage.

    Returns:
        The run.

    Raises:
        ValueError: If data, options or folder do not fit, before any work is done.
        NotFinite: If the loss becomes NaN or infinite, naming site and row.
        KeyboardInterrupt: If interrupted; with ``out`` the state has been written.
    """
    table, validation = (
        (data.train, data.validation) if isinstance(data, Dataset) else (data, None)
    )
    plan = with_training(pair.stages() if stages is None else stages, training)
    plan = tuple(dataclasses.replace(s, freeze=(*s.freeze, *freeze)) for s in plan)
    if objective is not None:
        plan = (*plan[:-1], dataclasses.replace(plan[-1], objective=objective))
    check_data(pair, table)
    tables = [_rows_of(stage, table) for stage in plan]

    where = _device(device)
    run = Run(pair=pair, objective=str(plan[-1].objective), seed=seed)
    description = describe_run(pair, data, plan, seed)
    folder = None if out is None else Path(out)
    state = None if folder is None else checkpoint.claim(folder, description, resume)
    pair.to(where)
    pair.train()
    loop = _Loop(run, plan, seed, where, folder, description, progress, callbacks)
    loop.checkpoint_seconds = checkpoint_seconds
    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        torch.manual_seed(seed)
        if state is not None:
            loop.restore(state)
        with _interruptible(folder is not None) as interrupted:
            loop.interrupted = interrupted
            for place, stage in enumerate(plan):
                if place >= loop.stage:
                    watch = None if validation is None else _validation_of(stage, pair, validation)
                    rows = tables[place].to(where, pair.like().dtype)
                    loop.run_stage(place, stage, rows, watch)
            loop.finish()
    pair.eval()
    return run


class _Loop:
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
    ) -> None:
        self.result, self.pair, self.plan, self.seed = run, run.pair, plan, seed
        self.device, self.folder, self.description = device, folder, description
        self.progress, self.callbacks = progress, callbacks
        self.stage, self.step = 0, 0
        self.done_before = 0  # steps of the stages before this one
        self.best: dict[str, Any] = {}
        self.optimiser: torch.optim.Optimizer | None = None
        self.pending: dict[str, Any] | None = None  # optimiser state to restore
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
            table, options.batch_size, options.labelled_batch_size or None, seed=self.seed + place
        )
        total = options.epochs * stream.steps_per_epoch
        self.optimiser = _optimiser(self.pair, stage, len(table))
        if self.pending is not None:
            self.optimiser.load_state_dict(self.pending)
        trained = stage.pair or self.pair
        every = max(1, total // RECORDS)
        began = time.monotonic()
        with _frozen(self.pair, stage.freeze), self._bar(stage, total) as bar:
            while self.step < total:
                stage.objective.at(self.step / total)
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
                if self.folder is not None:
                    self._maybe_save()
                if options.patience and self.step % stream.steps_per_epoch == 0:
                    if validation is None:
                        raise ValueError("patience needs validation rows, got a table without")
                    if self._stale(stage, trained, validation, options):
                        break
        if self.best:
            self.pair.load_state_dict(self.best.pop("model"))
            self.best = {}
        self.done_before += self.step

    def _take_step(
        self, stage: Stage, trained: Pair, batches: tuple[Batch, ...], rows: int
    ) -> Tensor | float:
        assert self.optimiser is not None
        self.optimiser.zero_grad(set_to_none=True)
        if stage.prepare is not None:
            with torch.no_grad():
                batches = tuple(stage.prepare(batch) for batch in batches)
        on_cpu = self.device.type == "cpu"
        before = torch.get_rng_state()
        # Pyro's own checks read tensors on the host at every site; the first step has them.
        with pyro.validation_enabled(self.step == 0):
            loss = stage.objective.differentiable_loss(trained.model, trained.guide, batches)
        loss = loss / rows
        if on_cpu:  # no cost here; on a GPU the curve's points are checked instead
            value = loss.item()
            if not math.isfinite(value):
                torch.set_rng_state(before)
                self._finite(value, stage, trained, batches)
        loss.backward()
        self.optimiser.step()
        return value if on_cpu else loss.detach()

    def _finite(
        self, value: float, stage: Stage, trained: Pair, batches: tuple[Batch, ...]
    ) -> None:
        if math.isfinite(value):
            return

        def again(batch: Batch) -> Iterator[Any]:
            nesting = stage.objective.max_plate_nesting
            with torch.no_grad(), pyro.validation_enabled(False):
                w = Evaluation(trained.model, trained.guide, batch, nesting).weights()
            yield w.guide
            yield w.model

        raise explain(self.pair, self.step, again, batches)

    def _stale(self, stage: Stage, trained: Pair, table: Table, options: Training) -> bool:
        # Validation must not move the training's random state.
        with torch.random.fork_rng(devices=[]), torch.no_grad(), pyro.validation_enabled(False):
            torch.manual_seed(self.seed)
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
        return bool(self.best["age"] >= options.patience)

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
        if self.interrupted.is_set():
            self.save("interrupted")
            raise KeyboardInterrupt(f"interrupted at step {self.step} of stage {self.stage + 1}")
        if time.monotonic() - self.saved >= self.checkpoint_seconds:
            self.save("running")

    def save(self, status: str) -> None:
        """Write state, then description: a description never claims more than the state."""
        assert self.folder is not None
        state = {
            "model": self.pair.state_dict(),
            "optimiser": None if self.optimiser is None else self.optimiser.state_dict(),
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
        checkpoint.write_state(self.folder, state)
        self.description["status"] = status
        checkpoint.write_description(self.folder, self.description)
        self.saved = time.monotonic()

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        try:
            self.pair.load_state_dict(state["model"])
            self.stage, self.step = state["stage"], state["step"]
            self.done_before, self.best = state["done_before"], state["best"]
            self.pending, self.seconds = state["optimiser"], state["seconds"]
            self.result.history, self.result.validation = state["history"], state["validation"]
            self.sum, self.count = state["sum"], state["count"]
            torch.set_rng_state(state["rng"])
        except (KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise checkpoint.RunFolderError(
                f"{self.folder}: the saved state does not fit this run: {reason}"
            ) from None
        if self.device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"])

    def finish(self) -> None:
        """Mark the run as finished, past its last stage."""
        self.stage, self.step, self.optimiser = len(self.plan), 0, None
        if self.folder is not None:
            self.save("finished")


def _rows_of(stage: Stage, table: Table) -> Table:
    if stage.observed:
        if stage.observed not in table.sites:
            raise ValueError(
                f"stage {stage.name!r} needs labels {stage.observed!r}, but {table.name} has "
                f"{sorted(table.sites)}"
            )
        table = table.where_observed(stage.observed)
    return table.only(*stage.sites) if stage.sites else table


def _validation_of(stage: Stage, pair: Pair, table: Table) -> Table:
    # Labels of validation rows are looked at only by a stage that trains on labelled rows alone.
    rows = _rows_of(stage, table)
    return rows if stage.observed else rows.without(*pair.card.labels)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {name!r}, expected auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} asked for, but no GPU is available; use cpu or auto")
    return device


def _optimiser(pair: Pair, stage: Stage, rows: int) -> torch.optim.Optimizer:
    names = dict((stage.pair or pair).named_parameters())
    for prefix in stage.freeze:
        if not any(_under(name, prefix) for name, _ in pair.named_parameters()):
            raise ValueError(f"stage {stage.name!r} freezes {prefix!r}, which is no parameter")
    frozen = {id(p) for n, p in pair.named_parameters() if any(_under(n, f) for f in stage.freeze)}
    parameters = [p for p in names.values() if id(p) not in frozen]
    if not parameters:
        raise ValueError(f"stage {stage.name!r} freezes every parameter, expected one to train")
    options = stage.training
    return torch.optim.Adam(
        parameters,
        lr=options.learning_rate,
        betas=(options.beta1, options.beta2),
        # Adam adds weight_decay * w to the gradient of the mean loss per row, which is the
        # gradient of the prior's -log density / N.
        weight_decay=options.weight_prior / rows,
        fused=True,
    )


def _under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


@contextlib.contextmanager
def _frozen(pair: Pair, prefixes: tuple[str, ...]) -> Iterator[None]:
    held = [
        p
        for n, p in pair.named_parameters()
        if p.requires_grad and any(_under(n, f) for f in prefixes)
    ]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def _interruptible(active: bool) -> Iterator[threading.Event]:
    # With a folder, Ctrl-C waits for the end of the step, so that the state is whole.
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
