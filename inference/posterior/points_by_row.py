"""Whether rows are those that a pair has points for.

A pair with :class:`ppl_models.guides.points.PointPerRow` is of one table: the points are kept with
the numbers of its rows, and with a mark of what each of them held.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.data.tables.row_marks import row_marks
from ppl_models.data.tables.table import Dataset, Table
from ppl_models.guides.points import PointPerRow
from ppl_models.pair import Pair

COMPARED_ROWS = 256  # rows whose values are read, evenly spread over a table
ADVICE = "expected rows of the training table, or a point from a network (guides.Point)"


def points_by_row(pair: Pair) -> dict[str, PointPerRow]:
    """The points of a pair that are kept by row, by site."""
    found = {}
    for path, module in pair.named_modules():
        if isinstance(module, PointPerRow):
            _, _, site = path.rpartition("factors.")
            found[site.partition(".")[0]] = module
    return found


def check_points(pair: Pair, table: Table, training: Table | None = None) -> None:
    """Refuse rows that a fitted pair has no points for.

    Whether a row is the one of that number is looked at in rows spread over the table.

    Args:
        pair: The pair; one that was not fitted has points for no row in particular.
        table: The rows: of the training table, whole or in part.
        training: The training table, in place of the one that the pair was fitted on.

    Raises:
        ValueError: Naming site and row.
    """
    for site, points in points_by_row(pair).items():
        if training is not None:
            known, marks = _kept(pair, training)
        elif points.fitted:
            known, marks = points.numbers.cpu(), points.marks.cpu()
        else:
            continue
        numbers = table.numbers.cpu()
        place = torch.searchsorted(known, numbers).clamp(max=len(known) - 1)
        strange = known[place] != numbers
        if bool(strange.any()):
            raise ValueError(
                f"site {site!r} has a point for each row it was trained on, and row "
                f"{int(numbers[strange][0])} of {table.name} is none of them; {ADVICE}"
            )
        step = max(1, len(numbers) // COMPARED_ROWS)
        some = torch.arange(0, len(numbers), step)
        other = row_marks(table, pair.card.data, some) != marks[place[some]]
        if bool(other.any()):
            lacking = [name for name in pair.card.data if name not in table.sites]
            why = f" (it lacks the site {lacking[0]!r})" if lacking else ""
            raise ValueError(
                f"site {site!r} has a point for each row it was trained on, and row "
                f"{int(numbers[some[other]][0])} of {table.name} is not what row of that number "
                f"was{why}; {ADVICE}"
            )


def check_training_rows(pair: Pair, table: Table) -> None:
    """Refuse a table to train on that has other rows than the pair has points for.

    Raises:
        ValueError: Naming the site.
    """
    for site, points in points_by_row(pair).items():
        if len(points.table) != len(table):
            raise ValueError(
                f"site {site!r} has points for {len(points.table)} rows, but {table.name} has "
                f"{len(table)}; build its guides.PointPerRow with rows={len(table)}"
            )
        numbers = table.numbers.cpu().sort().values
        twice = numbers[1:] == numbers[:-1]
        if bool(twice.any()):
            raise ValueError(
                f"site {site!r} has a point for each row, but {table.name} has row "
                f"{int(numbers[1:][twice][0])} twice; expected different row numbers"
            )
    check_points(pair, table)


def keep_points(pair: Pair, table: Table) -> None:
    """Tie the points of a pair to the rows that it is about to be trained on.

    Args:
        pair: The pair.
        table: The rows; see :func:`check_training_rows`.
    """
    every = points_by_row(pair).values()
    if every:
        numbers, marks = _kept(pair, table)
    for points in every:
        points.numbers.copy_(numbers)
        points.marks.copy_(marks)


@contextmanager
def lent_points(pair: Pair, data: Batch | Table | Dataset) -> Iterator[None]:
    """Give a pair that was not fitted points for the rows of a table, for a while.

    Args:
        pair: The pair.
        data: What it could be trained on; a batch's rows have the numbers that they say.

    Raises:
        ValueError: As :func:`check_training_rows`.
    """
    new = {s: p for s, p in points_by_row(pair).items() if not p.fitted}
    if not new or isinstance(data, Batch):
        yield
        return
    table = data.train if isinstance(data, Dataset) else data
    check_training_rows(pair, table)
    before = [points.numbers.clone() for points in new.values()]
    try:
        for points in new.values():
            points.numbers.copy_(table.numbers.sort().values)
        yield
    finally:
        for points, numbers in zip(new.values(), before, strict=True):
            points.numbers.copy_(numbers)


def _kept(pair: Pair, table: Table) -> tuple[Tensor, Tensor]:
    """Row numbers, increasing, and the marks of their rows."""
    numbers, order = table.numbers.cpu().sort()
    return numbers, row_marks(table, pair.card.data, order)
