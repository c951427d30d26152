"""Probabilities of a label over draws of the guide, as an export has them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ppl_models.config import unknown
from ppl_models.data.tables.table import Table
from ppl_models.inference.posterior.row_blocks import Rows
from ppl_models.inference.posterior.rows import conditioned_sites, positions, undisturbed
from ppl_models.inference.posterior.support import as_fitted
from ppl_models.inference.posterior.target import rows_of
from ppl_models.pair import Pair


def label_probs(pair: Pair, table: Table, label: str, draws: int, seed: int) -> Tensor:
    """The ``variational.{label}_probs`` of an export of all rows, and nothing else.

    Args:
        pair: The pair.
        table: The rows; the card's data sites are conditioned on.
        label: The label site.
        draws: Draws per row.
        seed: Seed of the draws.

    Returns:
        ``(N, C)``, the same numbers. Of a label that the guide leaves to the model, of which the
        export has draws alone, the mean of the probabilities that they are drawn by.

    Raises:
        ValueError: As :func:`ppl_models.inference.posterior.export.posterior`, and if there is no
            such label.
    """
    table = as_fitted(pair, table)
    index = positions(table, None)
    seen = table.only(*conditioned_sites(pair, table, None, index, seed))
    with undisturbed(pair, seed), torch.no_grad():
        work = Rows.of(pair, rows_of(seen.rows(index[:2]), pair), draws, len(index))
        if label not in work.sites.labels:
            raise ValueError(unknown("missing label", label, work.sites.labels))
        blocks = index.split(work.rows_at_a_time)
        probs = [work.label_probs(rows_of(seen.rows(part), pair), label) for part in blocks]
    return torch.from_numpy(np.concatenate(probs)).to(pair.like())
