"""VLAE: independent codes of which each enters the decoder at its own depth.

Story   z_l ~ N(0, I), l = 1 .. L   h_L = f_L(z_L)   h_l = f_l(h_l+1, v_l(z_l))
        x | z ~ p(f_0(h_1)), so that z_L passes most layers and z_1 fewest
Guide   q(z_l | x) = N(mu_l(g_l-1), sigma_l(g_l-1)^2)   g_0 = x   g_l = t_l(g_l-1)
        of z_L at the topmost g
Paper   Zhao, Song, Ermon. Learning Hierarchical Features from Deep Generative Models. ICML 2017
Shapes  E particle dimensions on the left, B rows, d_l code, H W C pixels
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyro
import pyro.distributions as dist

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import setting
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.pair import Card, Pair
from ppl_models.parts import ladder_training
from ppl_models.parts.ladder_networks import Decoder, Faded, Levels, Moments, trunk

SCALES = (1e-3, 1 + 1e-3)  # hardly any posterior is wider than the prior


@dataclass(frozen=True)
class VLAEConfig(ladder_training.LadderConfig):
    """Settings of the paper's code for MNIST."""

    gamma: float = setting(1.0, "with fade_in, weight of a layer's KL before its turn", minimum=0)


class VLAE(Pair):
    """The hierarchy is in the network, not in the prior."""

    Config = VLAEConfig
    config: VLAEConfig
    card = Card(
        name="vlae",
        title="Learning Hierarchical Features from Deep Generative Models",
        authors="Shengjia Zhao, Jiaming Song, Stefano Ermon",
        year=2017,
        arxiv="1702.08396",
        task="a hierarchy of codes without supervision",
        data={"x": "image (H W C, flat)"},
        latents={},
        objectives=("elbo", "iwelbo"),
        departs=(
            "group and layer norm in place of batch norm, ReLU for leaky ReLU, weights of torch",
            "of MNIST 64, 128 and 256 maps, in place of 64, 128 and a dense layer; between maps "
            "and codes 1024 units once, not twice",
            "the warm-up 1 - exp(-t / 2000) is divided by its value at t = 10,000 (0.993), and "
            "is 1 from there on",
            "the Laplace density has scale 1 and counts 8 times in the bound, in place of scale "
            "1/8: gradients are the same",
            "maps of a code stand beside the path's; the code for MNIST adds them, times a learnt "
            "gate, as `networks=dense` does here",
            "neither the MMD in place of the KL nor noise on the encoder's input",
        ),
        limits=(
            "which layers are used hangs on the likelihood's weight: at 1 a bottom code may "
            "stay empty",
            "with the paper's batch norm layers part more clearly than with layer norm",
        ),
        picture="digits as one layer's code moves and the others stay",
    )

    def __init__(self, config: VLAEConfig) -> None:
        super().__init__(config)
        c, levels = config, Levels(config)
        self.card = replace(self.card, latents={z: f"code of layer {z[2:]}" for z in c.sites})
        self.likelihood = LIKELIHOODS[c.likelihood]
        self.fade = ladder_training.FadeIn(len(c.sites), c.fade_in)
        self.decoder = Decoder(c)
        factors = {}
        for layer, (site, size) in enumerate(zip(c.sites, c.latent, strict=True), 1):
            top = layer == len(c.sites)
            reads, to = 2 * (levels.top,) if top else (layer - 1, layer + 1)
            net = Moments(levels, reads, size, to)
            faded, given = Faded(net, self.fade, layer), dict.fromkeys(net.given, 1)
            factors[site] = guides.Normal(size, given, net=faded, scale=SCALES)
        self.guide = guides.Factored(trunk(levels), **factors)

    def model(self, batch: Batch) -> None:
        """p(z_1) .. p(z_L) p(x | z_1, .., z_L)."""
        codes = {}
        with self.plate(batch):
            for site, size in zip(self.config.sites, self.config.latent, strict=True):
                zero = self.like().new_zeros(size)
                prior = dist.Normal(zero, zero + 1).to_event(1)
                codes[site] = pyro.sample(site, prior)  # E x B x d_l
            x = self.likelihood(self.decoder(self.fade, codes))  # E x B x H W C
            pyro.sample("x", x, obs=batch.get("x"))

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """Log p(x | z) - c(t) sum_l KL_l; by layer where layers are faded in."""
        return ladder_training.bound(self.config, bound, "exponential", self.config.gamma)

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """One stage, whose layers are faded in where that is asked for."""
        training = inference.Training(batch_size=100, learning_rate=2e-4)
        return ladder_training.stages(self.objective(bound), self.fade, training)
