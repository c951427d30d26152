"""Factors that are a point: no density, one value per row.

The term log q of a point is 0, so that a bound is the log joint density at the point, as in an
autoencoder or in a fit of the highest posterior density. That is no bound on the evidence, and a
point has no importance weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch._C._functorch import maybe_current_level
from torch.distributions import biject_to
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ppl_models.guides.factors import Conditional, Factor
from ppl_models.guides.supports import SUPPORTS


class Point(Factor):
    """q(site | given) = the network's output, with certainty: an amortised point.

    For encoders without noise, of autoencoders and contrastive codes. With ``Scalar()`` for the
    size it is one number per row.

    Args:
        size: Size of the point.
        given: Size by name of the values it conditions on.
        hidden: Units of each hidden layer.
        activation: Name of the activation.
        net: A network of your own instead, with ``size`` outputs.
        support: One of ``unit_interval``, ``positive`` and ``nonnegative``, to which each output
            is carried, by a sigmoid or an exponential; a point in the unit interval stays off
            its ends by the spacing of floating numbers there. All numbers if None.

    Raises:
        ValueError: If there is no such support.
    """

    def __init__(
        self,
        size: int,
        given: Mapping[str, int],
        hidden: Sequence[int] = (),
        activation: str = "softplus",
        net: nn.Module | None = None,
        support: str | None = None,
    ) -> None:
        known = [name for name in SUPPORTS if name != "simplex"]
        if support is not None and support not in known:
            raise ValueError(f"support is {support!r}, expected one of {', '.join(known)}")
        super().__init__(size, given, hidden, activation, net)
        self.support = support

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """A ``Delta``: batch shape ``(...)``, event shape ``(size,)`` or ``()``."""
        if self.support is not None:
            raw = biject_to(SUPPORTS[self.support])(raw)
        if self.scalar:
            return dist.Delta(raw.squeeze(-1))
        return dist.Delta(raw, event_dim=1)


class PointPerRow(Conditional):
    """q(site) = a vector of its own for each row of the training table, looked up by its number.

    Its gradient is dense: Adam's moments move every row in each step, which costs rows x size per
    step. It stands for the rows that it was trained on and for no others, not even for those of a
    validation table: a fit keeps their numbers and marks, and what is done with a fitted pair
    refuses other rows.

    Args:
        size: Size of the vector.
        rows: Number of rows of the training table.
        scale: Standard deviation of the Normal that starting values are drawn from.

    Attributes:
        table: The points ``(rows, size)``, in the order of the row numbers.
        numbers: The row numbers ``(rows,)``, increasing; before a fit 0, 1, ...
        marks: A number for what each row held; zeros before a fit.

    Raises:
        ValueError: If the size, the number of rows or the scale is out of range.
    """

    by_row = True
    numbers: Tensor
    marks: Tensor

    def __init__(self, size: int, rows: int, scale: float = 0.01) -> None:
        super().__init__()
        for option, value in (("size", size), ("rows", rows)):
            if value < 1:
                raise ValueError(f"{option} is {value}, expected at least 1")
        if not scale >= 0:
            raise ValueError(f"scale is {scale}, expected at least 0")
        self.table = nn.Parameter(scale * torch.randn(rows, size))
        self.register_buffer("numbers", torch.arange(rows))
        self.register_buffer("marks", torch.zeros(rows, dtype=torch.int64))

    @property
    def fitted(self) -> bool:
        """Whether it belongs to a table."""
        return bool(self.marks.any())

    def looked_up(self, site: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Where in the table the points of a batch stand.

        Row numbers without a point are found here. In a trace, under ``vmap`` and on a GPU, which
        would be waited for, they are not looked at: their points are NaN.

        Args:
            site: The factor's site, for the message.
            values: A batch.

        Returns:
            What :meth:`forward` is called with: ``places`` ``(B,)``, and ``known`` ``(B, 1)``
            where some may have no point.

        Raises:
            IndexError: If a row has no point, or there are no row numbers.
        """
        rows = getattr(values, "rows", None)
        if rows is not None:
            places = torch.searchsorted(self.numbers, rows).clamp(max=len(self.numbers) - 1)
            known = self.numbers[places] == rows
            if _unread(rows):
                return {"places": places, "known": known.unsqueeze(-1)}
            if bool(known.all()):
                return {"places": places}
        what = "values without row numbers" if rows is None else f"row {int(rows[~known][0])}"
        raise IndexError(  # no ValueError, to which Pyro's traces add lines
            f"site {site!r} has a point for each of the {len(self.table)} rows it was trained on, "
            f"got {what}; expected batches of the training table"
        )

    def forward(self, **values: Tensor) -> dist.TorchDistribution:
        """A ``Delta`` of log density 0: batch shape ``(B,)``, event shape ``(size,)``.

        Args:
            values: As :meth:`looked_up` has them; others do not matter.
        """
        points = self.table[values["places"]]
        if "known" in values:
            points = points.where(values["known"], float("nan"))
        return dist.Delta(points, event_dim=1)


def _unread(rows: Tensor) -> bool:
    """Whether numbers have no values to look at, or are on a GPU."""
    traced = _get_current_dispatch_mode() is not None
    return traced or maybe_current_level() is not None or rows.device.type != "cpu"
