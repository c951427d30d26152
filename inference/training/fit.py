"""Training: one loop for every pair and objective."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ppl_models.config import check_seed, names, plain
from ppl_models.data import straight
from ppl_models.data.tables.schema import Schema
from ppl_models.data.tables.table import Dataset, Table
from ppl_models.devices import device_of
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.composition import networks_in
from ppl_models.inference.objectives.learning_rate import rates_follow_share
from ppl_models.inference.objectives.loss_parts import RESERVED
from ppl_models.inference.objectives.schedule import change_follows_progress, follows_progress
from ppl_models.inference.objectives.stage import Stage, with_training
from ppl_models.inference.posterior.netcdf_kinds import name_problem
from ppl_models.inference.posterior.points_by_row import (
    check_points,
    check_training_rows,
    keep_points,
    points_by_row,
)
from ppl_models.inference.posterior.support import check_covariates, check_data, check_unprepared
from ppl_models.inference.training import processes as distributed, run_folder
from ppl_models.inference.training.denormals import flushed_denormals
from ppl_models.inference.training.fresh_weights import fresh_weights, put_into
from ppl_models.inference.training.job import Job
from ppl_models.inference.training.loop import Loop
from ppl_models.inference.training.merged_rows import merged
from ppl_models.inference.training.optimisers import optimiser_of
from ppl_models.inference.training.run import Run
from ppl_models.inference.training.run_identity import describe_run
from ppl_models.inference.training.run_rows import keep_rows
from ppl_models.inference.training.sides import player_groups, trained
from ppl_models.inference.training.stopping import deadline_in
from ppl_models.inference.training.validation_curve import some_rows
from ppl_models.pair import Pair

log = logging.getLogger(__name__)


def fit(
    pair: Pair,
    data: Any,
    objective: Objective | None = None,
    *,
    stages: tuple[Stage, ...] | None = None,
    freeze: tuple[str, ...] = (),
    seed: int = 0,
    device: str | torch.device = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    fresh: bool = False,
    max_minutes: float | None = None,
    checkpoint_seconds: float = 60.0,
    progress: bool = True,
    callbacks: tuple[Callable[[Run, int], None], ...] = (),
    **training: Any,
) -> Run:
    """Train a pair; labelled and unlabelled rows are drawn apart and their losses added.

    The pair is trained in place and stays on the device. A pair that was fitted before goes on
    from its weights, with optimisers that begin anew; ``fresh=True`` gives it its first weights
    again. The caller's global random state is left as it was.

    Started by ``torchrun``, the processes share each batch and train one pair: the curve is
    that of one process up to rounding (see
    :class:`ppl_models.inference.training.process_noise.Draws` for the draws of which that
    holds), also where rows look at each other. Every process calls ``fit`` with the same
    arguments; the first one writes, shows progress and calls back.

    Args:
        pair: The pair.
        data: A data set (its training rows are used), or the rows themselves: a table; of a pair
            that has been built for data or fitted before, a ``pandas.DataFrame`` or an
            ``AnnData`` with the columns of these; or the path of a file, as
            :func:`ppl_models.data.load` takes it.
        objective: In place of the paper's own, in the last stage.
        stages: In place of the paper's own stages.
        freeze: Prefixes, up to a dot, of the names of parameters that no stage changes, as
            ``pair.state_dict()`` prints them: ``("decoder", "guide.shared.codes")``. A parameter
            that has several names, as in a network that sites share, is frozen by any of them.
        seed: Seed of all draws and of the order of rows.
        device: ``"auto"`` takes a GPU if there is one; else ``"cpu"`` or ``"cuda"``.
        out: Folder for the run: its description and a state that can be resumed, written
            every ``checkpoint_seconds`` and when interrupted. Nothing is written if None.
        resume: Continue the run in ``out``: the result equals that of an uninterrupted run. It
            may be longer than before, unless objective, learning rate or what comes after a step
            change with the share of the steps that is done; the curve keeps the points it has.
        overwrite: Start over where there is a run in ``out``; its files are removed first.
        fresh: Begin with the weights that ``build`` gives a pair of these settings with this
            seed, whatever it has. Networks that only objectives or players hold are not the
            pair's: players' are drawn anew by every fit, the others stay.
        max_minutes: End the training after the step at which so many minutes have passed since
            the call, with the status ``"interrupted"``; with ``out`` it can be resumed.
        checkpoint_seconds: Seconds between two writes of the state.
        progress: Show a progress bar with loss per row, steps per second and the time left.
        callbacks: Called as ``callback(run, step)`` at every recorded point of the curve, such as
            :class:`CSVLogger` and :class:`TensorBoard`; one that raises :class:`StopTraining`
            ends the training.
        training: Fields of :class:`Training` that differ from the paper's; a tuple gives one
            value per stage: ``learning_rate``, ``optimiser="adamw(weight_decay=0.05)"``,
            ``schedule="cosine"``, ``warmup``, ``clip_norm`` (gradient clipping), ``batch_size``,
            ``patience`` (early stopping) and more. ``steps`` and ``epochs`` take each other's
            place. ``compile=True``
            compiles the steps (see
            :mod:`ppl_models.inference.training.compiled_step`; it takes up to a minute per stage
            to start with), ``precision="bf16"`` runs the networks in bfloat16.

    Returns:
        The run.

    Raises:
        ValueError: If data, options or folder do not fit, before any work is done; the folder
            is one process's at a time.
        NotFinite: If the loss becomes NaN or infinite, naming site and row.
        LostProcess: If another process of the run has died.
        KeyboardInterrupt: If interrupted; with ``out`` the state has been written.
    """
    seed = check_seed(seed)
    _check_beginning(resume, overwrite=overwrite, fresh=fresh)
    deadline = deadline_in(max_minutes)
    where = device_of(device)
    data = straight.training_data(data, pair.schema, (*pair.card.labels, *pair.card.covariates))
    plan = _plan(pair.stages() if stages is None else stages, objective, freeze, training)
    _check_plan(pair, plan)
    watching = any(stage.training.patience for stage in plan)
    schema, table, validation = _checked(pair, data, plan, watching)
    tables = [_rows_of(pair, stage, table) for stage in plan]
    watched = [_watched(stage, pair, validation) for stage in plan]
    first = fresh_weights(pair, seed) if fresh else None

    with distributed.group(device) as processes, contextlib.ExitStack() as held:
        _check_modules(pair, plan, processes)
        description = plain({**describe_run(pair, data, plan, seed), "schema": schema.plain()})
        run = Run(pair, str(plan[-1].objective), seed, data=data, description=description)
        processes.agree("pair, data, training and seed", json.dumps(description["identity"]))
        run.folder = folder = None if out is None else Path(out)
        saved = None
        if folder is not None:
            how: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "fixed": _fixed(plan)}
            claimed = run_folder.claimed(folder, description, **how)
            saved = processes.from_first(lambda: held.enter_context(claimed))
            processes.from_first(lambda: keep_rows(folder, data))
        if first is not None:
            put_into(pair, first)
        elif pair.fitted and saved is None and processes.first:
            log.info("the pair was fitted before: training goes on from its weights (fresh=True)")
        _begin(pair, schema, table, where)
        job = Job(
            *(run, plan, seed, where, processes, folder, description),
            checkpoint_seconds=checkpoint_seconds,
            progress=progress,
            callbacks=callbacks,
            deadline=deadline,
        )
        _carry_out(job, table, tables, watched, saved)
    pair.eval()
    return run


def _check_beginning(resume: bool, **others: bool) -> None:
    """Refuse to go on with a run and to begin anew at once."""
    for other, on in others.items():
        if resume and on:
            raise ValueError(f"resume and {other} are both on, expected one of them")


def _begin(pair: Pair, schema: Schema, table: Table, where: torch.device) -> None:
    """Make a pair ready to be trained on these rows, in place."""
    pair.schema, pair.fitted = schema, True
    keep_points(pair, table)
    pair.to(where)
    pair.train()


def _checked(
    pair: Pair, data: Dataset | Table, plan: tuple[Stage, ...], watching: bool
) -> tuple[Schema, Table, Table | None]:
    """The pair's schema with what is new in the data, and training and validation rows by it."""
    table, validation, roles = (
        (data.train, data.validation, data.roles)
        if isinstance(data, Dataset)
        else (data, None, None)
    )
    schema = pair.schema_with(table, roles)
    table = schema.bring(table)
    makers = [stage.prepare for stage in plan if stage.prepare is not None]
    check_covariates(pair, table, makers)
    check_training_rows(pair, table)
    _check_rows(pair, plan, table)
    first = plan[0]
    if first.prepare is not None and first.start is None:
        check_unprepared(pair, table, _rows_of(pair, first, table), first.prepare)
    if validation is not None:
        validation = schema.bring(validation)
        check_covariates(pair, validation, makers)
        if watching:
            check_points(pair, validation, table)
            _check_rows(pair, [_as_validated(stage) for stage in plan], validation)
    return schema, table, validation


