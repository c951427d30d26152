"""CR-VAE: the encoder says the same of an image and of the image turned or moved a little.

Story   z ~ N(0, I)   x | z ~ p(dec(z))
Guide   q(z | x) = N(mu(x), diag sigma(x)^2), reparameterised; a view of x has the same encoder
Paper   Sinha, Dieng. Consistency Regularization for Variational Auto-Encoders. NeurIPS 2021,
        arXiv 2105.14859
Shapes  E particle dimensions on the left, B rows, D code, H W C pixels
"""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist

from ppl_models import data, guides, inference
from ppl_models.batch import Batch
from ppl_models.config import setting
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.pair import Card, Pair
from ppl_models.parts import image_code

GREY = ("soft_bernoulli", "continuous_bernoulli", "laplace", "normal")  # take the pixels of views


@dataclass(frozen=True)
class CRVAEConfig(image_code.ImageCodeConfig):
    """Networks for images of 64 x 64, lambda in nats, and the paper's simple views."""

    latent: int = setting(32, "D, size of z", minimum=2)
    likelihood: str = setting("soft_bernoulli", "p(x | z), of grey pixels", choices=GREY)
    beta: float = setting(1.0, "beta, weight of both KL(q(z|x) || p(z))", minimum=0)
    lam: float = setting(0.1, "lambda, weight of KL(q(z|view) || q(z|x))", minimum=0)
    degrees: float = setting(15.0, "most that a view is turned either way", minimum=0)
    shift: float = setting(0.05, "most that it is moved, share of each side", minimum=0)
    zoom: float = setting(0.1, "most that it is made larger or smaller, share", minimum=0)


class CRVAE(Pair):
    """A VAE of images and of views of them."""

    Config = CRVAEConfig
    config: CRVAEConfig
    card = Card(
        name="cr_vae",
        title="Consistency Regularization for Variational Auto-Encoders",
        authors="Samarth Sinha, Adji B. Dieng",
        year=2021,
        arxiv="2105.14859",
        task="codes that small moves of an image leave alone",
        data={"x": "image (H W C, flat)"},
        latents={"z": "code (D)"},
        objectives=("elbo", "iwelbo"),
        departs=(
            "convolutional networks of the study by Locatello et al. 2019 in place of those with "
            "batch norm, which would mix rows and views",
            "lambda weighs nats per image; the published 0.001 stands beside a mean over pixels "
            "and a sum over the batch, and is another number for every image size and batch",
            "the guide has a standard deviation, where the published code takes exp of what it "
            "calls the log variance for one in draws and gap, and for a variance in the KL",
        ),
        limits=(
            "views have grey pixels, also where images are black and white",
            "a code that tells nothing is perfectly consistent: look at what it tells, too",
            "lambda 0 trains on images and their views; with no turn, shift and zoom besides, the "
            "objective is that of the VAE",
        ),
        picture="Mean codes of fifteen test digits (stars) and of twelve random views of each, on "
        "the two first principal axes of all codes, a colour per digit: trained on images and "
        "views, without and with the penalty. Right: share of views that a linear probe of clean "
        "codes recognises, over their strength; mean over seeds",
    )

    def __init__(self, config: CRVAEConfig) -> None:
        super().__init__(config)
        self.likelihood = LIKELIHOODS[config.likelihood]
        self.decoder = image_code.decoder(config)
        self.guide = guides.Factored(z=image_code.posterior(config))

    def model(self, batch: Batch) -> None:
        """p(z) p(x | z)."""
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))  # E x B x D
            x = self.likelihood(self.decoder(z=z))  # E x B x H W C
            pyro.sample("x", x, obs=batch.get("x"))

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """L(x) + L(view) - lambda KL(q(z|view) || q(z|x)) (eq. 6), of the bound that is given."""
        c = self.config
        moved = c.degrees or c.shift or c.zoom
        view = data.Affine(c.degrees, c.shift, (1 / (1 + c.zoom), 1 + c.zoom))
        inner = image_code.bound(c, bound, c.beta)
        return inference.Consistency(inner, "x", (view,) if moved else (), c.shape, c.lam)
