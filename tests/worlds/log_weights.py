"""Log weights of known shape."""

from __future__ import annotations

import numpy as np
import torch
from torch.distributions import Normal


def normal_weights(scale: float, draws: int, rows: int = 200, dims: int = 10) -> np.ndarray:
    """Log weights of draws from N(0, scale^2 I) for the target N(0, I)."""
    g = torch.Generator().manual_seed(0)
    z = scale * torch.randn(draws, rows, dims, generator=g, dtype=torch.float64)
    return (Normal(0.0, 1.0).log_prob(z) - Normal(0.0, scale).log_prob(z)).sum(-1).numpy()
