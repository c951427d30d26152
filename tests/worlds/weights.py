"""Weights that are far from where they begin, so that nothing is 0 or 1 by chance."""

from __future__ import annotations

from typing import Any

import torch


def perturbed(module: Any, std: float = 0.3) -> Any:
    """The module with Normal noise on all its weights, the same in every type."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            weight.add_(std * noise.to(weight.dtype))
    return module
