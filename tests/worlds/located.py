"""A pair whose posteriors are given by the rows: N(x, noise^2), with a noise per coordinate."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_models import Batch, Card, Config, Pair, guides, setting


@dataclass(frozen=True)
class LocatedConfig(Config):
    """Settings."""

    noise: tuple[float, ...] = setting((0.02, 0.02), "deviations of every posterior")
    chained: bool = setting(False, "a second code hangs on draws of the first")


class At(guides.Conditional):
    """N(given, noise^2)."""

    def __init__(self, noise: Tensor, given: str) -> None:
        super().__init__((given,))
        self.given = given
        self.register_buffer("noise", noise)

    def forward(self, **values: Tensor) -> dist.TorchDistribution:
        """Batch shape ``(B,)``, event shape ``(D,)``."""
        return dist.Normal(values[self.given], self.noise).to_event(1)


class Located(Pair):
    """Separated posteriors make the mixture of all rows a discrete distribution."""

    Config = LocatedConfig
    config: LocatedConfig
    card = Card(
        name="located",
        title="Located codes",
        authors="None",
        year=2026,
        arxiv="none",
        task="codes",
        data={"x": "place (D)"},
        latents={"z": "code (D)", "w": "second code (D)"},
    )

    def __init__(self, config: LocatedConfig) -> None:
        super().__init__(config)
        noise = torch.tensor(config.noise)
        self.zero = torch.nn.Parameter(torch.zeros(len(noise)))
        second = {"w": At(noise, "z")} if config.chained else {}
        self.guide = guides.Factored(z=At(noise, "x"), **second)

    def model(self, batch: Batch) -> None:
        """p(z) p(x | z)."""
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(self.zero, 2.0).to_event(1))
            if self.config.chained:
                pyro.sample("w", dist.Normal(self.zero, 2.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=batch.get("x"))
