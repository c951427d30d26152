"""Cells of which some have counts of genes, some surface proteins, and some stains.

Story   z ~ N(0, I)   rna | z ~ NB   protein | z ~ N   stains | z ~ Bern, of what a cell has
Guide   q(z | any of the three), a product of experts
Paper   Wu, Goodman. Multimodal Generative Models for Scalable Weakly-Supervised Learning. 2018
Shapes  B rows, G genes, P proteins, S stains, L latents
"""

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
from torch import nn

from ppl_models import Batch, Card, Config, Pair, guides, inference, modalities, setting
from ppl_models.parts.modalities import Decoder, Reader

SITES = ("rna", "protein", "stains")
KINDS = ("counts", "normal", "bernoulli")


@dataclass(frozen=True)
class Settings(Config):
    genes: int = setting(30, "G", from_data="rna", minimum=1)
    proteins: int = setting(6, "P", from_data="protein", minimum=1)
    colours: int = setting(4, "S", from_data="stains", minimum=1)
    latent: int = setting(4, "L", minimum=1)
    hidden: tuple[int, ...] = setting((64,), "units", minimum=1)


class Cells(Pair):
    Config = Settings
    may_lack = SITES
    card = Card(
        name="three_modalities", title="Cells", authors="you", year=2026, arxiv="1802.05335",
        task="what was not measured", latents={"z": "state (L)"},
        data={"rna": "counts (G)", "protein": "log abundance (P)", "stains": "0 or 1 (S)"},
    )  # fmt: skip

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        L, H, experts = config.latent, config.hidden, []
        self.decoders = nn.ModuleDict()
        sizes = (config.genes, config.proteins, config.colours)
        for name, kind, size in zip(SITES, KINDS, sizes, strict=True):
            reader = Reader(name, kind, size, hidden=H, outputs=2 * L)
            experts.append(guides.Normal(L, {name: size}, net=reader))
            self.decoders[name] = Decoder(kind, size, latent=L, hidden=H, scale=0.5)
        self.guide = guides.Factored(z=guides.Product(*experts))

    def model(self, batch: Batch) -> None:
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))  # B x L
            for name in modalities.told(batch, SITES):
                modalities.sample(batch, name, self.decoders[name](z), SITES)

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        return inference.Subsets(bound or inference.ELBO(kl="analytic"), SITES)
