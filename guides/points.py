"""Factors that are a point: no density, one value per row.

The term log q of a point is 0, so that a bound is the log joint density at the point, as in an
autoencoder or in a fit of the highest posterior density. That is no bound on the evidence, and a
point has no importance weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models.guides.factors import Conditional, Factor


class Point(Factor):
    """q(site | given) = the network's output, with certainty: an amortised point.

    For encoders without noise, of autoencoders and contrastive codes. With ``Scalar()`` for the
    size it is one number per row.
    """

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """A ``Delta``: batch shape ``(...)``, event shape ``(size,)`` or ``()``."""
        if self.scalar:
            return dist.Delta(raw.squeeze(-1))
        return dist.Delta(raw, event_dim=1)


class PointPerRow(Conditional):
    """q(site) = a vector of its own for each row of the training table, looked up by number.

    Its gradient is dense: Adam's moments move every row in each step, which costs rows x size per
    step. It stands for the rows that it was trained on and for no others, not even for a
    validation table; exports and proposals, which take rows out of their table, refuse it.

    Args:
        size: Size of the vector.
        rows: Number of rows of the training table.
        scale: Standard deviation of the Normal that starting values are drawn from.

    Raises:
        ValueError: If the size, the number of rows or the scale is out of range.
    """

    by_row = True

    def __init__(self, size: int, rows: int, scale: float = 0.01) -> None:
        super().__init__()
        for option, value in (("size", size), ("rows", rows)):
            if value < 1:
                raise ValueError(f"{option} is {value}, expected at least 1")
        if not scale >= 0:
            raise ValueError(f"scale is {scale}, expected at least 0")
        self.table = nn.Parameter(scale * torch.randn(rows, size))

    def check(self, site: str, values: Mapping[str, Tensor]) -> None:
        """Refuse rows that are not those of the training table.

        Args:
            site: The factor's site, for the message.
            values: A batch.

        Raises:
            IndexError: If it stands for another number of rows, or tells no row numbers.
        """
        total, known = getattr(values, "total", None), len(self.table)
        if total != known:
            what = "values without row numbers" if total is None else f"a table of {total} rows"
            raise IndexError(  # no ValueError, to which Pyro's traces add lines
                f"site {site!r} has a point for each of the {known} rows it was trained on, got "
                f"{what}; expected batches of the training table"
            )

    def forward(self, **values: Tensor) -> dist.TorchDistribution:
        """A ``Delta`` of log density 0: batch shape ``(B,)``, event shape ``(size,)``.

        Args:
            values: The row numbers ``(B,)`` as ``rows``; others do not matter.
        """
        return dist.Delta(self.table[values["rows"]], event_dim=1)
