"""NashAE: an autoencoder none of whose codes can be told from the others.

Story   z_d ~ U(0, 1)   x | z ~ N(dec(z), sigma^2)
Guide   q(z | x) = sigmoid(enc(x)), with certainty
Paper   Yeats, Liu, Womble, Li. NashAE: Disentangling Representations through Adversarial
        Covariance Minimization. ECCV 2022, arXiv 2209.10677
Shapes  E particle dimensions on the left, B rows, D code, H W C numbers of x
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro
import pyro.distributions as dist

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import setting
from ppl_models.networks import ACTIVATIONS, lecun_normal
from ppl_models.pair import Card, Pair
from ppl_models.parts import image_code


@dataclass(frozen=True)
class NashAEConfig(image_code.StandardUnitsConfig):
    """Networks and game for Beamsynthesis."""

    shape: tuple[int, ...] = setting((1, 1000, 1), "H, W, C of x", shape_from="x")
    latent: int = setting(4, "D, size of z", minimum=2)
    networks: str = setting("dense", "dense or convolutional", choices=image_code.NETWORKS)
    hidden: tuple[int, ...] = setting((200, 80, 40), "units of each dense layer", minimum=1)
    activation: str = setting("selu", "between layers", choices=ACTIVATIONS)
    centre: float = setting(0.313, "mean of the numbers of x")
    deviation: float = setting(0.4275, "sigma, their standard deviation", minimum=1e-6)
    weight: float = setting(0.2, "lambda, share of the covariance; 0: the autoencoder", minimum=0)
    predictors: tuple[int, ...] = setting((40, 40), "units of each predictor", minimum=1)
    turns: int = setting(5, "steps of the predictors per step of the pair", minimum=1)
    predictor_rate: float = setting(1e-2, "learning rate of the predictors", minimum=0)

    def __post_init__(self) -> None:
        """Of the reconstruction something has to be left."""
        super().__post_init__()
        if not self.weight < 1:
            raise ValueError(f"weight is {self.weight}, expected a share in 0..1, below 1")


class NashAE(Pair):
    """An autoencoder against predictors of each code from the others."""

    Config = NashAEConfig
    config: NashAEConfig
    card = Card(
        name="nashae",
        title="NashAE: Disentangling Representations through Adversarial Covariance Minimization",
        authors="Eric Yeats, Frank Liu, David Womble, Hai Li",
        year=2022,
        arxiv="2209.10677",
        task="as many codes as the data have factors",
        data={"x": "signal or image (H W C, flat)"},
        latents={"z": "code (D), 0 to 1"},
        objectives=("elbo",),
        departs=(
            "the whole loss is divided by (1 - lambda) / (H W C): the bound counts once, and the "
            "covariance lambda H W C / (1 - lambda) times, which leaves Adam's steps as they are",
            "the pair moves first in a step and meets the predictors as the last batch left them",
            "Beamsynthesis is drawn anew, by a formula",
        ),
        limits=(
            "an autoencoder: there is no density of x; fit one to the codes to sample",
            "covariance with the best prediction is 0 where the conditional mean is constant, "
            "which is less than independence",
            "predictors that lag are exploited: the covariance, the column `predictability(z)`, "
            "falls below 0, and they want more turns",
        ),
        picture="codes of all signals by duty cycle and frequency, without and with the game",
    )

    def __init__(self, config: NashAEConfig) -> None:
        super().__init__(config)
        self.decoder = image_code.images(config)
        size, net = math.prod(config.shape), image_code.standard_encoder(config, config.latent)
        point = guides.Point(config.latent, {"x": size}, net=net, support="unit_interval")
        self.guide = guides.Factored(z=point)
        lecun_normal(self)

    def model(self, batch: Batch) -> None:
        """p(z) p(x | z)."""
        c, zero = self.config, self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            z = pyro.sample("z", dist.Uniform(zero, zero + 1).to_event(1))  # E x B x D
            loc = c.centre + c.deviation * self.decoder(z=z)  # E x B x H W C
            pyro.sample("x", dist.Normal(loc, c.deviation).to_event(1), obs=batch.get("x"))

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """The reconstruction and the covariance, against the predictors."""
        c = self.config
        predictors = inference.Predictors(c.latent, c.predictors).to(self.like())
        weight = c.weight * math.prod(c.shape) / (1 - c.weight)
        term, player = inference.predictors_of(
            predictors, "z", weight, steps=c.turns, learning_rate=c.predictor_rate
        )
        training = inference.Training(steps=1_000, batch_size=100, learning_rate=1e-3)
        objective = self.objective(bound) + term
        return (inference.Stage(objective, players=(player,), training=training),)
