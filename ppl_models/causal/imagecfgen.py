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
from torch import Tensor, nn

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.image_networks import conv_decoder, conv_encoder
from ppl_models.inference import Encoded, Evaluation, Generated, Stage, Training
from ppl_models.networks import Net
from ppl_models.pair import Card, Pair
from ppl_models.parts.digit_scm import digit_scm
from ppl_models.parts.scm_networks import Inner


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
    turns: int = setting(1, "steps of the critic per step of the networks", minimum=1)


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
        data={
            "x": "image (D)",
            "y": "digit",
            "thickness": "of the stroke, pixels",
            "intensity": "of the stroke, grey levels",
        },
        latents={"z": "noise of the image (L)"},
        objectives=("elbo",),
        causes=("y", "thickness", "intensity"),
        density="none",
        departs=("no batch norm and no dropout: networks look at one row at a time",),
        limits=("causes and their graph are known, and every row has all causes",),
        picture="digits, reconstructed, and had they been of another thickness or intensity",
    )

    def __init__(self, config: ImageCFGenConfig) -> None:
        super().__init__(config)
        c, D = config, math.prod(config.shape)
        self.scm = digit_scm(classes=c.classes)
        self.causes: dict[str, int] = {n: m.size for n, m in self.scm.mechanisms.items()}
        given = {"z": c.latent, **self.causes}
        if c.channels:
            net: nn.Module = conv_decoder(
                given, c.shape, channels=c.channels, hidden=c.hidden, activation="silu"
            )
        else:
            net = Net(given, c.hidden, D, "silu")
        self.generator = Inner(net, self.scm)
        sees, encoder = {"x": D, **self.causes}, self.reader(2 * c.latent)
        self.guide = guides.Factored(z=guides.Normal(c.latent, sees, net=encoder))

    def reader(self, outputs: int, **given: int) -> Inner:
        """A network of an image, its causes and more: the encoder, and the critic."""
        c, given = self.config, {**given, **self.causes}
        if not c.channels:
            sizes = {"x": math.prod(c.shape), **given}
            return Inner(Net(sizes, c.hidden, outputs, "silu"), self.scm)
        options = {"channels": c.channels, "kernels": (4,), "hidden": c.hidden}
        net = conv_encoder(c.shape, outputs, **options, activation="silu", given=given)
        return Inner(net, self.scm)

    def decode(self, z: Tensor, **causes: Tensor) -> Tensor:
        """G(z, causes) ``(..., D)``, from 0 to 1."""
        made: Tensor = self.generator(z=z, **causes).sigmoid()
        return made

    def model(self, batch: Batch) -> None:
        """p(causes) p(z), and x."""
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            causes = self.scm.sample(batch)  # each B
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))  # B x L
            made = dist.Delta(self.decode(z, **causes), event_dim=1)  # B x D
            pyro.sample("x", made.mask(False), obs=batch.get("x"))

    def cycle(self, run: Evaluation) -> Tensor:
        """|x - G(E(x))|_1 + |z - E(G(z))|^2 per row, both at the row's causes."""
        x, found, *_ = Encoded("x", "z")(run)
        made, z = Generated("x", "z", given=tuple(self.causes))(run)
        causes = {name: run.batch[name] for name in self.causes}
        again = self.guide.factor("z", {"x": made, **causes}).rsample()
        off = (x - self.decode(found, **causes)).abs().sum(-1)
        return off + (z - again).square().sum(-1)

    def stages(self, bound: inference.Objective | None = None) -> tuple[Stage, ...]:
        """The SCM by maximum likelihood; the game, at the rows' causes; the encoder alone."""
        c = self.config
        game = Training(epochs=200, batch_size=64, learning_rate=1e-4, beta1=0.5)
        sites, critic = ("x", "z", *self.causes), self.reader(1, z=c.latent)
        made = Generated(*sites, given=tuple(self.causes))
        term, player = inference.swapped_labels(critic, Encoded(*sites), made, steps=c.turns)
        images = ("generator", "guide")
        fast = Training(epochs=20, batch_size=100, learning_rate=1e-2)
        return (
            Stage(self.objective(bound), "causes", freeze=images, training=fast),
            Stage(term, "game", freeze=("scm",), players=(player,), training=game),
            Stage(
                inference.Penalty("cycle", self.cycle),
                "encoder",
                freeze=("scm", "generator"),
                training=Training(epochs=20, batch_size=64, learning_rate=1e-4),
            ),
        )
