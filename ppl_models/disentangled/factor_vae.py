"""FactorVAE: a critic tells how dependent the coordinates of a code are, and the code unlearns it.

Story   z ~ N(0, I)   x | z ~ p(dec(z))
Guide   q(z | x) = N(mu(x), diag sigma(x)^2), reparameterised
Paper   Kim, Mnih. Disentangling by Factorising. ICML 2018, arXiv 1802.05983
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
from ppl_models.networks import Net
from ppl_models.pair import Card, Pair
from ppl_models.parts import image_code


@dataclass(frozen=True)
class FactorVAEConfig(image_code.ImageCodeConfig):
    """Networks, gamma and critic for dSprites."""

    gamma: float = setting(35.0, "gamma, weight of the total correlation", minimum=0)
    critic: tuple[int, ...] = setting((1000,) * 6, "units of the critic D(z)", minimum=1)
    critic_rate: float = setting(1e-4, "learning rate of the critic", minimum=0)
    halves: bool = setting(
        True, "the critic sees codes of one half of a batch, and permuted ones of the other"
    )


class FactorVAE(Pair):
    """A VAE whose code has a small total correlation, by a critic."""

    Config = FactorVAEConfig
    config: FactorVAEConfig
    card = Card(
        name="factor_vae",
        title="Disentangling by Factorising",
        authors="Hyunjik Kim, Andriy Mnih",
        year=2018,
        arxiv="1802.05983",
        task="independent codes without supervision",
        data={"x": "image (H W C, flat)"},
        latents={"z": "code (D)"},
        objectives=("elbo",),
        departs=(
            "convolutional networks of the study by Locatello et al. 2019: a dense layer of 256 "
            "units, where the paper has 128, and kernels of 2 in the encoder's last two layers",
            "one batch of 64 rows per step, in place of two: the pair learns from all of it, and "
            "the critic tells codes of its first half from permuted ones of its second",
            "the critic gives one logit, the difference of the paper's two",
        ),
        limits=(
            "the critic's estimate lags below the total correlation, the more the larger it is; "
            "`metrics.kl_decomposition` tells the exact one",
        ),
        picture="total correlation against information, by weight, and codes of all cells",
    )

    def __init__(self, config: FactorVAEConfig) -> None:
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
        """The VAE's bound; the critic's term joins it in the stage."""
        return image_code.bound(self.config, bound)

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """The bound and gamma times the critic's total correlation (eq. 2, algorithm 2)."""
        c = self.config
        critic = Net({"z": c.latent}, c.critic, 1, "leaky_relu").to(self.like())
        term, player = inference.permuted_codes(
            critic, "z", c.gamma, c.halves, learning_rate=c.critic_rate, betas=(0.5, 0.9)
        )
        objective, training = self.objective(bound) + term, image_code.STUDY_TRAINING
        return (inference.Stage(objective, players=(player,), training=training),)
