"""S-VAE: codes are directions.

Story   z ~ Uniform(S^(m-1))   x | z ~ Bernoulli(dec(z))
Guide   q(z | x) = vMF(mu(x), kappa(x))
Paper   Davidson et al. Hyperspherical Variational Auto-Encoders. UAI 2018, arXiv 1804.00891
Shapes  E particle dimensions on the left, B rows, D data, M entries of a code
"""

from __future__ import annotations

from dataclasses import dataclass

import pyro

from ppl_models import Batch, Card, Config, Pair, guides, inference, setting
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.networks import Net
from ppl_models.spherical import HypersphericalUniform


@dataclass(frozen=True)
class SVAEConfig(Config):
    """Settings of the paper's MNIST experiment."""

    data_dim: int = setting(784, "D, size of x", from_data="x", minimum=1)
    latent: int = setting(11, "m, entries of z; the paper's d is m - 1", minimum=2)
    hidden: tuple[int, ...] = setting((256, 128), "units of the encoder's layers", minimum=1)


class SVAE(Pair):
    """A VAE with a von Mises-Fisher posterior and the uniform prior on a sphere."""

    Config = SVAEConfig
    config: SVAEConfig
    card = Card(
        name="s-vae",
        title="Hyperspherical Variational Auto-Encoders",
        authors="Tim R. Davidson, Luca Falorsi, Nicola De Cao, Thomas Kipf, Jakub M. Tomczak",
        year=2018,
        arxiv="1804.00891",
        task="directions as codes",
        data={"x": "data vector (D)"},
        latents={"z": "direction (M)"},
        objectives=("enumerated",),
    )

    def __init__(self, config: SVAEConfig) -> None:
        super().__init__(config)
        D, M, H = config.data_dim, config.latent, config.hidden
        self.decoder = Net({"z": M}, H[::-1], D, "relu")
        self.guide = guides.Factored(z=guides.VonMisesFisher(M, {"x": D}, H, "relu"))

    def model(self, batch: Batch) -> None:
        """p(z) p(x | z)."""
        with self.plate(batch):
            prior = HypersphericalUniform(self.config.latent, self.like())
            z = pyro.sample("z", prior, obs=batch.get("z"))  # E x B x M
            x = LIKELIHOODS["soft_bernoulli"](self.decoder(z=z))  # E x B x D
            pyro.sample("x", x, obs=batch.get("x"))

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The bound with KL(q || p) in closed form, which depends on kappa alone."""
        return bound or inference.EnumeratedELBO(kl="analytic")
