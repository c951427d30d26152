"""A mixture of factor analysers: each class has its own mean and its own few directions.

Story   y ~ Cat(1/C)   z ~ N(0, I)   x | y, z ~ N(mean_y + W_y z, s^2 I)
Guide   q(y | x) q(z | x, y)
Paper   McLachlan, Peel, Bean. Modelling high-dimensional data by mixtures of factor analyzers.
        Computational Statistics and Data Analysis 2003
Shapes  E enumeration dimensions on the left, B rows, C classes, D data, L factors
"""

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from ppl_models import Batch, Card, Config, Pair, guides, register, setting
from ppl_models.networks import Label


@dataclass(frozen=True)
class Settings(Config):
    data_dim: int = setting(5, "D", from_data="x", minimum=1)
    classes: int = setting(3, "C", from_data="y", minimum=2)
    factors: int = setting(2, "L", minimum=1)
    hidden: tuple[int, ...] = setting((32,), "units of the guide", minimum=1)


@register("factor-mixture")
class FactorMixture(Pair):
    Config = Settings
    card = Card(
        name="factor-mixture",
        title="Modelling high-dimensional data by mixtures of factor analyzers",
        authors="G. J. McLachlan, D. Peel, R. W. Bean",
        year=2003,
        arxiv="10.1016/S0167-9473(02)00183-4",
        task="clustering",
        data={"x": "measurements (D)"},
        latents={"y": "class (C)", "z": "factors (L)"},
        labels=("y",),
        objectives=("enumerated", "iwelbo"),
    )

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        D, C, L, H = config.data_dim, config.classes, config.factors, config.hidden
        self.means = nn.Parameter(torch.randn(C, D))
        self.directions = nn.Parameter(torch.randn(C, D, L) / L)
        self.log_noise = nn.Parameter(torch.zeros(()))
        self.guide = guides.Factored(
            y=guides.Categorical(C, {"x": D}, H),
            z=guides.Normal(L, {"x": D, "y": Label(C)}, H),
        )

    def model(self, batch: Batch) -> None:
        C, L = self.config.classes, self.config.factors
        with self.plate(batch):
            y = pyro.sample(
                "y", dist.Categorical(logits=self.means.new_zeros(C)), obs=batch.get("y")
            )
            z = pyro.sample("z", dist.Normal(self.means.new_zeros(L), 1.0).to_event(1))
            loc = self.means[y] + (self.directions[y] @ z.unsqueeze(-1)).squeeze(-1)
            noise = self.log_noise.exp()
            pyro.sample("x", dist.Normal(loc, noise).to_event(1), obs=batch.get("x"))
