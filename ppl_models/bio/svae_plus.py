"""sVAE+: a perturbation shifts a few latents of a cell; which ones is learnt, and sparse.

Story   pi_aj ~ Beta(1, K) of all cells   gamma_j ~ Bern(pi_aj)   z_j ~ N(gamma_j mu_aj, 1)
        x_g ~ NB(library softmax_g(f(z, batch)), theta_g), where a is the cell's perturbation
Guide   q(z | log(1 + x)), gamma as in the story and summed out, a point of pi
Paper   Lopez, Tagasovska, Ra, Cho, Pritchard, Regev. arXiv 2211.03553
Shapes  E values of gamma on the left, L latents, B rows; G genes, A perturbations
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models import inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting, unknown
from ppl_models.networks import Label, Net
from ppl_models.pair import Card, Pair

FIXED = {"ones": 1.0, "zeros": 0.0}
BATCH = "batch"


@dataclass(frozen=True)
class SVAEPlusConfig(Config):
    """Settings of the paper's simulations."""

    data_dim: int = setting(100, "G, genes", from_data="x", minimum=1)
    perturbations: int = setting(100, "A", from_data="perturbation", minimum=1)
    batches: int = setting(0, "classes of a covariate batch of the decoder; 0 for none", minimum=0)
    latent: int = setting(15, "L", minimum=1)
    hidden: tuple[int, ...] = setting((128, 128), "units of either network", minimum=1)
    masks: str = setting(
        "summed",
        "gamma: summed out, or drawn by gumbel; ones is iVAE, zeros a VAE",
        choices=("summed", "gumbel", *FIXED),
    )
    sparsity: float = setting(20.0, "K of the targets' prior Beta(1, K)", minimum=1)
    controls: tuple[str, ...] = setting((), "names of perturbations that shift nothing")
    ramp: float = setting(1 / 6, "share of training in which KL terms and prior grow", minimum=0)
    shift_rate: float = setting(0.02, "learning rate of masks and shifts", minimum=0)


