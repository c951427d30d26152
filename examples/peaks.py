"""Spectra with one peak: its kind and its place are known of a few rows, its height of none.

Story   kind ~ Cat(1/C)   place, height ~ N(0, 1)   x ~ N((2 + height) e^-((t - place) / w)^2, s^2)
Guide   q(place | x) q(kind | x, place) q(height | x, place)
Paper   Siddharth et al. NIPS 2017, arXiv 1706.00400, Section 3
Shapes  E enumeration and particles on the left, B rows, C kinds, D places of the axis
"""

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from ppl_models import Batch, Card, Config, Pair, guides, inference, setting


@dataclass(frozen=True)
class Settings(Config):
    data_dim: int = setting(40, "D", from_data="x", minimum=1)
    kinds: int = setting(2, "C", from_data="kind", minimum=2)
    hidden: tuple[int, ...] = setting((64,), "units of the guide", minimum=1)


class Peaks(Pair):
    Config = Settings
    card = Card(
        name="peaks", title="Spectra with one peak", authors="you", year=2024, arxiv="1706.00400",
        task="semi-supervised measurement", data={"x": "spectrum (D)"}, labels=("kind", "place"),
        latents={"kind": "kind (C)", "place": "middle of the peak", "height": "height above 2"},
        objectives=("self_normalised",),
    )  # fmt: skip

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        D, C, H = config.data_dim, config.kinds, config.hidden
        self.width = nn.Parameter(torch.linspace(-1, 0, C))  # logarithms
        self.noise = nn.Parameter(torch.tensor(-1.0))
        self.guide = guides.Factored(
            place=guides.Normal(1, {"x": D}, H),
            kind=guides.Categorical(C, {"x": D, "place": 1}, H),
            height=guides.Normal(1, {"x": D, "place": 1}, H),
        )

    def model(self, batch: Batch) -> None:
        axis, zero = torch.linspace(-3, 3, self.config.data_dim).to(self.width), self.width * 0
        kinds, unit = dist.Categorical(logits=zero), dist.Normal(zero[:1], 1).to_event(1)
        with self.plate(batch):
            kind = pyro.sample("kind", kinds, obs=batch.get("kind"))
            place = pyro.sample("place", unit, obs=batch.get("place"))
            height = pyro.sample("height", unit)
            off = (axis - place) / self.width.exp()[kind].unsqueeze(-1)
            mean = (2 + height) * (-off.square()).exp()
            pyro.sample("x", dist.Normal(mean, self.noise.exp()).to_event(1), obs=batch.get("x"))

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        return bound or inference.SelfNormalisedELBO(particles=4, alpha=10)
