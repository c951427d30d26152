"""beta-TCVAE: of the three parts of the KL, the total correlation alone counts beta times.

Story   z ~ N(0, I)   x | z ~ p(dec(z))
Guide   q(z | x) = N(mu(x), diag sigma(x)^2), reparameterised
Paper   Chen, Li, Grosse, Duvenaud. Isolating Sources of Disentanglement in VAEs. NeurIPS 2018,
        arXiv 1802.04942
Shapes  E particle dimensions on the left, B rows, D code, H W C pixels
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pyro
import pyro.distributions as dist

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import setting
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.pair import Card, Pair
from ppl_models.parts import image_code

ESTIMATORS = ("batch", "mws", "mss")


@dataclass(frozen=True)
class BetaTCVAEConfig(image_code.ImageCodeConfig):
    """Networks, beta and estimator for dSprites."""

    networks: str = setting(
        "dense", "dense, or convolutional, as the study's", choices=image_code.NETWORKS
    )
    hidden: tuple[int, ...] = setting((1200, 1200), "units of each dense layer", minimum=1)
    beta: float = setting(6.0, "beta, weight of the total correlation of q(z)", minimum=0)
    estimator: str = setting(
        "batch", "of log q(z): in-batch, minibatch-weighted or stratified", choices=ESTIMATORS
    )


class BetaTCVAE(Pair):
    """A VAE whose code has a small total correlation, by the mixture of a batch's posteriors."""

    Config = BetaTCVAEConfig
    config: BetaTCVAEConfig
    card = Card(
        name="beta_tcvae",
        title="Isolating Sources of Disentanglement in Variational Autoencoders",
        authors="Ricky T. Q. Chen, Xuechen Li, Roger Grosse, David Duvenaud",
        year=2018,
        arxiv="1802.04942",
        task="independent codes without supervision",
        data={"x": "image (H W C, flat)"},
        latents={"z": "code (D)"},
        objectives=("elbo", "iwelbo"),
        departs=(
            "the KL in closed form and beta - 1 times the total correlation, as the study by "
            "Locatello et al. 2019: the paper's sum of three sampled parts in expectation",
            "`estimator=batch` in place of `mws`, whose gradient is the same and whose value is "
            "shifted by (D - 1) log N",
            "a decoder of two layers of ReLU, the encoder's mirror image; the paper's has three "
            "of tanh",
        ),
        limits=(
            "the total correlation of a batch is above that of the data, as each draw meets its "
            "own posterior too often; `metrics.kl_decomposition` tells the exact one",
        ),
        picture="parts of the KL by weight against beta-VAE, and codes of all cells",
    )

    def __init__(self, config: BetaTCVAEConfig) -> None:
        super().__init__(config)
        self.likelihood = LIKELIHOODS[config.likelihood]
        self.decoder = image_code.decoder(config)
        self.guide = guides.Factored(z=image_code.posterior(config))

    def model(self, batch: Batch) -> None:
        """p(z) p(x | z)."""
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))  # E x B x D
            x = self.likelihood(self.decoder(z=z))  # E x B x H W C
            pyro.sample("x", x, obs=batch.get("x"))

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """Log p(x | z) - I(z; n) - beta TC - dimension-wise KL (eq. 4)."""
        c = self.config
        extra = inference.TotalCorrelation("z", c.beta - 1, cast(Any, c.estimator))
        return image_code.bound(c, bound) + extra

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """The paper's 50 passes."""
        training = inference.Training(epochs=50, batch_size=2048, learning_rate=1e-3)
        return (inference.Stage(self.objective(bound), training=training),)
