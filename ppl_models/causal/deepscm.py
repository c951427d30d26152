"""DeepSCM: a digit's causes and its picture, each with a noise that can be told from the data.

Story   t = f(e_t)   i = g(e_i; t)   z ~ N(0, I)   x = h(dec(z, t, i) + s u), all noises N(0, 1)
Guide   q(z | x, t, i) = N(mu, diag sigma^2); e_t, e_i and u by inverting f, g and h
Paper   Pawlowski, Castro, Glocker. Deep Structural Causal Models for Tractable Counterfactual
        Inference. NeurIPS 2020, arXiv 2006.06485
Shapes  E particle dimensions on the left, B rows, D = H W C pixels, L code
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
from torch import Tensor

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.image_networks import SMALL, conv_decoder, conv_encoder
from ppl_models.networks import Scalar
from ppl_models.pair import Card, Pair
from ppl_models.parts.digit_scm import GREY_LEVELS, LOG_THICKNESS, digit_scm
from ppl_models.parts.logit_pixels import dequantised, logit_pixels
from ppl_models.parts.scm_networks import Inner

CAUSES = {"thickness": Scalar(), "intensity": Scalar()}
STORIES = ("full", "conditional", "independent")


@dataclass(frozen=True)
class DeepSCMConfig(Config):
    """Settings of the paper's Morpho-MNIST."""

    shape: tuple[int, ...] = setting((28, 28, 1), "H, W, C of x", shape_from="x")
    story: str = setting("full", "others lack t -> i, independent also t, i -> x", choices=STORIES)
    latent: int = setting(16, "L, size of z", minimum=1)
    channels: tuple[int, ...] = setting(SMALL, "maps of each layer, decoder back", minimum=1)
    hidden: tuple[int, ...] = setting((100,), "units of the dense layers", minimum=1)
    log_variance: float = setting(-5.0, "2 log s, of a pixel's logit")
    log_thickness: tuple[float, ...] = setting(LOG_THICKNESS, "mean and deviation of log t")
    grey_levels: tuple[float, ...] = setting(GREY_LEVELS, "between which every i lies")
    particles: int = setting(4, "draws of z per row in training", minimum=1)
    flow_rate: float = setting(5e-3, "learning rate of the causes' mechanisms", minimum=0)


class DeepSCM(Pair):
    """Counterfactual pictures of digits, thicker or thinner, brighter or darker."""

    Config = DeepSCMConfig
    config: DeepSCMConfig
    card = Card(
        name="deepscm",
        title="Deep Structural Causal Models for Tractable Counterfactual Inference",
        authors="Nick Pawlowski, Daniel C. Castro, Ben Glocker",
        year=2020,
        arxiv="2006.06485",
        task="counterfactual images",
        data={"x": "image (D), 0 to 1", "thickness": "t, pixels", "intensity": "i, grey levels"},
        latents={"z": "what else the image shows (L)"},
        causes=("thickness", "intensity"),
        numbers=("thickness", "intensity"),
        objectives=("elbo", "iwelbo"),
        departs=(
            "no batch norm, and ReLU: every row is looked at alone",
            "the range of i and the units of t are settings, not read off the training rows",
            "networks see the logit of i in its range, as the mechanisms do",
        ),
        limits=(
            "the graph is given; pictures follow causes as far as training rows had them",
            "x has no mean in closed form: intervene gives the median of each pixel",
        ),
        picture="digits as they are, thinner, thicker, darker, brighter; without arrows into x",
    )

    def __init__(self, config: DeepSCMConfig) -> None:
        super().__init__(config)
        c = config
        self.scm = digit_scm(c.story == "full", c.log_thickness, c.grey_levels)
        self.seen = {} if c.story == "independent" else CAUSES
        maps, H = c.channels, c.hidden
        codes = {"z": c.latent, **self.seen}
        self.decoder = conv_decoder(codes, c.shape, channels=maps, hidden=H[::-1])
        self.pixels = logit_pixels()
        encoder = conv_encoder(c.shape, 2 * c.latent, channels=maps, hidden=H, given=self.seen)
        given = {"x": math.prod(c.shape), **self.seen}
        z = guides.Normal(c.latent, given, net=Inner(encoder, self.scm))
        self.guide = guides.Factored(z=z)

    def decode(self, z: Tensor, **causes: Tensor) -> dist.TorchDistribution:
        """p(x | z, t, i), of codes ``(..., L)`` and causes ``(...)`` in their units."""
        loc = self.decoder(z=z, **self.scm.inner(causes, self.seen))
        noise = dist.Normal(loc, math.exp(self.config.log_variance / 2)).to_event(1)
        return dist.TransformedDistribution(noise, [self.pixels()])

    def model(self, batch: Batch) -> None:
        """p(t) p(i | t) p(z) p(x | z, t, i)."""
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            causes = self.scm.sample(batch)  # B each
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))  # E x B x L
            pyro.sample("x", self.decode(z, **causes), obs=batch.get("x"))  # E x B x D

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """One, on dequantised images, in which the causes' mechanisms learn faster."""
        objective = self.objective(bound or inference.ELBO(self.config.particles))
        rates = {"scm": self.config.flow_rate}
        training = inference.Training(epochs=250, batch_size=256, learning_rate=1e-4)
        return (inference.Stage(objective, prepare=dequantised, rates=rates, training=training),)
