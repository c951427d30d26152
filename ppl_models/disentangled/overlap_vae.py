"""A VAE under the overlap loss: errors of blurred images, so that near images are near.

Story   z ~ N(0, I)   x | z ~ N(dec(z), sigma^2 / 2)
Guide   q(z | x) = N(mu(x), diag sigma(x)^2), reparameterised
Paper   Michlo, Klein, James. Overlooked Implications of the Reconstruction Loss for VAE
        Disentanglement. IJCAI 2023, arXiv 2202.13341
Shapes  E particle dimensions on the left, B rows, D code, H W C pixels
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro
import pyro.distributions as dist

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import setting
from ppl_models.pair import Card, Pair
from ppl_models.parts import image_code


@dataclass(frozen=True)
class OverlapVAEConfig(image_code.StandardUnitsConfig):
    """Networks and weights for XYSquares. Losses are sums over the pixels and the code.

    The paper's beta weighs means: ours is its beta times H W C / D, and its 0.0316 our 15.53.
    """

    shape: tuple[int, ...] = setting((64, 64, 3), "H, W, C of x; 1, 1, D: vector", shape_from="x")
    latent: int = setting(25, "D, size of z", minimum=2)
    centre: float = setting(0.015625, "mean of the numbers of x")
    deviation: float = setting(0.1240347, "sigma, their standard deviation", minimum=1e-6)
    beta: float = setting(15.53, "beta H W C / D, weight of the KL in sums", minimum=0)
    radius: int = setting(31, "pixels of the blur on each side, (side - 1) / 2", minimum=0)
    overlap: float = setting(3969.0, "w2, weight of the blurred error; 0: the VAE", minimum=0)


class OverlapVAE(Pair):
    """A VAE under a squared error that also counts after a wide blur."""

    Config = OverlapVAEConfig
    config: OverlapVAEConfig
    card = Card(
        name="overlap_vae",
        title="Overlooked Implications of the Reconstruction Loss for VAE Disentanglement",
        authors="Nathan Michlo, Richard Klein, Steven James",
        year=2023,
        arxiv="2202.13341",
        task="codes in the order of the factors where pixels do not tell it",
        data={"x": "image (H W C, flat)"},
        latents={"z": "code (D)"},
        objectives=("elbo", "iwelbo"),
        departs=(
            "x stays as it is, and errors count in units of its deviation, which is the same loss "
            "as that of standardised images; all channels have one mean and deviation",
            "the blur is two products with banded matrices, equal to the convolution of 63 x 63 "
            "with zeros outside",
            "the Ada-GVAE half of the paper, which is trained on pairs, is left out",
            "number of steps and rate of the study by Locatello et al. 2019",
        ),
        limits=(
            "with the blurred error the density of x is known up to a constant alone: bounds "
            "compare within one loss",
            "the weight is for a kernel of (2 radius + 1)^2 numbers and goes with its size",
            "an order comes back where objects move; other factors need another loss",
        ),
        picture="codes of one square's 64 places, without and with the overlap loss, and the "
        "distances that each loss perceives along a factor",
    )

    def __init__(self, config: OverlapVAEConfig) -> None:
        super().__init__(config)
        self.decoder = image_code.images(config)
        size = math.prod(config.shape)
        net = image_code.standard_encoder(config, 2 * config.latent)
        self.guide = guides.Factored(z=guides.Normal(config.latent, {"x": size}, net=net))

    def model(self, batch: Batch) -> None:
        """p(z) p(x | z)."""
        c, zero = self.config, self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))  # E x B x D
            loc = c.centre + c.deviation * self.decoder(z=z)  # E x B x H W C
            x = dist.Normal(loc, c.deviation / math.sqrt(2)).to_event(1)
            pyro.sample("x", x, obs=batch.get("x"))

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """Minus squared errors as they are and blurred, minus beta KL."""
        c = self.config
        weight = c.overlap / c.deviation**2
        blurred = inference.BlurredError("x", c.shape, c.radius, weight)
        return (bound or inference.ELBO(kl="analytic", beta=c.beta)) + blurred

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """The study's 300,000 steps."""
        return (inference.Stage(self.objective(bound), training=image_code.STUDY_TRAINING),)
