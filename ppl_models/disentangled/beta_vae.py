"""beta-VAE: the KL of the code to its prior counts beta times.

Story   z ~ N(0, I)   x | z ~ p(dec(z))
Guide   q(z | x) = N(mu(x), diag sigma(x)^2), reparameterised
Paper   Higgins, Matthey, Pal, Burgess, Glorot, Botvinick, Mohamed, Lerchner. beta-VAE: Learning
        Basic Visual Concepts with a Constrained Variational Framework. ICLR 2017
Shapes  E particle dimensions on the left, B rows, D code, H W C pixels
"""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import setting
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.pair import Card, Pair
from ppl_models.parts import image_code


@dataclass(frozen=True)
class BetaVAEConfig(image_code.ImageCodeConfig):
    """Networks and beta for dSprites."""

    beta: float = setting(4.0, "beta, weight of KL(q(z|x) || p(z))", minimum=0)


class BetaVAE(Pair):
    """A VAE whose code is kept close to its prior.

    Weights of images and codes of other sizes are compared by the paper's normalised one,
    beta D / (H W C): it is 0.01 of 4 at ten codes and 64 x 64 pixels, and of 0.25 at 16 x 16.
    """

    Config = BetaVAEConfig
    config: BetaVAEConfig
    card = Card(
        name="beta_vae",
        title="beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework",
        authors="Irina Higgins, Loic Matthey, Arka Pal, Christopher Burgess, Xavier Glorot, "
        "Matthew Botvinick, Shakir Mohamed, Alexander Lerchner",
        year=2017,
        arxiv="openreview:Sy2fzU9gl",
        task="independent codes without supervision",
        data={"x": "image (H W C, flat)"},
        latents={"z": "code (D)"},
        objectives=("elbo", "iwelbo"),
        departs=(
            "convolutional networks and Adam of the study by Locatello et al. 2019; the paper's "
            "dense encoder is `networks=dense`, `hidden=1200 1200`, its decoder has three layers "
            "of tanh, and it learns by Adagrad",
            "a bound that is asked for by name has the weight that it says: `elbo` has beta 1",
        ),
        limits=(
            "reconstructions pay for a large beta: the code tells fewer nats of the image",
            "at a beta above what a coordinate's nats are worth, the code falls silent",
            "which axes the codes lie along is not settled by the objective: seeds differ, and "
            "scores of published runs were not met again (Fil et al. 2021, arXiv 2112.14278)",
        ),
        picture="mini dSprites by beta: KL and reconstruction, Frechet distance and BetaVAE "
        "score, reconstructions, and traversals of the codes with most KL",
    )

    def __init__(self, config: BetaVAEConfig) -> None:
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
        """Log p(x | z) - beta KL (eq. 4)."""
        return image_code.bound(self.config, bound, self.config.beta)

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """The study's 300,000 steps."""
        return (inference.Stage(self.objective(bound), training=image_code.STUDY_TRAINING),)
