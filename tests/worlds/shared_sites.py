"""Worlds with a site outside the data plate, and their exact posteriors by brute force."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.data import Table
from ppl_models.networks import Label
from ppl_models.pair import Card, Pair


@dataclass(frozen=True)
class SharedConfig(Config):
    codes: bool = setting(True, "z, a number per row")
    classes: int = setting(2, "C; 1 for no label")
    data_dim: int = setting(2, "D")


class SharedPair(Pair):
    """w ~ N(0, 2^2 I) for all rows; y ~ Cat, z ~ N(0, 1) per row; x ~ N(w + a z + m_y, 0.8^2)."""

    Config = SharedConfig
    config: SharedConfig
    card = Card(
        "shared", "A world with a shared mean", "-", 2026, "-", "test", {"x": "data"},
        {"w": "mean", "y": "class", "z": "code"}, ("y",),
    )  # fmt: skip
    noise, spread = 0.8, 2.0

    def __init__(self, config: SharedConfig) -> None:
        super().__init__(config)
        C, D = config.classes, config.data_dim
        self.a = nn.Parameter(torch.linspace(0.5, 1.0, D))
        self.means = nn.Parameter(1.2 * torch.arange(C)[:, None] * torch.linspace(1.0, -0.5, D))
        self.prior_logits = nn.Parameter(torch.linspace(0.0, 0.6, C))
        batch = Batch({"x": torch.zeros(2, D)})
        factors = {}
        if C > 1:
            factors["y"] = guides.Categorical(C, {"x": D})
        if config.codes:
            factors["z"] = guides.Normal(1, {"x": D, **({"y": Label(C)} if C > 1 else {})})
        self.guide = guides.Mixed(guides.Globals(self.model, batch), guides.Factored(**factors))

    def model(self, batch: Batch) -> None:
        zero = self.a.new_zeros(self.config.data_dim)
        loc = pyro.sample("w", dist.Normal(zero, self.spread).to_event(1))
        with self.plate(batch):
            if self.config.classes > 1:
                y = dist.Categorical(logits=self.prior_logits)
                loc = loc + self.means[pyro.sample("y", y, obs=batch.get("y"))]
            if self.config.codes:
                z = pyro.sample("z", dist.Normal(zero[:1], 1.0).to_event(1))
                loc = loc + z * self.a
            pyro.sample("x", dist.Normal(loc, self.noise).to_event(1), obs=batch.get("x"))

    def exact(self, x: Tensor) -> dict[str, Tensor]:
        """Posterior means of w ``(D,)``, z ``(B,)``, their squares, and p(y | x) ``(B, C)``.

        Every assignment of labels to rows is a linear-Gaussian model of (w, z_1, ..., z_B).
        """
        with torch.no_grad():
            return self._exact(x)

    def _exact(self, x: Tensor) -> dict[str, Tensor]:
        rows, D = x.shape
        codes = rows if self.config.codes else 0
        H = torch.zeros(rows * D, D + codes, dtype=x.dtype)
        H[:, :D] = torch.eye(D, dtype=x.dtype).repeat(rows, 1)
        for row in range(codes):
            H[row * D : (row + 1) * D, D + row] = self.a
        prior = torch.cat([torch.full((D,), self.spread**2), torch.ones(codes)]).to(x.dtype)
        precision = torch.diag(1 / prior) + H.T @ H / self.noise**2
        cov = torch.linalg.inv(precision)
        marginal = H @ torch.diag(prior) @ H.T + self.noise**2 * torch.eye(len(H), dtype=x.dtype)
        log_prior = self.prior_logits.log_softmax(0)
        logs, locs, labels = [], [], []
        for y in itertools.product(range(self.config.classes), repeat=rows):
            index = torch.tensor(y)
            rest = (x - self.means[index]).reshape(-1)
            density = MultivariateNormal(torch.zeros_like(rest), marginal).log_prob(rest)
            logs.append(density + log_prior[index].sum())
            locs.append(cov @ H.T @ rest / self.noise**2)
            labels.append(nn.functional.one_hot(index, self.config.classes).to(x.dtype))
        p = torch.stack(logs).softmax(0)
        loc = torch.stack(locs)
        first, second = p @ loc, p @ (loc**2 + cov.diagonal())
        return {
            "w": first[:D], "w_squared": second[:D], "z": first[D:], "z_squared": second[D:],
            "y": torch.einsum("k,kbc->bc", p, torch.stack(labels)),
        }  # fmt: skip


def shared(rows: int, **settings: object) -> tuple[SharedPair, Table]:
    """A pair in float64 and rows from around its story."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pair = SharedPair(SharedConfig(**settings)).double()  # type: ignore[arg-type]
    x = np.random.default_rng(2).normal(0.8, 1.1, (rows, pair.config.data_dim))
    return pair, Table("s/test", {"x": torch.from_numpy(x)}, numbers=torch.arange(rows) + 50)
