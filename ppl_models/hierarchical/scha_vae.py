"""SCHA-VAE: contexts of a set and codes of its elements that are maps, from coarse to fine.

Story   c_l ~ N(net(c_L, ..., c_l+1))   z_l,m ~ N(net(z_L,m, ..., z_l+1,m, c_L, ..., c_l))
        x_m ~ Bernoulli(net(z_1,m, ..., z_L,m, c_1, ..., c_L)), m in the set; all c_l, z_l maps
Guide   q(c_l | what is above, pool over m of h_m)   q(z_l,m | what is above, h_m)   h = enc(x)
Paper   Giannone, Winther. SCHA-VAE: Hierarchical Context Aggregation for Few-Shot Generation. 2022
Shapes  B rows (sets), M elements, D data, r side of maps; K draws of a bound on the left
"""

from dataclasses import dataclass, replace

import pyro
from torch import Tensor

from ppl_models import elements, inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.guides import POOLS
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.pair import Card, Pair
from ppl_models.parts import set_draws, set_training
from ppl_models.parts.set_maps import ElementDecoder, MapGuide, MapLadder


@dataclass(frozen=True)
class SCHAConfig(Config):
    """Settings of the paper's Omniglot models."""

    shape: tuple[int, ...] = setting((28, 28, 1), "H, W, C of an element", shape_from="x")
    most: int = setting(5, "M, elements of a row", from_data="x_there", minimum=1)
    sides: tuple[int, ...] = setting(
        (1,) * 3 + (2,) * 3 + (4,) * 6 + (8,) * 6, "r of each of L steps, rising", minimum=1
    )
    context: int = setting(32, "maps of each c_l; 0: no contexts, a VAE of elements", minimum=0)
    latent: int = setting(32, "maps of each z_l", minimum=1)
    hidden: int = setting(128, "maps of the paths", minimum=1)
    pool: str = setting("mean", "of a set's elements", choices=POOLS)
    heads: int = setting(4, "of the attention", minimum=1)
    likelihood: str = setting("bernoulli", "of an element", choices=("bernoulli", "normal"))
    subset: int = setting(0, "elements of a row that each batch draws anew; 0: all", minimum=0)
    rise: float = setting(0.2, "share of training in which beta rises from 1/9", minimum=0)


class SCHAVAE(Pair):
    """Few elements of a concept show what others of it are like, from coarse to fine."""

    Config = SCHAConfig
    config: SCHAConfig
    plate_nesting = 2
    card = Card(
        name="scha_vae",
        title="SCHA-VAE: Hierarchical Context Aggregation for Few-Shot Generation",
        authors="Giorgio Giannone, Ole Winther",
        year=2022,
        arxiv="2110.12279",
        task="sets: few-shot generation of images",
        data={"x": "elements (M, D)"},
        covariates={"x_there": "which elements there are (M)"},
        latents={},
        departs=(
            "group norm, which knows no other sets, in place of batch norm; softplus for scales; "
            "weights of priors begin at a hundredth of the usual, not at 0",
            "KL terms weigh 1/w^2, w from 3 to 1, in place of w log p and KL / w: Adam's steps "
            "do not change with a factor; it ends after a share of training",
            "a set counts as often as it has elements, and gradients are not clamped",
        ),
        picture="new elements of unseen characters beside the five that are shown",
        drawn={"sides": (1, 2, 4)},
        limits=("one element has all of KL(c): more than a VAE pays for it",),
    )

    def __init__(self, config: SCHAConfig) -> None:
        super().__init__(config)
        c, kind = config, LIKELIHOODS[config.likelihood]
        if list(c.sides) != sorted(c.sides):
            raise ValueError(f"sides are {c.sides}, expected sides that rise")
        layers = range(len(c.sides), 0, -1)
        contexts = {f"c_{k}": "context of the set (maps, r, r)" for k in layers if c.context}
        codes = {f"z_{k}": "code of each element (M, maps, r, r)" for k in layers}
        self.card = replace(self.card, latents={**contexts, **codes})
        sizes = c.hidden, c.context, c.latent
        self.prior = MapLadder(c.sides, *sizes)
        self.guide = MapGuide(self.prior, c.shape, *sizes, c.pool, c.heads, c.most)
        self.decoder = ElementDecoder(c.shape, c.sides[-1], c.hidden, kind.outputs)

    def some_covariates(self, rows: int) -> dict[str, Tensor]:
        """Sets of one element, of two, and so on."""
        return set_training.growing(self.like(), rows, self.config.most)

    def model(self, batch: Batch) -> None:
        """p(c_L) prod_m p(z_L,m | c_L) p(c_L-1 | c_L) ... prod_m p(x_m | z_m, c)."""
        there = elements.present(batch, "x", self.config.most, batch.count)
        with self.plate(batch):
            element = elements.plate("element", there)
            maps = self.prior(there, element)  # M x B x H x r x r
            with element:
                x = LIKELIHOODS[self.config.likelihood](self.decoder(maps))
                pyro.sample("x", x, obs=elements.observed(batch, "x", there))  # M x B x D

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The bound, with KL terms that count little at first."""
        return bound or set_training.rising(self.config.rise)

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """Sets drawn anew in each batch, where asked for."""
        c = self.config
        return set_training.stages(self.objective(bound), c.subset, c.likelihood)

    sample_sets = set_draws.sample_sets
