"""Factor analysis whose bound has a closed form, and its gradients by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models import Batch, Card, Config, Pair, guides, inference
from ppl_models.data import Table

D, L, N = 5, 2, 12
NOISE = 0.6


@dataclass(frozen=True)
class NoConfig(Config):
    """Nothing to set."""


class Encoder(nn.Module):
    """q(z | x): a linear mean, and one scale for all rows."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Linear(D, L)
        self.log_scale = nn.Parameter(torch.randn(L) * 0.3 - 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.mean(x)
        return torch.cat([mean, (2 * self.log_scale).expand_as(mean)], -1)


class Factors(Pair):
    """z ~ N(0, I); x | z ~ N(W z + b, s^2 I)."""

    Config = NoConfig
    card = Card("factors", "-", "-", 2026, "-", "test", {"x": "data"}, {"z": "code"})

    def __init__(self, config: NoConfig) -> None:
        super().__init__(config)
        self.decoder = nn.Linear(L, D)
        self.guide = guides.Factored(z=guides.Normal(L, {"x": D}, net=Encoder()))

    def model(self, batch: Batch) -> None:
        zero = self.like().new_zeros(L)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), NOISE).to_event(1), obs=batch.get("x"))


class ClosedForm(inference.Objective):
    """The bound of Factors, with its expectation taken by hand."""

    @property
    def formula(self) -> str:
        return "the bound"

    def rows(self, run: inference.Evaluation) -> Tensor:
        pair, x = run.model.__self__, run.batch["x"]
        encoder = pair.guide.factors["z"].net
        m, v = encoder.mean(x), (2 * encoder.log_scale).exp()
        error = (x - pair.decoder(m)).square().sum(-1)
        error = error + (pair.decoder.weight.square() * v).sum()
        kl = 0.5 * (m.square() + v - 1 - v.log()).sum(-1)
        return kl + error / (2 * NOISE**2) + D * math.log(NOISE)


def factors(dtype: torch.dtype = torch.float64, seed: int = 0) -> Factors:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Factors(NoConfig()).to(dtype)


def by_hand(pair: Factors, x: Tensor) -> np.ndarray:
    """The gradient of each row's loss by every parameter, from the formulas ``(n, P)``."""
    values = {name: p.detach().double().numpy() for name, p in pair.named_parameters()}
    A, c = values["guide.factors.z.net.mean.weight"], values["guide.factors.z.net.mean.bias"]
    v = np.exp(2 * values["guide.factors.z.net.log_scale"])
    W, b = values["decoder.weight"], values["decoder.bias"]
    found = []
    for row in x.double().numpy():
        m = A @ row + c
        left = (row - W @ m - b) / NOISE**2
        down = m - W.T @ left  # by the mean of the code
        parts = [
            np.outer(down, row), down, (W**2).sum(0) * v / NOISE**2 + v - 1,
            W * v / NOISE**2 - np.outer(left, m), -left,
        ]  # fmt: skip
        found.append(np.concatenate([part.ravel() for part in parts]))
    return np.array(found)


def table(count: int = N, seed: int = 1, dtype: torch.dtype = torch.float64, **more) -> Table:
    """Rows of standard normal numbers, of numbers of their own."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, D, generator=draw, dtype=torch.float64).to(dtype)
    return Table("rows", {"x": x}, numbers=torch.arange(count) + 100 * seed, **more)
