"""Early stopping: the loss on validation rows, and the weights that had the best."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from ppl_models.batch import Batch
from ppl_models.data.streams.stream import Stream
from ppl_models.data.tables.table import Table
from ppl_models.inference.objectives.composition import networks_in
from ppl_models.inference.objectives.stage import Stage
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.training.not_finite import explain
from ppl_models.pair import Pair
from ppl_models.quiet import evaluating, quiet

LOOK_ROWS = 1000  # validation rows at a time
LOOK = "validation loss"  # what warnings of this kind begin with


class NotFiniteLook(UserWarning):
    """A loss on the validation rows that is NaN or infinite, and so counts for nothing."""


class Watch:
    """Looks at the validation rows, and tells once what is not finite there.

    Args:
        seed: Of the draws, which are the same at every look.
    """

    def __init__(self, seed: int) -> None:
        self.seed, self.told = seed, False

    @torch.no_grad()
    def loss(
        self,
        pair: Pair,
        stage: Stage,
        table: Table,
        step: int,
        tell: bool = True,
        limit: int = 0,
    ) -> float:
        """The stage's loss per row, in eval mode; training's own random state stays as it is.

        Where rows look at each other, each is looked at in a batch of the size that the stage's
        steps have of its kind: what is left of a kind is filled up with its first rows, which
        count once. Statistics that span kinds of rows, and sites outside the rows, are left out.

        Args:
            pair: The whole pair.
            stage: The stage.
            table: Validation rows.
            step: Steps that are done.
            tell: Whether this process is the one that speaks.
            limit: Most rows at a time; 0 for 1,000.
        """
        trained, like = stage.pair or pair, pair.like()
        beside = [player.module for player in stage.players if player.module is not None]
        beside += networks_in(stage.objective)
        with quiet(like.device, self.seed), evaluating(pair, *beside):
            total = 0.0
            for batch, counted in looks(stage, table, limit or LOOK_ROWS):
                batch = batch.to(like.device, like.dtype)
                if (prepare := stage.prepare_validation or stage.prepare) is not None:
                    batch = prepare(batch)
                rows = stage.objective.by_row(trained.model, trained.guide, batch)[:counted]
                part = float(rows.sum())
                if tell and not self.told and not math.isfinite(part):
                    self._tell(pair, stage, batch, rows, step)
                total += part
        return total / len(table)

    def _tell(self, pair: Pair, stage: Stage, batch: Batch, rows: torch.Tensor, step: int) -> None:
        self.told = True
        bad = (~rows.isfinite()).nonzero().flatten()[:1]
        some = Batch({name: value[bad] for name, value in batch.items()}, batch.rows[bad])

        def again(batch: Batch) -> Iterator[Any]:
            trained = stage.pair or pair
            run = Evaluation(
                trained.model, trained.guide, batch, stage.objective.max_plate_nesting
            )
            weights = run.weights()
            yield weights.guide
            yield weights.model

        problem = str(explain(pair, step, again, (some,) if len(bad) else ()))
        if len(bad) and "row" not in problem:
            problem += f", at row {int(some.rows[0])}"
        warnings.warn(
            NotFiniteLook(f"{LOOK} counts neither as the best nor for patience, {problem}"),
            stacklevel=2,
        )


def looks(stage: Stage, table: Table, limit: int) -> Iterator[tuple[Batch, int]]:
    """The batches in which validation rows are looked at, and how many rows of each count."""
    if not stage.objective.across_rows:
        for batch in table.batches(limit=limit):
            yield batch, batch.count
        return
    options = stage.training
    stream = Stream(table, options.batch_size, options.labelled_batch_size or None)
    for regime, size in zip(table.regimes(), stream.sizes, strict=True):
        for index in regime.index.split(size):
            filled = torch.cat((index, regime.index[: size - len(index)]))
            yield table.gather(regime, filled), len(index)


def better_of(best: dict[str, Any], loss: float, pair: Pair) -> dict[str, Any]:
    """The best look so far: its ``loss``, its ``model``, and its ``age`` in looks.

    A loss that is not finite leaves all as it was, the age too: it says nothing of the weights
    that it could be better or worse by.

    Args:
        best: The same before this look; empty before the first that is finite.
        loss: On the validation rows.
        pair: The pair that has it.
    """
    if not math.isfinite(loss):
        return best
    if best and not loss < best["loss"]:
        return {**best, "age": best["age"] + 1}
    model = {name: value.detach().clone() for name, value in pair.state_dict().items()}
    return {"loss": loss, "model": model, "age": 0}
