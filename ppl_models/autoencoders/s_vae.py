"""S-VAE: codes are directions, whose prior is uniform on a sphere.

Story   z ~ Uniform(S^(m-1))   x | z ~ p(dec(z))
Guide   q(z | x) = vMF(mu(x), kappa(x)), reparameterised
Paper   Davidson, Falorsi, De Cao, Kipf, Tomczak. Hyperspherical Variational Auto-Encoders.
        UAI 2018, arXiv 1804.00891
Shapes  E particle dimensions on the left, B rows, M numbers of a code, H W C pixels
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro
import torch

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import setting
from ppl_models.guides.spherical import CONCENTRATIONS
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.pair import Card, Pair
from ppl_models.parts import image_code
from ppl_models.spherical import HypersphericalUniform


@dataclass(frozen=True)
class SVAEConfig(image_code.ImageCodeConfig):
    """Settings of the paper's MNIST experiment, at its d = 10."""

    shape: tuple[int, ...] = setting((28, 28, 1), "H, W, C of x; 1, 1, D: vector", shape_from="x")
    latent: int = setting(11, "m, numbers of z; the paper's d is m - 1", minimum=2)
    networks: str = setting(
        "dense", "dense, or convolutional as the study's", choices=image_code.NETWORKS
    )
    hidden: tuple[int, ...] = setting((256, 128), "units of the encoder's layers", minimum=1)
    binarise: bool = setting(True, "soft_bernoulli: pixels are drawn as 0 or 1 at each look")
    concentration: str = setting(
        "softplus", "kappa - 1 of a network's number", choices=tuple(CONCENTRATIONS)
    )
    kl_warmup: float = setting(
        0.2, "share of training in which KL's weight goes 0 to 1", minimum=0
    )


class SVAE(Pair):
    """A VAE with a von Mises-Fisher posterior and the uniform prior on a sphere."""

    Config = SVAEConfig
    config: SVAEConfig
    card = Card(
        name="s_vae",
        title="Hyperspherical Variational Auto-Encoders",
        authors="Tim R. Davidson, Luca Falorsi, Nicola De Cao, Thomas Kipf, Jakub M. Tomczak",
        year=2018,
        arxiv="1804.00891",
        task="directions as codes",
        data={"x": "image (H W C, flat) or data vector"},
        latents={"z": "direction (M)"},
        objectives=("elbo", "iwelbo"),
        departs=(
            "gradients of draws are those of implicit reparameterisation, without the bias of a "
            "rejection sampler's accepted proposals and without the paper's correction term",
            "draws invert the distribution function: no proposal is rejected",
            "no early stopping, which would compare losses under growing weights of the KL",
            "no graphs: the paper's link prediction is left out, and so is M1+M2 on spheres",
        ),
        limits=(
            "one concentration for all directions, against a variance for each number of a "
            "Normal: from about 20 dimensions on the normal VAE is the better one",
            "a sharp likelihood wants a concentration in the thousands, which softplus reaches "
            "slowly: `concentration=exp`",
        ),
        picture="digits on the sphere by class, beside the normal VAE's plane; and what the "
        "prior of either draws of a circle",
    )

    def __init__(self, config: SVAEConfig) -> None:
        super().__init__(c := config)
        self.likelihood = LIKELIHOODS[c.likelihood]
        self.decoder = image_code.decoder(c)
        net = image_code.encoder(c, c.latent + 1)
        given = {"x": math.prod(c.shape)}
        self.guide = guides.Factored(
            z=guides.VonMisesFisher(c.latent, given, net=net, concentration=c.concentration)
        )

    def model(self, batch: Batch) -> None:
        """p(z) p(x | z)."""
        prior = HypersphericalUniform(self.config.latent, self.like())
        with self.plate(batch):
            z = pyro.sample("z", prior, obs=batch.get("z"))  # E x B x M
            x = self.likelihood(self.decoder(z=z))  # E x B x H W C
            pyro.sample("x", x, obs=batch.get("x"))

    def binarised(self, batch: Batch) -> Batch:
        """The rows with each pixel drawn as 0 or 1."""
        return batch.replace({**batch, "x": torch.bernoulli(batch["x"])})

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """Log p(x | z) - KL(q || p), which depends on kappa alone (eq. 14)."""
        c = self.config
        beta = inference.Anneal(0.0, 1.0, 0.0, c.kl_warmup) if c.kl_warmup else 1.0
        return image_code.bound(c, bound, beta)

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """500 passes, of which the KL's weight grows in 100."""
        c = self.config
        drawn = c.binarise and c.likelihood == "soft_bernoulli"
        steps = inference.Training(epochs=500, batch_size=64)
        prepare = self.binarised if drawn else None
        return (inference.Stage(self.objective(bound), prepare=prepare, training=steps),)
