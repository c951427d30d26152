"""Early stopping: the loss on validation rows, and the weights that had the best."""

from __future__ import annotations

from typing import Any

import torch

from ppl_models.data.tables.table import Table
from ppl_models.inference.objectives.stage import Stage
from ppl_models.pair import Pair
from ppl_models.quiet import quiet

LOOK_ROWS = 1000  # validation rows at a time


@torch.no_grad()
def validation_loss(pair: Pair, stage: Stage, table: Table, seed: int) -> float:
    """The stage's loss per row, by draws that are the same at every look.

    Training's own random state stays as it is.

    Args:
        pair: The whole pair.
        stage: The stage.
        table: Validation rows.
        seed: Of the draws.
    """
    trained, like = stage.pair or pair, pair.like()
    with quiet(like.device, seed):
        total = 0.0
        for batch in table.batches(limit=LOOK_ROWS):
            batch = batch.to(like.device, like.dtype)
            if stage.prepare is not None:
                batch = stage.prepare(batch)
            rows = stage.objective.per_datum(trained.model, trained.guide, batch)
            total += float(rows.sum())
    return total / len(table)


def better_of(best: dict[str, Any], loss: float, pair: Pair) -> dict[str, Any]:
    """The best look so far: its ``loss``, its ``model``, and its ``age`` in looks.

    Args:
        best: The same before this look; empty at the first.
        loss: On the validation rows.
        pair: The pair that has it.
    """
    if best and not loss < best["loss"]:  # NaN is never better
        return {**best, "age": best["age"] + 1}
    model = {name: value.detach().clone() for name, value in pair.state_dict().items()}
    return {"loss": loss, "model": model, "age": 0}
