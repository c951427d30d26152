"""Codes that stand behind labels: a code given its label, and a label given its code."""

from __future__ import annotations

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppl_models.networks import Net

LEAST = 1e-3  # of a scale


class Characteristic(nn.Module):
    """p(z | y): a Normal with a mean and a scale of its own for each value of a label.

    Means start evenly from -2 to 2, in the first dimension in the order of the values and in
    each further one in an order of its own; scales start at 1.

    Args:
        classes: Number C of values.
        size: Size K of the code.
    """

    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        orders = [torch.arange(classes), *(torch.randperm(classes) for _ in range(size - 1))]
        self.loc = nn.Parameter(4.0 * torch.stack(orders, -1) / (classes - 1) - 2)
        self.raw_scale = nn.Parameter(torch.ones(classes, size).expm1().log())

    def forward(self, y: Tensor) -> dist.TorchDistribution:
        """Labels ``(...)`` to distributions over vectors of size K."""
        scale = F.softplus(self.raw_scale).clamp_min(LEAST)
        return dist.Normal(self.loc[y], scale[y]).to_event(1)


def classifier(prior: Characteristic, site: str) -> nn.Module:
    """A linear network from a code to logits of its label, which starts out at the prior's means.

    For two values and one dimension the logit of the second starts as the code itself.

    Args:
        prior: p(z | y).
        site: Name of the code.
    """
    classes, size = prior.loc.shape
    net = Net({site: size}, (), classes)
    with torch.no_grad():
        net.first.weights[site].copy_(prior.loc / 4)
        net.first.bias.zero_()
    return net