def _check_rows(pair: Pair, plan: Sequence[Stage], table: Table) -> None:
    """Compare rows with the support of their sites, as the stages see them.

    What a later stage prepares may come from networks that are not trained yet, and what one with
    a ``start`` does may wait for it: only the first stage's prepared rows are looked at.
    """
    first = plan[0]
    if any(stage.prepare is None for stage in plan):
        makers = [stage.prepare for stage in plan if stage.prepare is not None]
        check_data(pair, table, makers=makers)
    if first.prepare is not None and first.start is None:
        program = first.pair if isinstance(first.pair, Pair) else pair
        check_data(program, _rows_of(pair, first, table), prepare=first.prepare)


def _as_validated(stage: Stage) -> Stage:
    return dataclasses.replace(stage, prepare=stage.prepare_validation or stage.prepare)


def _plan(
    stages: tuple[Stage, ...],
    objective: Objective | None,
    freeze: tuple[str, ...],
    training: dict[str, Any],
) -> tuple[Stage, ...]:
    """The stages with what the caller changes in them."""
    plan = with_training(stages, training)
    plan = tuple(
        dataclasses.replace(s, freeze=(*s.freeze, *names("freeze", freeze))) for s in plan
    )
    if objective is not None:
        plan = (*plan[:-1], dataclasses.replace(plan[-1], objective=objective))
    return plan


