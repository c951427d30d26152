"""ImageCFGen: images made of known causes and noise, by networks that a critic trains.

Story   causes ~ their SCM   z ~ N(0, I)   x = G(z, causes), which nothing scores
Guide   q(z | x, causes) = N(E(x, causes))
Paper   Dash, Balasubramanian, Sharma. arXiv 2009.08270
Shapes  B rows, D = H W C pixels, L noise
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
from pyro import poutine
from torch import Tensor, sigmoid

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.inference import Encoded, Evaluation, Generated, Stage, Training
from ppl_models.pair import Card, Pair
from ppl_models.parts.digit_scm import digit_scm
from ppl_models.parts.scm_networks import image_critic, image_maker, image_reader, sizes_of

UNITS = {"thickness": "pixels", "intensity": "grey levels"}


@dataclass(frozen=True)
class ImageCFGenConfig(Config):
    """Settings of the Morpho-MNIST experiment."""

    shape: tuple[int, ...] = setting((28, 28, 1), "H, W, C of x", shape_from="x")
    classes: int = setting(10, "classes of y", from_data="y", minimum=2)
    latent: int = setting(512, "L, size of z", minimum=1)
    channels: tuple[int, ...] = setting(
        (64, 128, 256, 512), "maps of each layer; none for perceptrons", minimum=1
    )
    hidden: tuple[int, ...] = setting((512,), "units of each dense layer", minimum=1)
    critic: tuple[int, ...] = setting((1024, 1024), "units of the critic's dense ones", minimum=1)
    turns: int = setting(1, "steps of the critic per step of the networks", minimum=1)
    critic_rate: float = setting(3e-4, "learning rate of the critic", minimum=0)


class ImageCFGen(Pair):
    """An image of causes and noise, whose counterfactuals need no likelihood of pixels."""

    Config = ImageCFGenConfig
    config: ImageCFGenConfig
    card = Card(
        name="imagecfgen",
        title="Evaluating and Mitigating Bias in Image Classifiers: A Causal Perspective "
        "Using Counterfactuals",
        authors="Saloni Dash, Vineeth N Balasubramanian, Amit Sharma",
        year=2022,
        arxiv="2009.08270",
        task="counterfactual images, and the bias of classifiers",
        data={"x": "image (D), 0 to 1", "y": "digit", **UNITS},
        latents={"z": "noise of the image (L)"},
        objectives=("elbo",),
        causes=("y", *UNITS),
        numbers=tuple(UNITS),
        density="none",
        departs=(
            "no batch norm, no dropout; the critic has three heads, as DEAR's, and learns faster",
            "the digit is a cause of the intensity, too, as bright_digits needs it",
        ),
        limits=("the graph is given", "what the game leaves untaught of the causes, z takes up"),
        picture="digits, rebuilt, and had their causes been others",
    )

    def __init__(self, config: ImageCFGenConfig) -> None:
        super().__init__(config)
        c, D, L = config, math.prod(config.shape), config.latent
        self.scm = digit_scm(classes=c.classes)
        self.generator = image_maker(self.scm, c.shape, c.channels, c.hidden, z=L)
        encoder = image_reader(self.scm, c.shape, 2 * L, c.channels, c.hidden)
        sees = {"x": D, **sizes_of(self.scm)}
        self.guide = guides.Factored(z=guides.Normal(L, sees, net=encoder))

    def make(self, z: Tensor, **causes: Tensor) -> Tensor:
        """G(z, causes) ``(..., D)``, from 0 to 1."""
        return sigmoid(self.generator(z=z, **causes))

    def model(self, batch: Batch) -> None:
        """p(causes) p(z), and x."""
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            causes = self.scm.sample(batch)  # each B
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))  # B x L
            with poutine.mask(mask=False):
                made = dist.Delta(self.make(z, **causes), event_dim=1)  # B x D
                pyro.sample("x", made, obs=batch.get("x"))

    def cycle(self, run: Evaluation) -> Tensor:
        """|x - G(E(x))|_1 + |z - E(G(z))|^2 per row, in expectation, at the row's causes."""
        causes = dict(run.batch.only(*self.card.causes))
        code, (made, z) = run.codes("z").only("cycle"), Generated("x", "z", given=(*causes,))(run)
        again = self.guide.factor("z", {"x": made, **causes})
        off = (run.batch["x"] - self.make(code, **causes)).abs().sum(-1)
        return off.add(((z - again.mean).square() + again.variance).sum(-1))

    def stages(self, bound: inference.Objective | None = None) -> tuple[Stage, ...]:
        """The SCM by maximum likelihood; the game, at the rows' causes; the encoder alone."""
        c, causes = self.config, self.card.causes
        critic = image_critic(self.scm, c.shape, c.channels, c.critic, z=c.latent)
        points = Encoded("x", "z", *causes), Generated("x", "z", *causes, given=causes)
        term, player = inference.swapped_labels(
            critic.to(self.like()), *points, steps=c.turns, learning_rate=c.critic_rate
        )
        cycled = inference.Penalty("cycle", self.cycle)
        first = Training(epochs=20, learning_rate=1e-2)
        game = Training(epochs=200, batch_size=64, learning_rate=1e-4, beta1=0.5)
        cycle = Training(epochs=20, batch_size=64, learning_rate=1e-4)
        return (
            Stage(self.objective(bound), "causes", freeze=("generator", "guide"), training=first),
            Stage(term, "game", freeze=("scm",), players=(player,), training=game),
            Stage(cycled, "encoder", freeze=("scm", "generator"), training=cycle),
        )
