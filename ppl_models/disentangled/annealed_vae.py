"""AnnealedVAE: the KL of the code to its prior is held at a capacity that grows.

Story   z ~ N(0, I)   x | z ~ p(dec(z))
Guide   q(z | x) = N(mu(x), diag sigma(x)^2), reparameterised
Paper   Burgess, Higgins, Pal, Matthey, Watters, Desjardins, Lerchner. Understanding disentangling
        in beta-VAE. 2018, arXiv 1804.03599
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
class AnnealedVAEConfig(image_code.ImageCodeConfig):
    """The capacity of the paper's dSprites."""

    gamma: float = setting(1000.0, "gamma, weight of |KL - C|", minimum=0)
    capacity: float = setting(25.0, "C at its end, nats; from 0 on", minimum=0)
    capacity_steps: int = setting(100_000, "T, steps over which C grows", minimum=1)


class AnnealedVAE(Pair):
    """A VAE whose code is let in nat by nat: what lowers the reconstruction most comes first."""

    Config = AnnealedVAEConfig
    config: AnnealedVAEConfig
    card = Card(
        name="annealed_vae",
        title="Understanding disentangling in beta-VAE",
        authors="Christopher P. Burgess, Irina Higgins, Arka Pal, Loic Matthey, Nick Watters, "
        "Guillaume Desjardins, Alexander Lerchner",
        year=2018,
        arxiv="1804.03599",
        task="independent codes without supervision, at a rate that is chosen",
        data={"x": "image (H W C, flat)"},
        latents={"z": "code (D)"},
        objectives=("elbo(kl=analytic, beta=0)", "iwelbo"),
        departs=(
            "the steps, batch size and Adam's rate of the study by Locatello et al. 2019; the "
            "paper's rate is `learning_rate=5e-4`",
            "|KL - C| of the mean KL of a batch, as published code has it; of each row it would "
            "also hold all images at one KL",
            "another bound keeps its own KL beside gamma |KL - C|",
        ),
        limits=(
            "C is chosen by hand, and set by steps: a run that ends before T stays below it",
            "a code may be held at more nats than it has use for: |KL - C| pays for noise, too",
        ),
        picture="KL of each coordinate while the capacity grows, reconstruction, and traversals, "
        "on blob",
    )

    def __init__(self, config: AnnealedVAEConfig) -> None:
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
        """Log p(x | z) - gamma |KL - C| (eq. 8)."""
        c = self.config
        capacity = inference.Anneal(0.0, c.capacity, steps=c.capacity_steps)
        return image_code.bound(c, bound, 0.0) + inference.Capacity("z", c.gamma, capacity)

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """The study's 300,000 steps."""
        return (inference.Stage(self.objective(bound), training=image_code.STUDY_TRAINING),)
