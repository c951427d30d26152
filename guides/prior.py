"""A factor that keeps a site at its prior."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_models.guides.factors import Conditional


class Prior(Conditional):
    """q(site) = N(0, scale^2 I) whatever the row: noise of the story that is not inferred.

    Its term in a bound is exactly zero where the model's prior is the same.

    Args:
        size: Size of the vector.
        scale: Standard deviation, as in the model.
    """

    zero: Tensor

    def __init__(self, size: int, scale: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(size), persistent=False)
        self.scale = scale

    def forward(self, **values: Tensor) -> dist.TorchDistribution:
        """Batch shape ``()``, event shape ``(size,)``; no value matters."""
        return dist.Normal(self.zero, self.scale).to_event(1)
