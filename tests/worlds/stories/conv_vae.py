"""A class and a style explain an image: convolutions between images and numbers.

Story   y ~ Cat(1/C)   z ~ N(0, I)   x | y, z ~ p(dec(y, z))
Guide   q(y | maps(x)), exact sum   q(z | maps(x), y) = N(mu, diag sigma^2), reparameterised
Paper   Kingma, Rezende, Mohamed, Welling. Semi-supervised Learning with Deep Generative Models.
        NIPS 2014, arXiv 1406.5298; networks after Locatello et al., arXiv 1811.12359
Shapes  E enumeration and particle dimensions on the left, B rows, D = H W C pixels, L style
"""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist

from ppl_models import Batch, Card, Config, Pair, guides, setting
from ppl_models.image_networks import (
    STUDY,
    conv_decoder,
    conv_encoder,
    residual_decoder,
    residual_encoder,
)
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.networks import Label

NETWORKS = {
    "conv": (conv_encoder, conv_decoder),
    "residual": (residual_encoder, residual_decoder),
}


@dataclass(frozen=True)
class ConvVAEConfig(Config):
    """Settings."""

    shape: tuple[int, ...] = setting((64, 64, 1), "H, W, C of x", shape_from="x")
    classes: int = setting(10, "C, number of labels", from_data="y", minimum=2)
    latent: int = setting(10, "L, size of z", minimum=1)
    channels: tuple[int, ...] = setting(STUDY, "maps of each layer", minimum=1)
    hidden: tuple[int, ...] = setting((256,), "units of each dense layer", minimum=1)
    features: int = setting(64, "numbers that the image is seen as", minimum=1)
    networks: str = setting("conv", "kind of the networks", choices=NETWORKS)
    likelihood: str = setting("soft_bernoulli", "p(x | y, z)", choices=LIKELIHOODS)


class ConvVAE(Pair):
    """M2 on images; both factors of its guide share the maps."""

    Config = ConvVAEConfig
    config: ConvVAEConfig
    card = Card(
        name="conv_vae",
        title="Semi-supervised Learning with Deep Generative Models",
        authors="Diederik P. Kingma, Danilo J. Rezende, Shakir Mohamed, Max Welling",
        year=2014,
        arxiv="1406.5298",
        task="semi-supervised classification of images",
        data={"x": "image (D)"},
        latents={"y": "class (C)", "z": "style (L)"},
        labels=("y",),
        objectives=("enumerated", "iwelbo"),
    )

    def __init__(self, config: ConvVAEConfig) -> None:
        super().__init__(config)
        C, L, F = config.classes, config.latent, config.features
        self.likelihood = LIKELIHOODS[config.likelihood]
        encoder, decoder = NETWORKS[config.networks]
        sizes = {"channels": config.channels, "hidden": config.hidden}
        each = self.likelihood.outputs
        self.decoder = decoder({"y": Label(C), "z": L}, config.shape, each=each, **sizes)
        self.guide = guides.Factored(
            {"maps": encoder(config.shape, F, **sizes)},
            y=guides.Categorical(C, {"maps": F}),
            z=guides.Normal(L, {"maps": F, "y": Label(C)}, config.hidden),
        )

    def model(self, batch: Batch) -> None:
        """p(y) p(z) p(x | y, z)."""
        zero = self.like().new_zeros(self.config.latent)
        even = self.like().new_zeros(self.config.classes)
        with self.plate(batch):
            y = pyro.sample("y", dist.Categorical(logits=even), obs=batch.get("y"))  # E x B
            z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))  # E x B x L
            x = self.likelihood(self.decoder(y=y, z=z))  # E x B x D
            pyro.sample("x", x, obs=batch.get("x"))
