"""Codes that stand behind labels: their distribution given the label, and pictures along them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppl_models.networks import Net

if TYPE_CHECKING:
    from ppl_models.batch import Batch
    from ppl_models.pair import Pair

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


def traverse(pair: Pair, batch: Batch, site: str, values: Tensor, data: str = "x") -> Tensor:
    """Mean pictures of rows as one of their codes takes other values and all else stays.

    Args:
        pair: A pair whose data hang on codes that its guide draws.
        batch: The rows B, with the labels that are known of them.
        site: The code.
        values: Its values ``(steps, K)``.
        data: The site of the pictures.

    Returns:
        ``(steps, B, D)``.

    Raises:
        ValueError: If there is no such site, or the values have another size.
    """
    steps: list[dict[str, Any]] = [{site: value} for value in values]
    first = pair.intervene(batch, **steps[0])
    # One draw for all steps: what is not the code must not change along the way.
    kept = {name: value for name, value in first.items() if name not in (*batch, site, data)}
    return torch.stack([pair.intervene(batch, **kept | step)[data] for step in steps])
