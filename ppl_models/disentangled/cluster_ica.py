"""Cluster-ICA: clusters that a model finds in its codes stand in for side information.

Story   c ~ Cat(pi)   z | c ~ N(mu_c, diag s_c^2)   x | z ~ p(dec(z)); in J facets, each (c_j, z_j)
Guide   q(z | x) = N(mu(x), diag sigma(x)^2); c is left to the story: q(c | z) = p(c | z)
Paper   Willetts, Paige. 2021, arXiv 2106.05238; with the priors of VaDE, MFC-VAE and iVAE
Shapes  E clusters and particles on the left, B rows, D data, L code, K clusters, J facets
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import pyro
import pyro.distributions as dist
from torch import nn

from ppl_models import inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.likelihoods import ONE_OUTPUT
from ppl_models.networks import ACTIVATIONS, Net
from ppl_models.pair import Card, Pair
from ppl_models.parts.latent_mixtures import LatentMixture, facet_guide, facet_sites

PRIORS = {"mixture": "c", "given": "y", "normal": ""}  # of VaDE, iVAE and VAE: the cluster's site


@dataclass(frozen=True)
class ClusterICAConfig(Config):
    """Settings of the paper's MNIST."""

    data_dim: int = setting(784, "D, size of x", from_data="x", minimum=1)
    prior: str = setting("mixture", "p(z): by found clusters, by label y, N(0, I)", choices=PRIORS)
    clusters: int = setting(40, "K, clusters of each facet, or classes of y", minimum=2)
    facets: int = setting(1, "J, codes with clusters of their own (MFC-VAE)", minimum=1)
    latent: int = setting(50, "L, size of z of each facet", minimum=1)
    hidden: tuple[int, ...] = setting((512, 384, 256, 256), "units, decoder back", minimum=1)
    activation: str = setting("relu", "between layers", choices=ACTIVATIONS)
    likelihood: str = setting("soft_bernoulli", "p(x | z)", choices=ONE_OUTPUT)
    warm_up: int = setting(10, "epochs as a VAE before clusters begin at its codes", minimum=0)


class ClusterICA(Pair):
    """A VAE whose prior is a mixture, over clusters that are found or given."""

    Config = ClusterICAConfig
    config: ClusterICAConfig
    card: Card = Card(
        name="cluster_ica",
        title="I Don't Need u: Identifiable Non-Linear ICA Without Side Information",
        authors="Matthew Willetts, Brooks Paige",
        year=2021,
        arxiv="2106.05238",
        task="codes that agree over training runs, without side information",
        data={"x": "data vector (D)"},
        latents={"z": "code (L)", "c": "cluster (K)"},
        objectives=("enumerated", "iwelbo"),
        departs=(
            "clusters begin at a VAE's codes, as in VaDE; at random, as here, with `warm_up=0`",
            "ReLU without dropout, in place of leaky ReLU with 0.1 of it; all pixels, in grey",
            "a given label has a table in place of a network; the guide is blind to it, as there",
            "facets are heads of one encoder, not MFC-VAE's ladder that fades them in",
        ),
        limits=("codes of all seeds may agree and yet be wrong",),
        picture="sources and codes of a VAE, of found and of given clusters, by true cluster",
    )

    def __init__(self, config: ClusterICAConfig) -> None:
        super().__init__(config)
        self.clusters = facet_sites(config.facets, PRIORS[config.prior])  # by code
        c, sizes = config, dict.fromkeys(self.clusters, config.latent)
        latents = dict.fromkeys(sizes, "code (L)")
        latents |= {label: "cluster (K)" for label in self.clusters.values() if label}
        self.card = replace(self.card, latents=latents, labels=("y",) * (c.prior == "given"))
        self.guide = facet_guide(sizes, c.data_dim, c.hidden, c.activation)
        self.decoder = Net(sizes, c.hidden[::-1], c.data_dim, c.activation)
        self.likelihood = ONE_OUTPUT[c.likelihood]()
        parts = {
            z: LatentMixture(c.clusters, c.latent) for z, label in self.clusters.items() if label
        }
        self.mixtures: Any = nn.ModuleDict(parts)

    def model(self, batch: Batch) -> None:
        """p(c) p(z | c) of each facet, p(x | z)."""
        zero, codes = self.like().new_zeros(self.config.latent), {}
        with self.plate(batch):
            for z, label in self.clusters.items():
                prior = dist.Normal(zero, zero + 1).to_event(1)
                if label:
                    pi, seen = self.mixtures[z].weights(), batch.get(label)
                    c = pyro.sample(label, pi, obs=seen, infer={"enumerate": "parallel"})  # E x B
                    prior = self.mixtures[z](c)
                codes[z] = pyro.sample(z, prior)  # E x B x L
            x = self.likelihood(self.decoder(**codes))  # E x B x D
            pyro.sample("x", x, obs=batch.get("x"))

    def begin(self, batch: Batch) -> None:
        """Clusters of each facet begin at a mixture of the rows' codes."""
        for z, mixture in self.mixtures.items():
            mixture.begin(self.guide.factor(z, batch).mean)

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The bound, with clusters summed out where no row knows them."""
        plain = inference.ELBO(kl="analytic")
        return bound or (plain if self.config.prior == "normal" else inference.EnumeratedELBO())

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """Where clusters are to be found first the VAE whose codes they begin at."""
        c, sites = self.config, ("x", *self.card.labels)
        how = inference.Training(epochs=200, batch_size=64, learning_rate=5e-4)
        last = inference.Stage(self.objective(bound), sites=sites, training=how)
        if c.prior != "mixture" or not c.warm_up:
            return (last,)
        vae = copy.copy(self)  # of the same networks
        vae.clusters, vae.config = dict.fromkeys(self.clusters, ""), replace(c, prior="normal")
        how, apart = replace(how, epochs=c.warm_up), ("mixtures",)
        first = inference.Stage(vae.objective(), "vae", vae, sites, freeze=apart, training=how)
        return first, replace(last, start=self.begin)
