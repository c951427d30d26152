"""sVAE+: a perturbation shifts a few latents of a cell; which ones is learnt, and sparse.

Story   pi_aj ~ Beta(1, K) of all cells   gamma_j ~ Bern(pi_aj)   z_j ~ N(gamma_j mu_aj, 1)
        x_g ~ NB(library softmax_g(f(z, batch)), theta_g), where a is the cell's perturbation
Guide   q(z | log(1 + x)), gamma as in the story and summed out, a point of pi
Paper   Lopez, Tagasovska, Ra, Cho, Pritchard, Regev. arXiv 2211.03553
Shapes  E values of gamma on the left, L latents, B rows; G genes, A perturbations
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_models import inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.networks import Label
from ppl_models.pair import Card, Pair
from ppl_models.parts.counts import LogCounts, NegativeBinomial
from ppl_models.parts.sparse_shifts import MASKS, ShiftGuide, SparseShifts, vectors


@dataclass(frozen=True)
class SVAEPlusConfig(Config):
    """Settings of the paper's simulations; defaults are those of its demonstration."""

    data_dim: int = setting(100, "G, genes", from_data="x", minimum=1)
    perturbations: int = setting(100, "A", from_data="perturbation", minimum=1)
    batches: int = setting(0, "C, kinds of a covariate batch of the decoder", minimum=0)
    latent: int = setting(15, "L", minimum=1)
    hidden: tuple[int, ...] = setting((128, 128), "units of either network", minimum=1)
    masks: str = setting("summed", "gamma: learnt, or 1 (iVAE), 0 (VAE)", choices=MASKS)
    sparsity: float = setting(20.0, "K of the targets' prior Beta(1, K)", minimum=1)
    controls: tuple[str, ...] = setting((), "names of perturbations that shift nothing")
    ramp: float = setting(0.17, "share of training in which KL terms and prior grow", minimum=0)
    mask_rate: float = setting(0.003, "learning rate of masks", minimum=0)
    shift_rate: float = setting(0.02, "learning rate of shifts", minimum=0)


class SVAEPlus(Pair):
    """Sparse mechanism shifts of the latents of single cells."""

    Config = SVAEPlusConfig
    config: SVAEPlusConfig
    plate_nesting = 2
    card = Card(
        name="svae_plus",
        title="Learning Causal Representations of Single Cells via "
        "Sparse Mechanism Shift Modeling",
        authors="R. Lopez, N. Tagasovska, S. Ra, K. Cho, J. K. Pritchard, A. Regev",
        year=2023,
        arxiv="2211.03553",
        task="which latents of a cell a perturbation shifts",
        data={"x": "counts of genes (G)"},
        covariates={
            "perturbation": "what was done to the cell (A)",
            "library": "all counts of the cell (1)",
            "batch": "who measured it, where batches is set (C)",
        },
        latents={"pi": "targets (A, L)", "gamma": "what is shifted (L)", "z": "state (L)"},
        objectives=("enumerated",),
        limits=("latents are found up to their order, sign and scale",),
        departs=(
            "masks are summed out, or drawn as masks='gumbel'; they and shifts have own rates",
            "no dropout; log counts about their means of some cells, in place of batch norm",
        ),
        picture="targets, true, found and of shuffled labels: latents down, perturbations across",
    )

    def __init__(self, config: SVAEPlusConfig) -> None:
        super().__init__(c := config)
        codes = {"z": c.latent} | ({"batch": Label(c.batches)} if c.batches else {})
        self.counts = NegativeBinomial(codes, c.hidden[::-1], c.data_dim)
        self.shifts = SparseShifts(c.perturbations, c.latent, c.masks, c.sparsity, c.controls)
        self.guide = ShiftGuide(self, LogCounts({"x": c.data_dim}, c.hidden, 2 * c.latent))
        latents = self.card.latents if self.shifts.learnt else {"z": self.card.latents["z"]}
        given = {n: v for n, v in self.card.covariates.items() if n != "batch" or c.batches}
        self.card = replace(self.card, covariates=given, latents=latents)

    def model(self, batch: Batch) -> None:
        """p(pi) p(gamma | pi) p(z | gamma) p(x | z, library)."""
        cause, names = batch["perturbation"], self.class_names("perturbation")
        pi = self.shifts.sample_pi(point=False)
        with self.plate(batch):
            with pyro.plate("latent", self.config.latent, dim=-2):
                gamma = self.shifts.sample_masks(pi, cause, names)  # E x L x B
                z = pyro.sample("z", dist.Normal(self.shifts.means(gamma, cause), 1.0))  # L x B
            given = batch.only("batch") if self.config.batches else {}
            x = self.counts(batch["library"], z=vectors(z), **given)
            pyro.sample("x", x, obs=batch.get("x"))  # B x G

    def structure(self) -> dict[str, tuple[tuple[str, ...], Tensor]]:
        """Probability and size of each shift."""
        found = self.shifts.structure(self.class_names("perturbation"))
        return {name: (("perturbation", "latent"), v) for name, v in found.items()}

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The bound; its KL terms and the targets' prior grow at first."""
        ramp = inference.Anneal(0, 1, 0, self.config.ramp)
        bound = bound or inference.EnumeratedELBO(kl="analytic", beta=ramp)
        return inference.Weighted(bound, outside=ramp)

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """One; masks, which start open, are to close after the shifts are learnt."""
        self.shifts.idle_codes(self.class_names("perturbation"))  # told before any work
        rates = self.shifts.rates(self.config.mask_rate, self.config.shift_rate)
        how, count = inference.Training(epochs=300, batch_size=128), self.guide.net.count
        return (inference.Stage(self.objective(bound), start=count, training=how, rates=rates),)

    def some_covariates(self, rows: int) -> dict[str, Tensor]:
        """Perturbations (and batches) in turn, about 40 molecules a gene."""
        c, row = self.config, torch.arange(rows, device=self.like().device)
        library = self.like().new_full((rows, 1), 40.0 * c.data_dim)
        kinds = {"perturbation": c.perturbations} | ({"batch": c.batches} if c.batches else {})
        return {"library": library, **{name: row % size for name, size in kinds.items()}}
