"""A factor whose site counts only in the rows where it is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
from torch import Tensor

from ppl_models.guides.factors import Conditional


class Present(Conditional):
    """q of the k-th of several sites, of which a count says how many are there.

    The site is drawn in every row and masked where it is not there; the model masks it alike,
    with ``poutine.mask(mask=count > place)``. As the draw does not depend on the count, all
    counts share it where the count is summed out.

    Args:
        factor: The factor.
        count: Name of the site of the count.
        place: Number k of the site, from 0.
    """

    def __init__(self, factor: Conditional, count: str, place: int) -> None:
        given = [f"{n}?" if n in factor.optional else n for n in factor.given]
        super().__init__((*given, count))
        self.net, self.count, self.place = factor, count, place
        self.by_row = factor.by_row

    def looked_up(self, site: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the factor looks up, where it is one by row."""
        net: Any = self.net
        found: dict[str, Tensor] = net.looked_up(site, values)
        return found

    def mask(self, values: Mapping[str, Tensor]) -> Tensor:
        """Where the count exceeds the place, in the count's shape."""
        return values[self.count] > self.place

    def forward(self, **values: Tensor) -> dist.TorchDistribution:
        """The factor's own distribution, not masked."""
        q: dist.TorchDistribution = self.net(**values)
        return q
