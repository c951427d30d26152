"""VAE: a continuous code explains each row.

Story   z ~ N(0, I)   x | z ~ p(dec(z))
Guide   q(z | x) = N(mu(x), diag sigma(x)^2), reparameterised
Paper   Kingma, Welling. Auto-Encoding Variational Bayes. ICLR 2014, arXiv 1312.6114
Shapes  E enumeration and particle dimensions on the left, B rows, D data, L code
"""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.networks import Net
from ppl_models.pair import Card, Pair


@dataclass(frozen=True)
class VAEConfig(Config):
    """Settings of the paper's MNIST experiment (Section 5)."""

    data_dim: int = setting(784, "D, size of x", from_data="x", minimum=1)
    latent: int = setting(20, "J, size of z", minimum=1)
    hidden: tuple[int, ...] = setting((500,), "units of each hidden layer", minimum=1)
    likelihood: str = setting("soft_bernoulli", "p(x | z)", choices=LIKELIHOODS)


class VAE(Pair):
    """The variational autoencoder."""

    Config = VAEConfig
    config: VAEConfig
    card = Card(
        name="vae",
        title="Auto-Encoding Variational Bayes",
        authors="Diederik P. Kingma, Max Welling",
        year=2014,
        arxiv="1312.6114",
        task="latent codes without supervision",
        data={"x": "data vector (D)"},
        latents={"z": "code (L)"},
        objectives=("elbo", "iwelbo"),
        departs=(
            "Adam in place of Adagrad",
            "softplus in place of tanh units",
            "no prior on the weights; the paper's is `weight_prior=1` in training",
        ),
        picture="MNIST digits over the plane of a code of two, decoded at quantiles of its prior",
    )

    def __init__(self, config: VAEConfig) -> None:
        super().__init__(config)
        D, L, H = config.data_dim, config.latent, config.hidden
        self.likelihood = LIKELIHOODS[config.likelihood]
        self.decoder = Net({"z": L}, H, D * self.likelihood.outputs)
        self.guide = guides.Factored(z=guides.Normal(L, {"x": D}, H))

    def model(self, batch: Batch) -> None:
        """p(z) p(x | z)."""
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))  # E x B x L
            x = self.likelihood(self.decoder(z=z))  # E x B x D
            pyro.sample("x", x, obs=batch.get("x"))

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The bound with KL(q || p) in closed form (eq. 10)."""
        return bound or inference.ELBO(kl="analytic")
