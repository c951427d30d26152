"""Small worlds with a known evidence: labels, linear-Gaussian codes, and a guide that is off."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.networks import Label
from ppl_models.pair import Card, Pair


@dataclass(frozen=True)
class LinearConfig(Config):
    classes: int = setting(4, "C")
    latent: int = setting(2, "L")
    data_dim: int = setting(3, "D")
    label_prior: bool = setting(True, "uneven p(y)")
    quality: float = setting(0.0, "0: q(y|x) a free logit table; else a mix with p(y|x)")


class _Shifted(nn.Module):
    """The exact posterior of z given x and y, shifted and widened by parameters."""

    def __init__(self, pair: LinearPair) -> None:
        super().__init__()
        self.world = [pair]  # in a list: the guide must not register the pair as its child
        self.shift = nn.Parameter(torch.full((pair.config.latent,), 0.5))
        self.log_widen = nn.Parameter(torch.tensor(math.log(1.6)))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        loc, scale = self.world[0].posterior_z(x, y)
        log_var = 2 * (scale.log() + self.log_widen)
        loc = loc + self.shift * scale
        return torch.cat(torch.broadcast_tensors(loc, log_var), -1)


class LinearPair(Pair):
    """p(y) = given; z ~ N(0, I); x | y, z ~ N(A z + m_y, s^2 I), with A's columns orthogonal.

    The posterior of z given x, y is then a diagonal Normal, so that a diagonal guide can be
    exact, and log p(x) is a finite sum of Gaussian densities.
    """

    Config = LinearConfig
    config: LinearConfig
    card = Card(
        "linear", "A linear-Gaussian world", "-", 2026, "-", "test", {"x": "data"},
        {"y": "class", "z": "code"}, ("y",),
    )  # fmt: skip
    noise = 0.7

    def __init__(self, config: LinearConfig) -> None:
        super().__init__(config)
        C, L, D = config.classes, config.latent, config.data_dim
        columns = torch.linalg.qr(torch.randn(D, L))[0]
        self.A = nn.Parameter((columns * (torch.rand(L) + 0.5)).contiguous())
        self.means = nn.Parameter(torch.randn(C, D))
        prior = torch.randn(C) if config.label_prior else torch.zeros(C)
        self.prior_logits = nn.Parameter(prior)
        self.guide = guides.Factored(
            y=guides.Categorical(C, {"x": D}, (5,)),
            z=guides.Normal(L, {"x": D, "y": Label(C)}, net=_Shifted(self)),
        )

    def posterior_z(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of p(z | x, y)."""
        A, s2 = self.A.detach(), self.noise**2
        variance = 1 / (1 + A.square().sum(0) / s2)
        return variance / s2 * ((x - self.means.detach()[y]) @ A), variance.sqrt()

    def model(self, batch: Batch) -> None:
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            y = pyro.sample("y", dist.Categorical(logits=self.prior_logits), obs=batch.get("y"))
            z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))
            loc = z @ self.A.T + self.means[y]
            pyro.sample("x", dist.Normal(loc, self.noise).to_event(1), obs=batch.get("x"))

    def log_evidence(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Exact log p(x, y) for every label ``(B, C)`` and log p(x) ``(B,)``."""
        cov = self.A @ self.A.T + self.noise**2 * torch.eye(len(self.A), dtype=x.dtype)
        density = torch.distributions.MultivariateNormal(self.means[None], cov)
        joint = density.log_prob(x[:, None]) + self.prior_logits.log_softmax(0)
        return joint, joint.logsumexp(-1)


def draw(pair: LinearPair, rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """x and y from the pair's own story."""
    g = torch.Generator().manual_seed(seed)
    p = pair.prior_logits.detach().softmax(0)
    y = torch.multinomial(p, rows, replacement=True, generator=g)
    z = torch.randn(rows, pair.config.latent, generator=g, dtype=p.dtype)
    noise = torch.randn(rows, pair.config.data_dim, generator=g, dtype=p.dtype)
    return (z @ pair.A.T + pair.means[y] + pair.noise * noise).detach(), y


def linear(seed: int = 0, dtype: torch.dtype = torch.float64, **settings: object) -> LinearPair:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LinearPair(LinearConfig(**settings)).to(dtype)  # type: ignore[arg-type]
