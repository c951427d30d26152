"""MVAE: what any of a row's modalities say of the code is multiplied.

Story   z ~ N(0, I)   x_m | z ~ p(dec_m(z)), m = 1..M, over the modalities that the row has
Guide   q(z | x) = N(z; 0, I) prod_m N(z; mu_m(x_m), sigma_m(x_m)^2), normalised
Paper   Wu, Goodman. Multimodal Generative Models for Scalable Weakly-Supervised Learning. 2018
Shapes  K draws on the left, B rows, M modalities, D_m data, L code
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
class MVAEConfig(ModalitiesConfig):
    """Settings for the paired digits; other modalities, and how many, are settings too."""

    subsets: int = setting(1, "k, random subsets of a row in each step, where M > 2", minimum=0)
    ramp: float = setting(0.2, "share of training in which KL terms grow to 1", minimum=0)


class MVAE(Pair):
    """A product of experts."""

    Config = MVAEConfig
    config: MVAEConfig
    card: Card = Card(
        name="mvae",
        title="Multimodal Generative Models for Scalable Weakly-Supervised Learning",
        authors="Mike Wu, Noah Goodman",
        year=2018,
        arxiv="1802.05335",
        task="modalities of which a row has any subset",
        data={"s": "first modality (D_1)", "t": "second modality (D_2)"},
        latents={"z": "code (L)"},
        objectives=("elbo", "iwelbo"),
        departs=("random subsets are drawn row by row, and not one for the batch",),
        picture="test digits of either kind, and what the other modality would be",
        limits=(
            "an expert that is surer than the others silences them: of images that differ in "
            "difficulty one modality hardly tells of the other",
        ),
    )

    def __init__(self, config: MVAEConfig) -> None:
        super().__init__(config)
        self.modalities = Modalities(config)
        self.card, self.may_lack = self.modalities.told_by(self.card), config.modalities
        self.guide = guides.Factored(z=guides.Product(*self.modalities.experts))

    def model(self, batch: Batch) -> None:
        """p(z) prod_m p(x_m | z)."""
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))  # K x B x L
            self.modalities.sample(batch, z)  # B x D_m

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The bound of what a row has, of each modality alone and of random subsets (eq. 5)."""
        c = self.config
        bound = bound or inference.ELBO(kl="analytic", beta=inference.Anneal(0, 1, 0, c.ramp))
        return inference.Subsets(bound, c.modalities, c.subsets if len(c.modalities) > 2 else 0)
