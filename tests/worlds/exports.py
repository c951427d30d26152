"""Rows of the linear world, its exact guide, and what to read from its InferenceData."""

from __future__ import annotations

import torch
from worlds.linear import LinearPair, draw

from ppl_models import guides
from ppl_models.data import Table

N, S = 6, 2000
NAMES = ("ape", "bee", "cat", "dog")


def table(pair: LinearPair, rows: int = N, **options: object) -> Table:
    x, y = draw(pair, rows)
    return Table("w/test", {"x": x, "y": y}, numbers=3 * torch.arange(rows) + 7,
                 classes={"y": NAMES}, **options)  # fmt: skip


def exact(pair: LinearPair) -> LinearPair:
    """Give it the exact guide: log p(y | x) is linear in x, as the classes share a covariance."""
    net = pair.guide.factors["z"].net
    labels = guides.Categorical(pair.config.classes, {"x": pair.config.data_dim})
    cov = pair.A @ pair.A.T + pair.noise**2 * torch.eye(len(pair.A), dtype=pair.A.dtype)
    weights = pair.means @ torch.linalg.inv(cov)
    with torch.no_grad():
        net.shift.zero_()
        net.log_widen.zero_()
        labels.double().net.first.weights["x"].copy_(weights)
        bias = pair.prior_logits - 0.5 * (weights * pair.means).sum(-1)
        labels.net.first.bias.copy_(bias)
    pair.guide.factors["y"] = labels
    return pair


def drawn(idata, name, group="posterior"):
    """One chain's draws as a tensor ``(draw, ...)``."""
    return torch.from_numpy(idata[group][name].values[0])


def factors(pair, x):
    """q(y | x) ``(N, C)``, and loc and scale of q(z | x, y) ``(N, C, L)``."""
    probs = pair.guide.factor("y", {"x": x}).probs
    y = torch.arange(pair.config.classes)
    q = pair.guide.factor("z", {"x": x[:, None], "y": y}).base_dist
    return probs.detach(), q.loc.detach(), q.scale.detach().expand_as(q.loc)
