"""Ladder VAE: a hierarchy of codes whose posterior corrects the story's own guess, layer by layer.

Story   z_L ~ N(0, I)   z_l ~ N(net(h_l))   h_l = net(z_l+1), or net(h_l+1, z_l+1) with skips
        x | z ~ p(net(z_1)), or p(net(h_1, z_1)) with skips
Guide   q(z_l | x, z_l+1, .., z_L): the product of p(z_l | z_l+1, .., z_L) and N(mu_l(g_l),
        sigma_l(g_l)^2), of z_L the latter alone   g_0 = x   g_l = t_l(g_l-1)
Paper   Sonderby, Raiko, Maaloe, Sonderby, Winther. Ladder Variational Autoencoders. NIPS 2016
Shapes  E particle dimensions on the left, B rows, d_l code, H W C pixels
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyro

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import setting
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.pair import Card, Pair
from ppl_models.parts import ladder_training
from ppl_models.parts.ladder_networks import Levels, trunk
from ppl_models.parts.top_down import Corrected, TopDown


@dataclass(frozen=True)
class LadderVAEConfig(ladder_training.LadderConfig):
    """Settings of the paper's MNIST models."""

    latent: tuple[int, ...] = setting(
        (64, 32, 16, 8, 4), "sizes of z_1 .. z_L, bottom first", minimum=1
    )
    networks: str = setting("dense", "convolutional or dense", choices=("conv", "dense"))
    levels: tuple[int, ...] = setting(
        (512, 256, 128, 64, 32), "maps, or units, above the image", minimum=1
    )
    hidden: tuple[int, ...] = setting((), "units between levels and codes", minimum=1)
    likelihood: str = setting("soft_bernoulli", "p(x | z)", choices=LIKELIHOODS)
    emphasis: float = setting(1.0, "weight of log p(x | z) in the bound", minimum=0)
    kl_warmup: int = setting(46_800, "steps of their warm-up; none with fade_in", minimum=0)
    skips: bool = setting(False, "layers below see all codes above them, not the next one alone")


class LadderVAE(Pair):
    """Bottom-up evidence and top-down guess are weighed by their precisions."""

    Config = LadderVAEConfig
    config: LadderVAEConfig
    card = Card(
        name="ladder_vae",
        title="Ladder Variational Autoencoders",
        authors="Casper Kaae Sonderby, Tapani Raiko, Lars Maaloe, Soren Kaae Sonderby, "
        "Ole Winther",
        year=2016,
        arxiv="1602.02282",
        task="a hierarchy of codes without supervision",
        data={"x": "image (H W C, flat)"},
        latents={},
        objectives=("elbo", "iwelbo"),
        drawn={"latent": (2, 2, 2), "levels": (2, 2, 2)},
        departs=(
            "layer norm (group norm of maps) in place of batch norm, ReLU for leaky ReLU, one "
            "layer for two between neighbouring levels, weights of torch",
            "grey pixels as they are, in place of binary ones drawn anew in each epoch",
            "with skips, priors and image see all codes above, as in BIVA (arXiv 1902.02102)",
            "with fade_in, a layer's evidence has its precision times alpha, and below it alpha "
            "of the way from its prior's mean to the code is seen: before its turn its KL is 0",
        ),
        limits=("without skips all of the image passes z_1",),
    )

    def __init__(self, config: LadderVAEConfig) -> None:
        super().__init__(config)
        c, levels = config, Levels(config)
        self.card = replace(self.card, latents={z: f"code of layer {z[2:]}" for z in c.sites})
        self.likelihood = LIKELIHOODS[c.likelihood]
        self.fade = ladder_training.FadeIn(len(c.sites), c.fade_in)
        self.story = TopDown(c, self.fade, c.skips)
        factors = {site: Corrected(levels, self.story, site) for site in reversed(c.sites)}
        self.guide = guides.Factored(trunk(levels), **factors)

    def model(self, batch: Batch) -> None:
        """p(z_L) p(z_L-1 | z_L) .. p(x | z_1, .., z_L)."""
        path = None
        with self.plate(batch):
            for site in reversed(self.config.sites):
                prior = self.story.prior(site, path)
                z = pyro.sample(site, prior)  # E x B x d_l
                path = self.story.below(site, path, z, prior)
            x = self.likelihood(self.story.image(path))  # E x B x H W C
            pyro.sample("x", x, obs=batch.get("x"))

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """Log p(x | z) - beta(t) sum_l KL_l (Section 2.3); by layer where they are faded in."""
        return ladder_training.bound(self.config, bound, "linear")

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """One stage, whose layers are faded in where that is asked for."""
        training = inference.Training(epochs=2000, batch_size=256, learning_rate=1e-3)
        return ladder_training.stages(self.objective(bound), self.fade, training)
