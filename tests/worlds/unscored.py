"""Pairs whose rows have no evidence: a contrastive story, and an implicit generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models import Batch, Card, Config, Pair, data, guides, register, setting
from ppl_models.networks import Net


class Fixed(nn.Module):
    """A random network that nothing trains, with a narrow Normal around it."""

    def __init__(self, size: int, latent: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.randn(size, latent) / size**0.5)
        self.given = ("other",)

    def forward(self, other: Tensor) -> Tensor:
        """Mean and log-variance ``(..., 2 L)``."""
        loc = (other @ self.weights).tanh()
        return torch.cat((loc, loc.new_full(loc.shape, -4.0)), -1)


@dataclass(frozen=True)
class ViewsConfig(Config):
    """Settings."""

    data_dim: int = setting(6, "D", from_data="x", minimum=1)
    latent: int = setting(3, "L", minimum=1)
    hidden: tuple[int, ...] = setting((16,), "units", minimum=1)
    trained: bool = setting(False, "train the other view's network, too, which collapses")


@register("views")
class Views(Pair):
    """The code of one view is distributed about what the other view predicts."""

    Config = ViewsConfig
    card = Card(
        name="views",
        title="Bootstrap your own latent, with a target that stands still",
        authors="-",
        year=2020,
        arxiv="2006.07733",
        task="codes that two views share",
        data={},
        latents={"z": "code (L)"},
        covariates={"x": "a view (D)", "other": "another view of the same thing (D)"},
        density="codes",
        objectives=("elbo",),
    )

    def __init__(self, config: ViewsConfig) -> None:
        super().__init__(config)
        D, L = config.data_dim, config.latent
        self.online = Net({"x": D}, config.hidden, L)
        net = None if config.trained else Fixed(D, L)
        self.guide = guides.Factored(z=guides.Normal(L, {"other": D}, config.hidden, net=net))

    def model(self, batch: Batch) -> None:
        """p(z | x)."""
        with self.plate(batch):
            loc = self.online(x=batch["x"])  # B x L
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    def some_covariates(self, rows: int) -> dict[str, Tensor]:
        """Two noisy copies of a ramp."""
        size = rows, self.config.data_dim
        ramp = torch.linspace(-1, 1, rows * self.config.data_dim).reshape(size)
        like = self.like()
        return {"x": ramp.to(like.dtype), "other": (ramp**3).to(like.dtype)}


@dataclass(frozen=True)
class GeneratorConfig(Config):
    """Settings."""

    data_dim: int = setting(4, "D", from_data="x", minimum=1)
    latent: int = setting(4, "L", minimum=1)
    masked: bool = setting(True, "x masked; else a bare Delta")


class Generator(Pair):
    """x = A z + b, which nothing scores."""

    Config = GeneratorConfig
    card = Card(
        name="generator",
        title="Generative adversarial networks",
        authors="-",
        year=2014,
        arxiv="1406.2661",
        task="data that are made",
        data={"x": "made (D)"},
        latents={"z": "noise (L)"},
        density="none",
    )

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(config)
        D, L = config.data_dim, config.latent
        self.made = nn.Linear(L, D)
        self.guide = guides.Factored(z=guides.Normal(L, {"x": D}, (8,)))

    def model(self, batch: Batch) -> None:
        """p(z), and x."""
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            x = batch.get("x")
            made = dist.Delta(self.made(z) if x is None else x, event_dim=1)
            if self.config.masked:
                made = made.mask(False)
            pyro.sample("x", made, obs=x)


class Undeclared(Generator):
    """The same, whose card says nothing."""

    card = Card(
        name="undeclared", title="-", authors="-", year=2014, arxiv="1406.2661", task="test",
        data={"x": "made (D)"}, latents={"z": "noise (L)"},
    )  # fmt: skip


def two_views(seed: int = 0, rows: int = 400) -> data.Dataset:
    """Three kinds of things, each seen twice."""
    draw = np.random.default_rng(seed)
    y = draw.integers(0, 3, rows)
    centres = 2 * draw.normal(size=(3, 6))
    seen = [centres[y] + 0.4 * draw.normal(size=(rows, 6)) for _ in range(2)]
    x, other = (view.astype("float32") for view in seen)
    return data.from_arrays(x=x, y=y, other=other, roles={"x": "covariate", "other": "covariate"})


def normal_rows(seed: int = 0, rows: int = 600, size: int = 4) -> data.Dataset:
    """Standard normal data."""
    draw = np.random.default_rng(seed)
    return data.from_arrays(x=draw.normal(size=(rows, size)).astype("float32"))
