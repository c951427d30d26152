"""Pairs whose guide is the exact posterior, and the same guide with one planted fault."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from worlds.linear import LinearPair, draw, linear

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.data import Table
from ppl_models.networks import Label
from ppl_models.pair import Card, Pair


class _Labels(nn.Module):
    """Logits of p(y | x), sharpened and with classes mixed up."""

    def __init__(self, logits: Callable[[Tensor], Tensor], sharpen: float, roll: int) -> None:
        super().__init__()
        self.logits, self.sharpen, self.roll = logits, sharpen, roll

    def forward(self, x: Tensor) -> Tensor:
        return (self.sharpen * self.logits(x).detach().log_softmax(-1)).roll(self.roll, -1)


class _Codes(nn.Module):
    """p(z | x, y), shifted and widened in standard deviations; or the prior."""

    def __init__(self, world: LinearPair, shift: float, widen: float, collapsed: bool) -> None:
        super().__init__()
        self.world = [world]
        self.shift, self.widen, self.collapsed = shift, widen, collapsed

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        loc, scale = self.world[0].posterior_z(x, y)
        log_var = 2 * (scale * self.widen).log()
        loc = loc + self.shift * scale
        if self.collapsed:
            loc, log_var = torch.zeros_like(loc), torch.zeros_like(log_var)
        return torch.cat(torch.broadcast_tensors(loc, log_var), -1).detach()


@dataclass(frozen=True)
class Fault:
    """What is wrong with a guide; nothing by default."""

    shift: float = 0.0  # of codes, in standard deviations
    widen: float = 1.0
    sharpen: float = 1.0  # of label probabilities, as a power
    roll: int = 0  # classes take each other's probabilities
    collapsed: bool = False  # codes take their prior
    stale: float = 0.0  # how far the model has moved since the guide was exact


FAULTS = {
    "narrow": Fault(widen=0.6),
    "wide": Fault(widen=1.6),
    "biased": Fault(shift=0.5),
    "collapsed": Fault(collapsed=True),
    "sure labels": Fault(sharpen=3.0),
    "wrong labels": Fault(roll=1),
    "stale": Fault(stale=0.5),
}


def exact(fault: Fault = Fault(), seed: int = 0, dtype: torch.dtype = torch.float64) -> LinearPair:
    """The linear-Gaussian world of 4 labels and 2 codes, its guide exact but for a fault."""
    pair = linear(seed, dtype)
    old = copy.deepcopy(pair)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed + 1)
        old.means += fault.stale * torch.randn_like(old.means)
    pair.guide = guides.Factored(
        y=guides.Categorical(
            4, {"x": 3}, net=_Labels(lambda x: old.log_evidence(x)[0], fault.sharpen, fault.roll)
        ),
        z=guides.Normal(
            2, {"x": 3, "y": Label(4)},
            net=_Codes(old, fault.shift, fault.widen, fault.collapsed),
        ),
    )  # fmt: skip
    return pair


def table_of(pair: LinearPair, rows: int, seed: int = 0) -> Table:
    x, y = draw(pair, rows, seed)
    return Table("w/test", {"x": x, "y": y}, numbers=torch.arange(rows) + 100,
                 classes={"y": ("a", "b", "c", "d")})  # fmt: skip


# ---- a mixture: no code, the label summed out ---------------------------------------------


@dataclass(frozen=True)
class MixtureConfig(Config):
    classes: int = setting(3, "C")


class Mixture(Pair):
    """y ~ Cat; x | y ~ N(m_y, 1)."""

    Config = MixtureConfig
    config: MixtureConfig
    card = Card("mixture", "A mixture", "-", 2026, "-", "test", {"x": "data"}, {"y": "class"})

    def __init__(self, fault: Fault = Fault()) -> None:
        super().__init__(MixtureConfig())
        self.prior = nn.Parameter(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log())
        self.means = nn.Parameter(torch.tensor([-1.5, 0.0, 2.0], dtype=torch.float64))
        self.guide = guides.Factored(
            y=guides.Categorical(3, {"x": 1}, net=_Labels(self.logits, fault.sharpen, fault.roll))
        )

    def logits(self, x: Tensor) -> Tensor:
        """Log p(x, y) up to a constant ``(B, C)``."""
        return self.prior - 0.5 * (x - self.means) ** 2

    def log_evidence(self, x: Tensor) -> Tensor:
        return self.logits(x).logsumexp(-1) - 0.5 * math.log(2 * math.pi)

    def model(self, batch: Batch) -> None:
        with self.plate(batch):
            y = pyro.sample("y", dist.Categorical(logits=self.prior), obs=batch.get("y"))
            loc = self.means[y].unsqueeze(-1)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=batch.get("x"))
