"""Rows of a pair's own story."""

from __future__ import annotations

from typing import Any

from pyro import poutine
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.covariates import empty
from ppl_models.pair import Pair
from ppl_models.sample_sites import rows_first


def draw_rows(pair: Pair, rows: int) -> Batch:
    """Rows with data and labels from the pair's own story; each stands for 10 of its kind.

    Args:
        pair: The pair.
        rows: Number of rows B.
    """
    nothing = some_rows(pair, rows)
    prior = poutine.trace(pair.model).get_trace(nothing)
    card = pair.card
    kinds = 2 ** len(card.labels)
    total = 10 * rows * kinds
    counts = {**dict.fromkeys(card.data, total), **dict.fromkeys(card.labels, total // 2)}
    return Batch(
        {**nothing, **{name: _by_row(prior.nodes[name]) for name in counts}},
        nothing.rows,
        size=10 * rows,
        total=total,
        observed={**dict.fromkeys(nothing, total), **counts},
    )


def _by_row(site: Any) -> Tensor:
    value: Tensor = site["value"].detach()
    return rows_first(site, value, site["fn"].event_dim)


def some_rows(pair: Pair, rows: int) -> Batch:
    """Rows of which nothing is observed, with covariates that they could have.

    Args:
        pair: The pair.
        rows: Number of rows B.
    """
    return empty(pair, rows, pair.some_covariates(rows))
