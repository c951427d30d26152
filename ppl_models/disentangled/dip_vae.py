"""DIP-VAE: the covariance of the code over the data is held at the identity.

Story   z ~ N(0, I)   x | z ~ p(dec(z))
Guide   q(z | x) = N(mu(x), diag sigma(x)^2), reparameterised
Paper   Kumar, Sattigeri, Balakrishnan. Variational Inference of Disentangled Latent Concepts from
        Unlabeled Observations. ICLR 2018, arXiv 1711.00848
Shapes  E particle dimensions on the left, B rows, D code, H W C pixels
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyro
import pyro.distributions as dist

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import setting
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.pair import Card, Pair
from ppl_models.parts import image_code

COVARIANCES: dict[str, Literal["means", "aggregate"]] = {"I": "means", "II": "aggregate"}


@dataclass(frozen=True)
class DIPVAEConfig(image_code.ImageCodeConfig):
    """Kind and weights, of which the study has lambda_od at 1 to 50."""

    kind: str = setting(
        "I", "of the covariance: of mu(x) (I) or of z (II)", choices=tuple(COVARIANCES)
    )
    lambda_od: float = setting(10.0, "lambda_od, weight of squared covariances", minimum=0)
    lambda_d: float = setting(
        100.0, "lambda_d, of (variance - 1)^2; give lambda_od's value with kind II", minimum=0
    )


class DIPVAE(Pair):
    """A VAE whose codes are uncorrelated at no price in its KL."""

    Config = DIPVAEConfig
    config: DIPVAEConfig
    card = Card(
        name="dip_vae",
        title="Variational Inference of Disentangled Latent Concepts from Unlabeled Observations",
        authors="Abhishek Kumar, Prasanna Sattigeri, Avinash Balakrishnan",
        year=2018,
        arxiv="1711.00848",
        task="uncorrelated codes without supervision",
        data={"x": "image (H W C, flat)"},
        latents={"z": "code (D)"},
        objectives=("elbo", "iwelbo"),
        departs=(
            "networks, steps and batches of 64 of the study by Locatello et al. 2019; the paper's "
            "batches are `batch_size=400`",
        ),
        limits=(
            "kind I asks every coordinate for a mean of variance 1: none can be left out",
            "second moments alone: the VAE's own codes are nearly uncorrelated, also of factors "
            "that are correlated, so that a rotation of the factors is not undone",
            "the covariance is a batch's, with noise of about D^2 / B in the penalty",
        ),
        picture="variances of four coordinates and the covariance of their means, on blob at "
        "correlated places: the VAE and both kinds",
    )

    def __init__(self, config: DIPVAEConfig) -> None:
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
        """The bound, and minus the squared distance of the covariance from the identity."""
        c = self.config
        of = COVARIANCES[c.kind]
        term = inference.CodeCovariance("z", c.lambda_od, c.lambda_d, of)
        return image_code.bound(c, bound) + term

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """The study's 300,000 steps."""
        return (inference.Stage(self.objective(bound), training=image_code.STUDY_TRAINING),)
