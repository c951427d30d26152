"""MMVAE: each of a row's modalities has a say of its own in the code.

Story   z ~ N(0, I)   x_m | z ~ p(dec_m(z)), m = 1..M, over the modalities that the row has
Guide   q(z | x) = mean_m N(z; mu_m(x_m), sigma_m(x_m)^2)
Paper   Shi, Siddharth, Paige, Torr. Variational Mixture-of-Experts Autoencoders. NeurIPS 2019
Shapes  C components times K draws on the left, B rows, M modalities, D_m data, L code
"""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import setting
from ppl_models.pair import Card, Pair
from ppl_models.parts.modalities import Modalities, ModalitiesConfig


@dataclass(frozen=True)
class MMVAEConfig(ModalitiesConfig):
    """Settings for the paired digits; other modalities, and how many, are settings too."""

    particles: int = setting(
        1, "K, draws of each expert inside the log; the paper's 30", minimum=1
    )


class MMVAE(Pair):
    """A mixture of experts."""

    Config = MMVAEConfig
    config: MMVAEConfig
    card: Card = Card(
        name="mmvae",
        title="Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models",
        authors="Yuge Shi, N. Siddharth, Brooks Paige, Philip H. S. Torr",
        year=2019,
        arxiv="1911.03393",
        task="modalities of which each tells of the others",
        data={"s": "first modality (D_1)", "t": "second modality (D_2)"},
        latents={"z": "code (L)"},
        objectives=("stratified", "elbo", "iwelbo"),
        departs=(
            "Normal experts and prior, where the paper has Laplace ones, as a fair row beside "
            "the other papers on modalities",
            "rows that lack modalities are taken, as a mixture over what they have",
        ),
        picture="test digits of either kind, and what the other modality would be",
        limits=("a row of one modality teaches nothing of the others",),
    )

    def __init__(self, config: MMVAEConfig) -> None:
        super().__init__(config)
        self.modalities = Modalities(config)
        self.card, self.may_lack = self.modalities.told_by(self.card), config.modalities
        self.guide = guides.Factored(z=guides.Mixture(*self.modalities.experts))

    def model(self, batch: Batch) -> None:
        """p(z) prod_m p(x_m | z)."""
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))  # C K x B x L
            self.modalities.sample(batch, z)  # C K x B x D_m

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """K draws of each expert, all modalities decoded from each (eqs. 3 and 4)."""
        K = self.config.particles
        return bound or inference.Stratified(K, grad="dreg" if K > 1 else "plain")
