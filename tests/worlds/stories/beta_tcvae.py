"""Beta-TCVAE: a code whose coordinates are kept independent over the data.

Story   z ~ N(0, I)   x | z ~ N(dec(z), sigma^2 I)
Guide   q(z | x) = N(mu(x), diag sigma(x)^2), reparameterised
Paper   Chen, Li, Grosse, Duvenaud. Isolating Sources of Disentanglement. arXiv 1802.04942
Shapes  K particles on the left, B rows, D data, L code
"""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.networks import Net
from ppl_models.pair import Card, Pair


@dataclass(frozen=True)
class BetaTCVAEConfig(Config):
    """Settings for images of 16 x 16 pixels."""

    data_dim: int = setting(256, "D, size of x", from_data="x", minimum=1)
    latent: int = setting(4, "L, size of z", minimum=1)
    hidden: tuple[int, ...] = setting((64,), "units of each hidden layer", minimum=1)
    sigma: float = setting(0.3, "sigma of x", minimum=1e-6)
    beta: float = setting(4.0, "beta, weight of the total correlation", minimum=0)


class BetaTCVAE(Pair):
    """Total correlation weighed beta times, the rest of the KL once."""

    Config = BetaTCVAEConfig
    config: BetaTCVAEConfig
    card = Card(
        name="beta_tcvae_story",
        title="Isolating Sources of Disentanglement in VAEs",
        authors="Ricky T. Q. Chen, Xuechen Li, Roger Grosse, David Duvenaud",
        year=2018,
        arxiv="1802.04942",
        task="independent codes without supervision",
        data={"x": "image (D)"},
        latents={"z": "code (L)"},
        objectives=("elbo", "iwelbo"),
    )

    def __init__(self, config: BetaTCVAEConfig) -> None:
        super().__init__(config)
        D, L, H = config.data_dim, config.latent, config.hidden
        self.decoder = Net({"z": L}, H[::-1], D, "relu")
        self.guide = guides.Factored(z=guides.Normal(L, {"x": D}, H, "relu"))

    def model(self, batch: Batch) -> None:
        """p(z) p(x | z)."""
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))  # K x B x L
            x = dist.Normal(self.decoder(z=z), self.config.sigma).to_event(1)
            pyro.sample("x", x, obs=batch.get("x"))  # K x B x D

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The bound, and (beta - 1) times the total correlation."""
        bound = bound or inference.ELBO(kl="analytic")
        return bound + inference.TotalCorrelation("z", self.config.beta - 1)
