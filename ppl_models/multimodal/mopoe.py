"""MoPoE: a mixture of the products of experts of all subsets of a row's modalities.

Story   z ~ N(0, I)   x_m | z ~ p(dec_m(z)), m = 1..M, over the modalities that the row has
Guide   q(z | x) = mean over non-empty S of N(z; 0, I) prod_{m in S} N(z; mu_m, sigma_m^2)
Paper   Sutter, Daunhawer, Vogt. Generalized Multimodal ELBO. ICLR 2021, arXiv 2105.02470
Shapes  C = 2^M - 1 components on the left, B rows, M modalities, D_m data, L code
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
class MoPoEConfig(ModalitiesConfig):
    """Settings for the paired digits; other modalities, and how many, are settings too."""

    each: str = setting(
        "components",
        "of the code: one of each component, or one of a random component, for large M",
        choices=("components", "random"),
    )


class MoPoE(Pair):
    """A mixture of products of experts."""

    Config = MoPoEConfig
    config: MoPoEConfig
    card: Card = Card(
        name="mopoe",
        title="Generalized Multimodal ELBO",
        authors="Thomas M. Sutter, Imant Daunhawer, Julia E. Vogt",
        year=2021,
        arxiv="2105.02470",
        task="modalities of which a row has any subset",
        data={"s": "first modality (D_1)", "t": "second modality (D_2)"},
        latents={"z": "code (L)"},
        objectives=("stratified", "elbo", "iwelbo"),
        picture="test digits of either kind, and what the other modality would be",
        departs=(
            "the density of the whole mixture, where the paper bounds its KL by the mean KL of "
            "the components",
            "the empty subset, the prior, is no component",
        ),
    )

    def __init__(self, config: MoPoEConfig) -> None:
        super().__init__(config)
        self.modalities = Modalities(config)
        self.card, self.may_lack = self.modalities.told_by(self.card), config.modalities
        self.guide = guides.Factored(z=guides.Mixture(*self.modalities.experts, products=True))

    def model(self, batch: Batch) -> None:
        """p(z) prod_m p(x_m | z)."""
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))  # C x B x L
            self.modalities.sample(batch, z)  # C x B x D_m

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The bound, with a draw of each product or of a random one (eq. 5)."""
        every = self.config.each == "components"
        return bound or (inference.Stratified() if every else inference.ELBO())
