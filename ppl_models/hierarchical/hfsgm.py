"""HFSGM: contexts of a set and codes of its elements, drawn by turns from the top down.

Story   c_L ~ N(0, I)   z_l,m ~ N(net(z_l+1,m, c_l))   c_l ~ N(net(c_l+1, pool over m of z_l+1,m))
        x_m ~ Bernoulli(net(z_1,m, ..., z_L,m, c_1, ..., c_L)), m in the set
Guide   q(c_l | c_l+1, pool over m of z_l+1,m and h_m)   q(z_l,m | z_l+1,m, c_l, h_m)   h = enc(x)
Paper   Giannone, Winther. Hierarchical few-shot generative models. 2021, arXiv 2110.12279
Shapes  B rows (sets), M elements, D data, C context, Z code; K draws of a bound on the left
"""

from dataclasses import dataclass, replace

import pyro
from torch import Tensor

from ppl_models import elements, inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.guides import POOLS
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.networks import Net
from ppl_models.pair import Card, Pair
from ppl_models.parts import set_draws, set_training
from ppl_models.parts.set_contexts import begin
from ppl_models.parts.set_ladder import Ladder, LadderGuide, Rungs


@dataclass(frozen=True)
class HFSGMConfig(Config):
    """Settings of the paper's flat models."""

    data_dim: int = setting(784, "D, size of an element of x", from_data="x", minimum=1)
    most: int = setting(5, "M, elements of a row", from_data="x_there", minimum=1)
    context: int = setting(32, "C, size of each c_l", minimum=1)
    latent: int = setting(32, "Z, size of each z_l", minimum=1)
    layers: int = setting(3, "L, layers of codes", minimum=1)
    hidden: int = setting(512, "units", minimum=1)
    contexts: str = setting(
        "each",
        "in each layer (HFSGM), the top one (Neural Statistician), none (VAE)",
        choices=("each", "top", "none"),
    )
    pool: str = setting("attention", "of a set's elements", choices=POOLS)
    heads: int = setting(4, "of the attention", minimum=1)
    film: str = setting(
        "attention", "pools whose c scales z", choices=("attention", "all", "none")
    )
    prior_uses_z: bool = setting(True, "p(c_l | ...) sees the codes above")
    likelihood: str = setting("bernoulli", "of an element", choices=("bernoulli", "normal"))
    subset: int = setting(0, "elements of a row that each batch draws anew; 0: all", minimum=0)
    rise: float = setting(0.2, "share of training in which beta rises from 1/9", minimum=0)


class HFSGM(Pair):
    """Few elements of a concept show what others of it are like."""

    Config = HFSGMConfig
    config: HFSGMConfig
    plate_nesting = 2
    card = Card(
        name="hfsgm",
        title="Hierarchical Few-Shot Generative Models",
        authors="Giorgio Giannone, Ole Winther",
        year=2021,
        arxiv="2110.12279",
        task="sets: few-shot generation",
        data={"x": "elements (M, D)"},
        covariates={"x_there": "which elements there are (M)"},
        latents={},
        departs=(
            "perceptrons without normalisation, weights of unit gain; scales are 1 + a map of c",
            "attention, too, has a residual block before it and c after it, as the means have",
            "KL terms weigh 1/w^2, w from 3 to 1, in place of w log p and KL / w: Adam's steps "
            "do not change with a factor; it ends after a share of training",
            "a set counts as often as it has elements, and gradients are not clamped",
        ),
        limits=("one element has all of KL(c): more than a VAE pays for it",),
        picture="new elements of unseen characters beside the five that are shown",
    )

    def __init__(self, config: HFSGMConfig) -> None:
        super().__init__(config)
        c = config
        r = Rungs(c.layers, c.contexts, c.latent, c.context, c.hidden, c.pool, c.heads, c.film)
        self.prior, self.guide = Ladder(r, 0, c.prior_uses_z), LadderGuide(r, c.data_dim, c.most)
        contexts = {f"c_{k}": "context of the set (C)" for k in self.prior.contexts}
        codes = {f"z_{k}": "code of each element (M, Z)" for k in self.prior.codes}
        self.card = replace(self.card, latents={**contexts, **codes})
        sizes = {**dict.fromkeys(codes, c.latent), **dict.fromkeys(contexts, c.context)}
        kind = LIKELIHOODS[c.likelihood]
        self.decoder = Net(sizes, (c.hidden, c.hidden), kind.outputs * c.data_dim, "silu")
        begin(self)

    def some_covariates(self, rows: int) -> dict[str, Tensor]:
        """Sets of one element, of two, and so on."""
        return set_training.growing(self.like(), rows, self.config.most)

    def model(self, batch: Batch) -> None:
        """p(c_L) prod_m p(z_L,m | c_L) p(c_L-1 | c_L, z_L) ... prod_m p(x_m | z_m, c)."""
        there = elements.present(batch, "x", self.config.most, batch.count)
        with self.plate(batch):
            element = elements.plate("element", there)
            above = self.prior(there, element)
            with element:
                x = LIKELIHOODS[self.config.likelihood](self.decoder(**above))
                pyro.sample("x", x, obs=elements.observed(batch, "x", there))  # M x B x D

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The bound, with KL terms that count little at first."""
        return bound or set_training.rising(self.config.rise)

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """Sets drawn anew in each batch, where asked for."""
        c = self.config
        return set_training.stages(self.objective(bound), c.subset, c.likelihood)

    sample_sets = set_draws.sample_sets