def _check_plan(pair: Pair, plan: tuple[Stage, ...]) -> None:
    """Refuse what no stage can do, before any work.

    Raises:
        ValueError: Naming parameters that are none, an optimiser that is none or does not take
            its options or parameters, or a part of a loss whose name no curve can have.
    """
    for stage in plan:
        own, others = trained(pair, stage)
        optimiser_of([{"params": own}], stage.training, 1)
        for player, theirs in zip(stage.players, others, strict=True):
            optimiser_of(player_groups(pair, player, theirs), stage.training, 1)
        told = [(f"stage {stage.name!r}", name) for name in stage.objective.part_names]
        for player in stage.players:
            told += [(f"player {player.name!r}", name) for name in player.objective.part_names]
        for who, name in told:
            problem = "is a column of every training curve" if name in RESERVED else ""
            if problem := problem or name_problem(name):
                raise ValueError(f"{who} has an objective with a part {name!r}, which {problem}")


def _check_modules(pair: Pair, plan: tuple[Stage, ...], processes: distributed.Processes) -> None:
    """Refuse networks of any side that normalise over the rows of one process."""
    distributed.check_modules(pair, processes)
    for stage in plan:
        for player in stage.players:  # first, as the pair's objective may hold their networks too
            own = [] if player.module is None else [player.module]
            for network in (*own, *networks_in(player.objective)):
                distributed.check_modules(network, processes, f"player {player.name!r}: ")
        for network in networks_in(stage.objective):
            distributed.check_modules(network, processes, f"objective of stage {stage.name!r}: ")


def _carry_out(
    job: Job,
    table: Table,
    tables: list[Table],
    watched: list[Table | None],
    saved: dict[str, Any] | None,
) -> None:
    """Run what is left of the job; its own random state ends with it."""
    pair, device = job.run.pair, job.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(job.seed)
        loop = Loop(job)
        if saved is not None:
            loop.restore(saved)
            if job.processes.first:
                log.info("goes on from step %d of the run in %s", loop.state.steps, job.folder)
        with job.interruptible(), flushed_denormals():
            for place in range(loop.state.stage, len(job.plan)):
                if loop.ended:
                    break
                rows = tables[place].to(device, pair.like().dtype)
                loop.run_stage(place, rows, watched[place])
            loop.finish(table)


def _rows_of(pair: Pair, stage: Stage, table: Table) -> Table:
    if stage.observed:
        if stage.observed not in table.sites:
            raise ValueError(
                f"stage {stage.name!r} needs labels {stage.observed!r}, but {table.name} has "
                f"{sorted(table.sites)}"
            )
        table = table.where_observed(stage.observed)
    table = table.only(*stage.sites, *pair.card.covariates) if stage.sites else table
    return merged(stage.pair if isinstance(stage.pair, Pair) else pair, table)


def _watched(stage: Stage, pair: Pair, table: Table | None) -> Table | None:
    """The validation rows that a stage is looked at on, by which one with patience stops."""
    if table is None:
        if stage.training.patience:
            raise ValueError("patience needs validation rows, got a table without")
        return None
    if not stage.training.patience:
        site = stage.observed
        none = not len(table) or (site and not table.counts.get(site))
        if none or points_by_row(pair):  # which has points for the training rows alone
            return None
        table = some_rows(table.where_observed(site) if site else table)
    # Labels of validation rows are looked at only by a stage that trains on labelled rows alone.
    rows = _rows_of(pair, stage, table)
    return rows if stage.observed else rows.without(*pair.card.labels)


def _fixed(plan: Sequence[Stage]) -> dict[int, str]:
    """What keeps stages from being prolonged, by their places."""
    return {n: what for n, stage in enumerate(plan) if (what := _that_follows(stage))}


def _that_follows(stage: Stage) -> str:
    """What of a stage changes with the share of its steps that is done; an empty text if nothing.

    Its length then says how each of its steps is taken.
    """
    objectives = (stage.objective, *(player.objective for player in stage.players))
    if any(map(follows_progress, objectives)):
        return "objective"
    if any(map(change_follows_progress, stage.changes)):
        return "change after each step"
    return "learning rate" if rates_follow_share(stage.training.schedule) else ""
