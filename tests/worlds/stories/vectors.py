"""A structural causal model of three numbers and a class, which vectors are linear in."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from ppl_models import Batch, Card, Config, Pair, guides, setting
from ppl_models.networks import Label, Net
from ppl_models.parts.scm import SCM, Affine, Classes, Mechanism, Spline


@dataclass(frozen=True)
class VectorsConfig(Config):
    """Settings."""

    data_dim: int = setting(12, "D", from_data="x", minimum=1)
    latent: int = setting(2, "L", minimum=1)


class Vectors(Pair):
    """a -> b, (a, b) -> c, b -> k and x of (b, c, k, z)."""

    Config = VectorsConfig
    config: VectorsConfig
    card = Card(
        "vectors", "Vectors of causes", "-", 2026, "-", "test",
        {"x": "vector (D)", "a": "first cause", "b": "its effect", "c": "of both"},
        {"k": "class by b", "z": "all else in x (L)"},
        labels=("k",), objectives=("elbo",), causes=("a", "b", "c", "k"),
    )  # fmt: skip

    def __init__(self, config: VectorsConfig) -> None:
        super().__init__(config)
        D, L = config.data_dim, config.latent
        self.scm = SCM(
            a=Mechanism({}, Spline, Affine, size=1),
            b=Mechanism({"a": 1}, Affine, size=1),
            c=Mechanism({"a": 1, "b": 1}, Affine, size=1),
            k=Classes(3, {"b": 1}),
        )
        seen = {"b": 1, "c": 1, "k": Label(3)}
        self.decoder = Net({**seen, "z": L}, (), D)
        self.made = False  # whether x is made by the decoder, and not scored
        self.log_scale = nn.Parameter(torch.tensor(-1.0))
        self.guide = guides.Factored(
            k=guides.Categorical(3, {"x": D}, (8,)), z=guides.Normal(L, {"x": D, **seen}, ())
        )

    def model(self, batch: Batch) -> None:
        """The causes, z and x."""
        unit = dist.Normal(self.log_scale.new_zeros(self.config.latent), 1.0).to_event(1)
        with self.plate(batch):
            causes = self.scm.sample(batch)
            z = pyro.sample("z", unit)
            seen = {name: causes[name] for name in ("b", "c", "k")}
            x = dist.Normal(self.decoder(z=z, **seen), self.log_scale.exp()).to_event(1)
            if self.made:
                x = dist.Delta(x.mean, event_dim=1).mask(False)
            pyro.sample("x", x, obs=batch.get("x"))
