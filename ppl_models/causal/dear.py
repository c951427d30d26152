"""DEAR: a code whose factors cause one another, learnt with few labels and by a critic.

Story   z_1, ..., z_m ~ a linear SCM   z_rest ~ N(0, I)   x = G(z), which nothing scores
Guide   q(z | x) = N(E(x)), all factors and the rest from one encoder
Paper   Shen, Liu, Dong, Lian, Chen, Zhang. JMLR 23(241), 2022, arXiv 2010.02637
Shapes  B rows, D = H W C numbers, m factors
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
from pyro import poutine
from torch import Tensor, nn
from torch.nn import functional

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.image_networks import conv_decoder, conv_encoder
from ppl_models.inference import DensityRatio, Encoded, Evaluation, Generated, Stage, Training
from ppl_models.networks import Net, Part, Scalar
from ppl_models.pair import Card, Pair
from ppl_models.parts.joint_critic import JointCritic
from ppl_models.parts.linear_scm import LinearSCM
from ppl_models.parts.mechanisms import Curve, Line, Mechanism
from ppl_models.parts.scm import SCM


@dataclass(frozen=True)
class DEARConfig(Config):
    """Settings of the pendulum experiment."""

    shape: tuple[int, ...] = setting(
        (64, 64, 3), "H, W, C of x; (1, 1, D) for a vector", shape_from="x"
    )
    factors: tuple[str, ...] = setting(
        ("pendulum_angle", "light_angle", "shadow_length", "shadow_position"),
        "the m sites of labels; causes before effects",
    )
    arrows: tuple[str, ...] = setting(
        (
            "pendulum_angle>shadow_length",
            "pendulum_angle>shadow_position",
            "light_angle>shadow_length",
            "light_angle>shadow_position",
        ),
        "that there may be, 'cause>effect'; none for all from earlier to later factors",
    )
    prior: str = setting(
        "line",
        "the SCM's increasing functions f; independent: N(0, I) in its place, the baseline",
        choices=("line", "curve", "independent"),
    )
    rest: int = setting(2, "k - m, size of the code beside the factors", minimum=1)
    channels: tuple[int, ...] = setting(
        (32, 64, 128, 256), "maps of each layer; none for perceptrons, whose x has no bounds"
    )
    hidden: tuple[int, ...] = setting((512,), "units of each dense layer", minimum=1)
    likelihood: str = setting(
        "none", "none: the game; normal: a bound in its place", choices=("none", "normal")
    )
    sigma: float = setting(0.1, "deviation of x with likelihood=normal", minimum=1e-6)
    labels: str = setting(
        "ce", "ce: cross-entropy; l2: squared error of E's means", choices=("ce", "l2")
    )
    low: tuple[float, ...] = setting((0.0, 48.0, 2.0, 2.02), "subtracted from the labels")
    span: tuple[float, ...] = setting((40.5, 40.5, 12.86, 12.4), "by which they are divided")
    supervision: float = setting(5.0, "lambda, weight of the labels", minimum=0)
    rate_arrows: float = setting(1e-3, "learning rate of A", minimum=0)
    rate_outer: float = setting(5e-5, "learning rate of f", minimum=0)
    rate_critic: float = setting(1e-4, "learning rate of the critic", minimum=0)

    def __post_init__(self) -> None:
        """Check the numbers of entries, too."""
        super().__post_init__()
        for name in ("low", "span"):
            count = len(getattr(self, name))
            if count != len(self.factors):
                raise ValueError(
                    f"{name} has {count} numbers, expected {len(self.factors)}, one per factor"
                )


class DEAR(Pair):
    """Causes that move their effects in the picture, learnt with few labels."""

    Config = DEARConfig
    config: DEARConfig
    card = Card(
        name="dear",
        title="Weakly Supervised Disentangled Generative Causal Representation Learning",
        authors="Xinwei Shen, Furui Liu, Hanze Dong, Qing Lian, Zhitang Chen, Tong Zhang",
        year=2022,
        arxiv="2010.02637",
        task="causal codes, and pictures of interventions",
        data={"x": "image or vector (D)"},
        latents={"z_rest": "code beside the factors"},
        objectives=("elbo",),
        density="none",
        departs=(
            "no further noise in the generator: z_rest is its noise",
            "plain convolutions in place of SAGAN and ResNet-50; A has the betas of the others",
            "f is a line with a positive slope or a rational-quadratic spline",
        ),
        limits=(
            "the order of the factors, and a graph that has all arrows, are known",
            "labels of a row teach the mean of q(z | x); they are no sites of the story",
        ),
        picture="pendulums as decoded when a cause, or an effect, is set",
    )

    def __init__(self, config: DEARConfig) -> None:
        super().__init__(config)
        c, m, D = config, len(config.factors), math.prod(config.shape)
        sites = {f"z_{name}": name for name in c.factors}
        self.card = dataclasses.replace(
            self.card,
            latents={**sites, **type(self).card.latents},
            causes=tuple(sites),
            density="none" if c.likelihood == "none" else "data",
        )
        if c.prior == "independent":
            self.scm = SCM(**{site: Mechanism({}) for site in sites})
        else:
            ends = [arrow.partition(">")[::2] for arrow in c.arrows]
            parents = {f"z_{n}": [f"z_{a}" for a, b in ends if b == n] for _, n in ends}
            self.scm = LinearSCM(sites, parents or None, Line if c.prior == "line" else Curve)
        self.sizes = {**dict.fromkeys(sites, Scalar()), "z_rest": c.rest}
        self.generator: nn.Module = (
            conv_decoder(self.sizes, c.shape, channels=c.channels, hidden=c.hidden)
            if c.channels
            else Net(self.sizes, c.hidden, D, "relu")
        )
        numbers = {"numbers": 2 * (m + c.rest)}
        heads = {
            site: guides.Normal(Scalar(), numbers, net=Part(2 * place, 2))
            for place, site in enumerate(sites)
        }
        heads["z_rest"] = guides.Normal(c.rest, numbers, net=Part(2 * m, 2 * c.rest))
        self.guide = guides.Factored({"numbers": self.reader(*numbers.values())}, **heads)

    def reader(self, outputs: int) -> nn.Module:
        """A network of x: the encoder, and what the critic sees of x."""
        c = self.config
        if not c.channels:
            return Net({"x": math.prod(c.shape)}, c.hidden, outputs, "relu")
        return conv_encoder(c.shape, outputs, channels=c.channels, kernels=(4,), hidden=c.hidden)

    def make(self, **z: Tensor) -> Tensor:
        """G(z) ``(..., D)``; of images from 0 to 1."""
        made: Tensor = self.generator(**z)
        return made.sigmoid() if self.config.channels else made

    def model(self, batch: Batch) -> None:
        """p(z), and x."""
        c, zero = self.config, self.like().new_zeros(self.config.rest)
        with self.plate(batch):
            z = self.scm.sample(batch)  # each B
            z["z_rest"] = pyro.sample("z_rest", dist.Normal(zero, 1.0).to_event(1))  # B x (k - m)
            made = self.make(**z)  # B x D
            if c.likelihood == "normal":
                seen: dist.TorchDistribution = dist.Normal(made, c.sigma).to_event(1)
            else:
                seen = dist.Delta(made, event_dim=1)
            with poutine.mask(mask=c.likelihood == "normal"):
                pyro.sample("x", seen, obs=batch.get("x"))

    def taught(self, run: Evaluation) -> Tensor:
        """The loss of E's means at the labels of the rows, as a mean over those that have it."""
        c, loss = self.config, self.like().new_zeros(run.batch.count)
        loss_of = {"ce": functional.binary_cross_entropy_with_logits, "l2": functional.mse_loss}
        for name, low, span in zip(c.factors, c.low, c.span, strict=True):
            if name in run.batch:
                codes, label = run.codes(f"z_{name}"), (run.batch[name] - low) / span
                mean = codes.mean(codes.by_draw(codes.q.mean))
                share = run.batch.total / run.batch.observed[name] / len(c.factors)
                loss = loss + share * loss_of[c.labels](mean, label, reduction="none")
        return loss

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The bound, and the labels."""
        taught = inference.Penalty("labels", self.taught, self.config.supervision)
        return (bound or inference.ELBO()) + taught

    def stages(self, bound: inference.Objective | None = None) -> tuple[Stage, ...]:
        """KL(q(x, z) | p(x, z)) as a game, and the labels."""
        c = self.config
        rates = {"scm.weights": c.rate_arrows, "scm.mechanisms": c.rate_outer}
        options = {
            "rates": {} if c.prior == "independent" else rates,
            "training": Training(
                epochs=1000, batch_size=128, learning_rate=5e-5, beta1=0.0, beta2=0.999
            ),
        }
        if c.likelihood == "normal" or bound is not None:
            return (Stage(self.objective(bound), **options),)
        features, sites = c.hidden[-1], ("x", *self.sizes)
        critic = JointCritic(self.reader(features), features, self.sizes, c.hidden)
        encoded, made = Encoded(*sites), Generated(*sites)
        term, player = inference.density_ratio(
            critic.to(self.like()), encoded, made, learning_rate=c.rate_critic
        )
        tilted = DensityRatio(critic, made, -1.0, tilt=(0.5, 2.0))
        taught = inference.Penalty("labels", self.taught, c.supervision)
        return (Stage(term + tilted + taught, "game", players=(player,), **options),)
