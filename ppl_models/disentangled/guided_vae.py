"""Guided-VAE: helpers that are gone after training tell the coordinates of a VAE's code apart.

Story   z ~ N(0, I)   x | z ~ p(dec(z))
Guide   q(z | x) = N(mu(x), diag sigma(x)^2), reparameterised
Paper   Ding, Xu, Xu, Parmar, Yang, Welling, Tu. CVPR 2020, arXiv 2004.01255
Shapes  E particle dimensions on the left, B rows, L code, H W C pixels
"""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
from torch.distributions import constraints

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import setting
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.pair import Card, Pair
from ppl_models.parts import image_code
from ppl_models.parts.attribute_game import attribute_game
from ppl_models.parts.light_decoder import COMPARED, LightDecoder, light_game


@dataclass(frozen=True)
class GuidedVAEConfig(image_code.ImageCodeConfig):
    """Settings of the paper's MNIST experiment, and of its attributes."""

    shape: tuple[int, ...] = setting((28, 28, 1), "H, W, C of x; 1, 1, D: vector", shape_from="x")
    latent: int = setting(10, "L, size of z", minimum=3)
    channels: tuple[int, ...] = setting((64, 128, 256), "maps of each layer", minimum=1)
    likelihood: str = setting("soft_bernoulli", "p(x | z)", choices=COMPARED)
    strategy: str = setting(
        "unsupervised",
        "a light decoder: z_0 scales, z_1 turns; or attributes: z_t tells the t-th",
        choices=("unsupervised", "supervised"),
    )
    light: float = setting(0.5, "weight of the light decoder's reconstruction", minimum=0)
    orthogonality: float = setting(1 / 64, "of its basis, beside a light row's loss", minimum=0)
    attributes: tuple[str, ...] = setting(("y",), "labels of 0 or 1, by site, z_0 of the first")
    excitation: float = setting(200.0, "w, of a label read off its own z_t", minimum=0)
    inhibition: float = setting(200.0, "w, of one that all others hide; 0: may tell", minimum=0)
    readers: tuple[int, ...] = setting((32, 32), "units of heads and adversaries", minimum=1)
    adversary_steps: int = setting(1, "steps of the adversaries to one of the pair", minimum=1)


class GuidedVAE(Pair):
    """A plain VAE whose training has company."""

    Config = GuidedVAEConfig
    config: GuidedVAEConfig
    card = Card(
        name="guided_vae",
        title="Guided Variational Autoencoder for Disentanglement Learning",
        authors="Zheng Ding, Yifan Xu, Weijian Xu, Gaurav Parmar, Yang Yang, Max Welling, "
        "Zhuowen Tu",
        year=2020,
        arxiv="2004.01255",
        task="coordinates that scale and turn, or that tell a known attribute",
        data={"x": "image (H W C, flat)"},
        latents={"z": "code (L)"},
        objectives=("elbo", "iwelbo"),
        departs=(
            "the study's convolutions; readers have ReLU, in place of leaky ReLU and batch norm",
            "light decoder and heads move on turns of their own, after the pair's, on fresh draws",
            "the pair learns in one step from its loss, its heads and the adversaries' confusion",
            "no weight decay but the adversaries'",
        ),
        limits=(
            "how well z_rest hides an attribute is told by a fresh network, not by the adversary",
            "attributes are 0 or 1; rows that lack them are left to the bound",
        ),
        picture="the first two coordinates moved, guided and plain, and the light decoder's basis",
    )

    def __init__(self, config: GuidedVAEConfig) -> None:
        super().__init__(c := config)
        self.places = {label: t for t, label in enumerate(c.attributes)}
        if not 0 < len(self.places) == len(c.attributes) < c.latent:
            raise ValueError(
                f"attributes are {c.attributes}, expected different labels, fewer than {c.latent}"
            )
        if c.strategy == "supervised":
            told = constraints.boolean, "an attribute that a coordinate of the code tells"
            self.supports = dict.fromkeys(c.attributes, told)
        self.likelihood = LIKELIHOODS[c.likelihood]
        self.decoder = image_code.decoder(c)
        self.guide = guides.Factored(z=image_code.posterior(c))

    def model(self, batch: Batch) -> None:
        """p(z) p(x | z)."""
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))  # E x B x L
            x = self.likelihood(self.decoder(z=z))  # E x B x H W C
            pyro.sample("x", x, obs=batch.get("x"))

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The bound, which the company's terms stand beside in training."""
        return image_code.bound(self.config, bound)

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """Pair and company, new at each call, for 128 passes."""
        c, sites = self.config, self.card.given
        players: tuple[inference.Player, ...]
        if c.strategy == "unsupervised":
            light = LightDecoder(c.latent, c.shape).to(self.like())
            term, player = light_game(light, c.likelihood, c.light, c.orthogonality)
            terms, players = term, (player,)
        else:
            terms, players = attribute_game(
                "z", c.latent, self.places, c.readers, c.excitation, c.inhibition, self.like(),
                steps=c.adversary_steps, weight_decay=1e-4 / (c.inhibition or 1),
            )  # fmt: skip
            sites += c.attributes
        training = inference.Training(epochs=128, batch_size=128, learning_rate=1e-4)
        objective = self.objective(bound) + terms
        return (inference.Stage(objective, sites=sites, players=players, training=training),)
