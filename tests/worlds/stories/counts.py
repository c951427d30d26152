"""Counts of genes in cells, corrected for the batch and for how many molecules were caught.

Story   z ~ N(0, I)   x | z, batch, library ~ NB(mean library softmax(f(z, batch)), dispersion)
Guide   q(z | x, batch)
Paper   Lopez, Regier, Cole, Jordan, Yosef. Deep generative modeling for single-cell
        transcriptomics. Nature Methods 2018
Shapes  S draws on the left, B rows, D genes, C batches, L codes
"""

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models import Batch, Card, Config, Pair, guides, register, setting
from ppl_models.networks import Label, Net


@dataclass(frozen=True)
class Settings(Config):
    """Settings."""

    data_dim: int = setting(5, "D, genes", from_data="x", minimum=1)
    batches: int = setting(2, "C, batches", from_data="batch", minimum=1)
    latent: int = setting(2, "L", minimum=1)
    hidden: tuple[int, ...] = setting((16,), "units of either network", minimum=1)


@register("counts")
class Counts(Pair):
    """A negative binomial model of counts."""

    Config = Settings
    card = Card(
        name="counts",
        title="Deep generative modeling for single-cell transcriptomics",
        authors="R. Lopez, J. Regier, M. B. Cole, M. I. Jordan, N. Yosef",
        year=2018,
        arxiv="10.1038/s41592-018-0229-2",
        task="codes of cells without batch effects",
        data={"x": "counts of genes (D)"},
        latents={"z": "state of the cell (L)"},
        covariates={"batch": "who measured the cell (C)", "library": "all counts of the cell (1)"},
        departs=("the library size is the observed one, without a prior",),
    )

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        batch = Label(config.batches)
        self.shares = Net({"z": config.latent, "batch": batch}, config.hidden, config.data_dim)
        self.log_dispersion = nn.Parameter(torch.zeros(config.data_dim))
        self.guide = guides.Factored(
            z=guides.Normal(config.latent, {"x": config.data_dim, "batch": batch}, config.hidden)
        )

    def model(self, batch: Batch) -> None:
        """p(z) p(x | z, batch, library)."""
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))  # S x B x L
            shares = self.shares(z=z, batch=batch["batch"]).log_softmax(-1)
            log_mean = batch["library"].log() + shares  # S x B x D
            x = dist.NegativeBinomial(
                self.log_dispersion.exp(), logits=log_mean - self.log_dispersion
            )
            pyro.sample("x", x.to_event(1), obs=batch.get("x"))

    def some_covariates(self, rows: int) -> dict[str, Tensor]:
        """Batches in turn, and a few molecules."""
        row = torch.arange(rows)
        library = self.like().new_tensor([20.0]) + row.unsqueeze(-1)
        return {"batch": row % self.config.batches, "library": library.to(self.like().dtype)}
