"""Looks at validation rows along a training, where no early stop asks for them already.

They are for a person to read, and so they are few: at most :data:`LOOKS` of a stage, one in
:data:`APART` steps, and rows that are a tenth of those trained on (:data:`SHARE`). A stage that
is too short for one look has no curve.
"""

from __future__ import annotations

import math

import torch

from ppl_models.data.tables.table import Table

LOOKS = 20  # of a stage
APART = 50  # steps between two of them, at least
SHARE = 10  # rows are trained on for each that is looked at, at least
ROWS = 1000  # validation rows that are looked at
AT_ONCE = 4  # times the rows of a step: no gradient is kept of them


def some_rows(table: Table) -> Table:
    """At most 1,000 rows, evenly spread over a table."""
    count = len(table)
    if count <= ROWS:
        return table
    return table.rows(torch.arange(ROWS) * count // ROWS)


def spacing(total: int, every: int, batch_size: int, rows: int) -> int:
    """Steps from one look to the next, a multiple of ``every``; 0 for no looks.

    Args:
        total: Steps of the stage.
        every: Steps from one point of the training curve to the next.
        batch_size: Rows of a step.
        rows: Validation rows that are looked at.
    """
    looks = min(LOOKS, total // APART, total * batch_size // (SHARE * rows)) if rows else 0
    return every * math.ceil(total / every / looks) if looks else 0