class Guide(nn.Module):
    """q(pi) q(gamma | pi) q(z | x)."""

    def __init__(self, pair: SVAEPlus) -> None:
        super().__init__()
        c = pair.config
        self._pair = (pair,)  # in a tuple it is no part of this module
        self.net = Net({"x": c.data_dim}, c.hidden, 2 * c.latent, "relu")
        if c.masks not in FIXED:
            self.logits = nn.Parameter(torch.full((c.perturbations, c.latent), 5.0))

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of z ``(B, L)``."""
        loc, log_variance = self.net(x=x.log1p()).chunk(2, -1)
        return loc, (0.5 * log_variance).exp()

    def forward(self, batch: Batch) -> None:
        """Sample pi, gamma and z."""
        (pair,) = self._pair
        pi = None
        if pair.config.masks not in FIXED:
            pi = pyro.sample("pi", dist.Delta(self.logits.sigmoid(), event_dim=2))  # A x L
        loc, scale = self.moments(batch["x"])
        with batch.plate(), pyro.plate("latent", pair.config.latent, dim=-2):
            pair.mask(pi, batch)
            pyro.sample("z", dist.Normal(loc.mT, scale.mT))  # L x B


class SVAEPlus(Pair):
    """Sparse mechanism shifts of the latents of single cells."""

    Config = SVAEPlusConfig
    config: SVAEPlusConfig
    plate_nesting = 2
    card = Card(
        name="svae_plus",
        title="Learning Causal Representations of Single Cells via Sparse Mechanism Shift Modeling",
        authors="Romain Lopez, Natasa Tagasovska, Stephen Ra, Kyunghyun Cho, Jonathan K. "
        "Pritchard, Aviv Regev",
        year=2023,
        arxiv="2211.03553",
        task="which latents of a cell a perturbation shifts",
        data={"x": "counts of genes (G)"},
        covariates={"perturbation": "what was done to the cell (A)", "library": "all counts (1)"},
        latents={
            "pi": "of all cells: probability that a perturbation shifts a latent (A, L)",
            "gamma": "which latents the cell's perturbation shifts (L)",
            "z": "state of the cell (L)",
        },
        objectives=("enumerated",),
        departs=(
            "masks are summed out; masks='gumbel' draws them as the published code does",
            "networks without batch norm and dropout, as each row is looked at alone",
        ),
        limits=("latents are found up to their order, sign and scale",),
        picture="true targets and what was found: perturbations down, latents across",
    )

    def __init__(self, config: SVAEPlusConfig) -> None:
        super().__init__(config)
        c = config
        given = {"z": c.latent} | ({BATCH: Label(c.batches)} if c.batches else {})
        self.decoder = Net(given, c.hidden[::-1], c.data_dim, "relu")
        self.log_theta = nn.Parameter(torch.randn(c.data_dim))
        if c.masks != "zeros":
            self.shift = nn.Parameter(torch.randn(c.perturbations, c.latent))  # mu
        self.guide = Guide(self)
        if c.batches:
            covariates = {**self.card.covariates, BATCH: "who measured the cell (C)"}
            self.card = dataclasses.replace(self.card, covariates=covariates)
        if c.masks in FIXED:
            self.card = dataclasses.replace(self.card, latents={"z": self.card.latents["z"]})

    def free(self, perturbation: Tensor) -> Tensor:
        """1.0 of codes ``(...)`` that may shift latents, 0.0 of controls."""
        free = torch.ones_like(perturbation, dtype=self.like().dtype)
        for name in self.config.controls:
            known = () if self.schema is None else self.schema.sites["perturbation"].classes
            if name not in known:
                raise ValueError(unknown("perturbation in controls", name, known))
            free = free * (perturbation != known.index(name))
        return free

    def mask(self, pi: Tensor | None, batch: Batch) -> Tensor | float:
        """Sample gamma of each row ``(L, B)``, alike in story and guide, or the fixed mask."""
        if pi is None:
            return FIXED[self.config.masks]
        probs = pi[batch["perturbation"]] * self.free(batch["perturbation"]).unsqueeze(-1)
        q = dist.Bernoulli(probs.mT)
        if self.config.masks == "gumbel":
            one = probs.new_ones(())
            q = dist.RelaxedBernoulliStraightThrough(one, probs=probs.mT).mask(False)
        gamma: Tensor = pyro.sample("gamma", q)
        return gamma

    def model(self, batch: Batch) -> None:
        """p(pi) p(gamma | pi) p(z | gamma) p(x | z, library)."""
        c, one, pi = self.config, self.like().new_ones, None
        if c.masks not in FIXED:
            prior = dist.Beta(one(c.perturbations, c.latent), c.sparsity)
            pi = pyro.sample("pi", prior.to_event(2))  # A x L
        with self.plate(batch):
            with pyro.plate("latent", c.latent, dim=-2):
                gamma = self.mask(pi, batch)  # E x L x B
                shift = 0.0 if c.masks == "zeros" else gamma * self.shift[batch["perturbation"]].mT
                z = pyro.sample("z", dist.Normal(shift * one(c.latent, 1), 1.0))  # L x B
            given = {"batch": batch["batch"]} if c.batches else {}
            shares = self.decoder(z=z.mT.unsqueeze(-3), **given).log_softmax(-1)
            logits = batch["library"].log() + shares - self.log_theta
            x = dist.NegativeBinomial(self.log_theta.exp(), logits=logits).to_event(1)
            pyro.sample("x", x, obs=batch.get("x"))  # B x G

    def probabilities(self) -> Tensor:
        """That each perturbation shifts each latent ``(A, L)``."""
        c = self.config
        free = self.free(torch.arange(c.perturbations, device=self.like().device)).unsqueeze(-1)
        learnt = c.masks not in FIXED
        pi = self.guide.logits.sigmoid() if learnt else free.new_tensor(FIXED[c.masks])
        return (free * pi).expand(-1, c.latent)

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The bound; its KL terms and the targets' prior grow at first."""
        grows = inference.Anneal(0, 1, 0, self.config.ramp)
        bound = bound or inference.EnumeratedELBO(kl="analytic", beta=grows)
        return inference.Weighted(bound, outside=grows)

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """One, in which masks and shifts have a rate of their own."""
        own = {n for n, _ in self.named_parameters()} & {"guide.logits", "shift"}
        rates = dict.fromkeys(sorted(own), self.config.shift_rate)
        training = inference.Training(epochs=300, batch_size=128)
        return (inference.Stage(self.objective(bound), training=training, rates=rates),)

    def some_covariates(self, rows: int) -> dict[str, Tensor]:
        """Perturbations (and batches) in turn, about 40 molecules a gene."""
        row = torch.arange(rows, device=self.like().device)
        found = {"perturbation": row % self.config.perturbations}
        found["library"] = self.like().new_full((rows, 1), 40.0 * self.config.data_dim)
        return found | ({BATCH: row % self.config.batches} if self.config.batches else {})
