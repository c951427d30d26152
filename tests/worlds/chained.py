"""Two labels, a chain of two codes and data, linear and Normal; the guide is a chain."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.config import Config
from ppl_models.networks import Label
from ppl_models.pair import Card, Pair

D, L = 3, 2
NOISE_A, NOISE_B, NOISE_X = 0.5, 0.3, 0.2


@dataclass(frozen=True)
class NoConfig(Config):
    """Nothing to set."""


class Chained(Pair):
    """y; t; a | y ~ N(m_y, .5^2); b | a ~ N(W a, .3^2); x | b, t ~ N(V b + d_t, .2^2)."""

    Config = NoConfig
    card = Card(
        "chained", "-", "-", 2026, "-", "test", {"x": "data"},
        {"y": "class", "t": "kind", "a": "upper code", "b": "lower code"}, ("y", "t"),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__(NoConfig())
        self.m, self.d = nn.Parameter(torch.randn(3, L)), nn.Parameter(torch.randn(2, D))
        self.W, self.V = nn.Parameter(torch.randn(L, L)), nn.Parameter(torch.randn(L, D))
        self.guide = guides.Factored(
            y=guides.Categorical(3, {"x": D}),
            t=guides.Categorical(2, {"x": D, "y": Label(3)}),
            a=guides.Normal(L, {"x": D, "y": Label(3)}),
            b=guides.Normal(L, {"x": D, "a": L, "t": Label(2)}),
        )

    def model(self, batch: Batch) -> None:
        zero = self.m.new_zeros
        with self.plate(batch):
            y = pyro.sample("y", dist.Categorical(logits=zero(3)), obs=batch.get("y"))
            t = pyro.sample("t", dist.Categorical(logits=zero(2)), obs=batch.get("t"))
            a = pyro.sample("a", dist.Normal(self.m[y], NOISE_A).to_event(1))
            b = pyro.sample("b", dist.Normal(a @ self.W, NOISE_B).to_event(1))
            x = dist.Normal(b @ self.V + self.d[t], NOISE_X).to_event(1)
            pyro.sample("x", x, obs=batch.get("x"))

    @torch.no_grad()
    def means(self, batch: Batch) -> dict[str, Tensor]:
        """The guide's most probable labels and mean codes, factor by factor."""
        found = dict(batch)
        for name in ("y", "t", "a", "b"):
            if name not in found:
                q = self.guide.factor(name, found)
                found[name] = q.probs.argmax(-1) if name in "yt" else q.mean
        return found


def chained(dtype: torch.dtype) -> Chained:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Chained().to(dtype)


def rows(dtype: torch.dtype, known: tuple[str, ...] = (), count: int = 5, scale: int = 1) -> Batch:
    """Rows of noise with the labels that are known of them, each for ``scale`` of its kind."""
    x = torch.randn(count, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = {"y": torch.arange(count) % 3, "t": torch.arange(count) % 2}
    sites = {"x": x.to(dtype), **{name: labels[name] for name in known}}
    return Batch(sites, 7 + torch.arange(count), size=7 + scale * count)
