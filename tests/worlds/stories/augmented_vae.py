"""A VAE that is trained on a fresh view of each image.

Story   z ~ N(0, I)   x | z ~ Bernoulli(dec(z))
Guide   q(z | x)
Paper   Sinha, Dieng. Consistency Regularization for Variational Auto-Encoders. 2021,
        arXiv 2105.14859; its baseline, which trains on views alone
Shapes  E particle dimensions on the left, B rows, D data, L code
"""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist

from ppl_models import Batch, Card, Config, Pair, data, guides, inference, setting
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.networks import Net


@dataclass(frozen=True)
class AugmentedVAEConfig(Config):
    """Settings."""

    data_dim: int = setting(64, "D, size of x, a square", from_data="x", minimum=1)
    latent: int = setting(4, "size of z", minimum=1)
    hidden: tuple[int, ...] = setting((32,), "units of each hidden layer", minimum=1)


class AugmentedVAE(Pair):
    """A VAE of views."""

    Config = AugmentedVAEConfig
    config: AugmentedVAEConfig
    card = Card(
        name="augmented-vae",
        title="Consistency Regularization for Variational Auto-Encoders",
        authors="Samarth Sinha, Adji B. Dieng",
        year=2021,
        arxiv="2105.14859",
        task="codes that small moves of an image leave alone",
        data={"x": "image (D)"},
        latents={"z": "code (L)"},
        objectives=("elbo",),
    )

    def __init__(self, config: AugmentedVAEConfig) -> None:
        super().__init__(config)
        D, L, H = config.data_dim, config.latent, config.hidden
        self.decoder = Net({"z": L}, H, D)
        self.guide = guides.Factored(z=guides.Normal(L, {"x": D}, H))

    def model(self, batch: Batch) -> None:
        """p(z) p(x | z)."""
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))  # E x B x L
            x = LIKELIHOODS["soft_bernoulli"](self.decoder(z=z))  # E x B x D
            pyro.sample("x", x, obs=batch.get("x"))

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """One stage, whose rows are the paper's simple views."""
        side = round(self.config.data_dim**0.5)
        prepare = data.views("x", ("x",), [data.Affine(), data.Flip(0.1)], (side, side, 1))
        return (inference.Stage(self.objective(bound), prepare=prepare),)
