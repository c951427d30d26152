"""Small worlds with a known evidence: labels, linear-Gaussian codes, and a guide that is off."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.inference import Evaluation
from ppl_models.networks import Label
from ppl_models.pair import Card, Pair

ROWS = 6  # of the batches


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


# ---- the bounds of the linear world, written out by hand ---------------------------------


def hand_weights(pair: LinearPair, batch: Batch, z: Tensor) -> tuple[Tensor, Tensor]:
    """log w (C, K, B) and log q(y|x) (C, B) by loops over labels and scalars of the formula."""
    x, C, K = batch["x"], pair.config.classes, z.shape[-3]
    log_prior = pair.prior_logits.log_softmax(0)
    widen, shift = pair.guide.factors["z"].net.log_widen, pair.guide.factors["z"].net.shift
    log_w = []
    for y in range(C):
        loc, scale = pair.posterior_z(x, torch.full((len(x),), y))
        for k in range(K):
            draw_z = z[y, k] if z.dim() == 4 else z[k]
            log_p = (
                log_prior[y]
                + Normal(0.0, 1.0).log_prob(draw_z).sum(-1)
                + Normal(draw_z @ pair.A.T + pair.means[y], pair.noise).log_prob(x).sum(-1)
            )
            log_q = Normal(loc + shift * scale, scale * widen.exp()).log_prob(draw_z).sum(-1)
            log_w.append(log_p - log_q)
    log_q_y = pair.guide.factors["y"].net(x=x).log_softmax(-1).T
    return torch.stack(log_w).reshape(C, K, len(x)), log_q_y


def hand_bound(log_w: Tensor, log_q_y: Tensor, lam: float) -> Tensor:
    """L_lambda per row, as a loop over rows, labels and draws."""
    C, K, rows = log_w.shape
    out = []
    for b in range(rows):
        ell = [torch.logsumexp(log_w[y, :, b], 0) - math.log(K) for y in range(C)]
        D = torch.logsumexp(torch.stack(ell), 0)
        kl = sum(log_q_y[y, b].exp() * (log_q_y[y, b] - (ell[y] - D)) for y in range(C))
        out.append(D - lam * kl)
    return torch.stack(out)


def batches(
    pair: LinearPair, scale: int, regime: str, dtype: torch.dtype = torch.float64
) -> list[Batch]:
    """Six rows that stand for ``scale`` times as many: unlabelled, labelled or half of each."""
    x, y = draw(pair, ROWS)
    x = x.to(dtype)
    rows = torch.arange(ROWS)
    N = ROWS * scale
    full = {"size": N, "total": N}
    if regime == "unlabelled":
        return [Batch({"x": x}, rows, **full)]
    if regime == "labelled":
        return [Batch({"x": x, "y": y}, rows, **full)]
    half = ROWS // 2
    part = {"size": N // 2, "total": N, "observed": {"y": N // 2, "x": N}}
    return [
        Batch({"x": x[:half], "y": y[:half]}, rows[:half], **part),
        Batch({"x": x[half:]}, rows[half:], **part),
    ]


def hand_loss(
    pair: LinearPair,
    batch: Batch,
    run: Evaluation,
    lam: float,
    particles: int,
    inside: bool = True,
) -> Tensor:
    """Minus the bound per row; the mean over draws inside the log or outside."""
    w = run.weights(particles)
    z = w.guide.nodes["z"]["value"]
    if "y" in batch:
        z = z.reshape(particles, batch.count, -1)
        log_w, _ = hand_weights(pair, batch, z)
        own = log_w[batch["y"], :, torch.arange(batch.count)]  # (B, K)
        ell = torch.logsumexp(own, 1) - math.log(particles) if inside else own.mean(1)
        return -ell
    log_w, log_q = hand_weights(pair, batch, z)
    if not inside:
        log_w = log_w.mean(1, keepdim=True)
    return -hand_bound(log_w, log_q, lam)
