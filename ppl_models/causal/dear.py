"""DEAR: a code whose factors cause one another, learnt with few labels and by a critic.

Story   z_1, ..., z_m ~ a linear SCM   z_rest ~ N(0, I)   x = G(z), which nothing scores
Guide   q(z | x) = N(E(x)), all factors and the rest from one encoder
Paper   Shen, Liu, Dong, Lian, Chen, Zhang. JMLR 23(241), 2022, arXiv 2010.02637
Shapes  B rows, D = H W C numbers, m factors, R rest of the code
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

import pyro
import pyro.distributions as dist
from pyro import poutine

from ppl_models import inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.data.render.pendulum import NAMES
from ppl_models.inference import DensityRatio, Encoded, Generated, Stage, Training
from ppl_models.pair import Card, Pair
from ppl_models.parts.causal_code import PRIORS, CausalCode
from ppl_models.parts.code_networks import Maker, centred_reader, counting, joint_critic
from ppl_models.parts.taught_means import LOSSES, TaughtMeans

ARROWS = tuple(f"{cause}>{effect}" for cause in NAMES[:2] for effect in NAMES[2:])


@dataclass(frozen=True)
class DEARConfig(Config):
    """Settings of the pendulum experiment."""

    shape: tuple[int, ...] = setting((64, 64, 3), "H, W, C of x; 1, 1, D: vector", shape_from="x")
    factors: tuple[str, ...] = setting(NAMES, "labels by site, m of them; causes before effects")
    arrows: tuple[str, ...] = setting(ARROWS, "entries of A, 'cause>effect'; none for all")
    prior: str = setting("line", "f; independent: N(0, I), the baseline", choices=PRIORS)
    rest: int = setting(2, "k - m, code beside the factors", minimum=1)
    channels: tuple[int, ...] = setting((32, 64, 128, 256), "maps by layer; none: perceptrons")
    hidden: tuple[int, ...] = setting((512,), "units of each dense layer", minimum=1)
    sigma: float = setting(0.0, "deviation of x; 0: a generator and a game, no bound", minimum=0)
    labels: str = setting("ce", "cross-entropy or squared error", choices=LOSSES)
    low: tuple[float, ...] = setting((0.0, 48.0, 2.0, 2.02), "subtracted from the labels")
    span: tuple[float, ...] = setting((40.5, 40.5, 12.86, 12.4), "that they are divided by")
    supervision: float = setting(5.0, "lambda, weight of the labels", minimum=0)
    arrow_rate: float = setting(1e-3, "learning rate of A", minimum=0)
    outer_rate: float = setting(5e-5, "learning rate of f", minimum=0)
    critic_rate: float = setting(1e-4, "learning rate of the critic", minimum=0)


class DEAR(Pair):
    """Causes that move their effects in the picture."""

    Config = DEARConfig
    config: DEARConfig
    card = Card(
        name="dear",
        title="Weakly Supervised Disentangled Generative Causal Representation Learning",
        authors="Xinwei Shen, Furui Liu, Hanze Dong, Qing Lian, Zhitang Chen, Tong Zhang",
        year=2022,
        arxiv="2010.02637",
        task="causal codes with few labels, and pictures of interventions",
        data={"x": "image, 0 to 1, or vector (D)"},
        picture="pendulums as made when each factor is set: causes first, then effects",
        latents={**{f"z_{name}": name for name in NAMES}, "z_rest": "rest of the code (R)"},
        objectives=("elbo",),
        causes=tuple(f"z_{name}" for name in NAMES),
        density="none",
        departs=(
            "z_rest is the generator's only noise; f a rising line or spline; one betas for all",
            "no SAGAN, no ResNet-50; images: sum of heads, silu, x about its mean and begun as it",
        ),
        limits=("an order of causes is known; label `name` teaches q(z_name) and is no site",),
    )

    def __init__(self, config: DEARConfig) -> None:
        super().__init__(c := config)
        self.code = CausalCode(c.factors, c.arrows, c.prior, c.rest)
        sites = {name: f"z_{name}" for name in c.factors}
        self.taught = TaughtMeans(sites, c.labels, c.low, c.span)
        self.supports = self.taught.supports
        self.card = dataclasses.replace(
            self.card,
            latents={**{site: name for name, site in sites.items()}, "z_rest": "rest (R)"},
            causes=tuple(sites.values()),
            density="data" if c.sigma else "none",
        )
        self.generator = Maker(self.code.sizes, c.shape, c.channels, c.hidden)
        sees = centred_reader(c.shape, self.code.numbers, c.channels, c.hidden)
        self.guide = self.code.guide(sees)

    def model(self, batch: Batch) -> None:
        """p(z), and x."""
        sigma = self.config.sigma
        with self.plate(batch):
            made = self.generator(**self.code.sample(batch))  # B x D
            seen = dist.Normal(made, sigma).to_event(1) if sigma else dist.Delta(made, event_dim=1)
            with poutine.mask(mask=bool(sigma)):
                pyro.sample("x", seen, obs=batch.get("x"))

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The bound, and the labels."""
        taught = inference.Penalty("labels", self.taught, self.config.supervision)
        return (bound or inference.ELBO()) + taught

    def stages(self, bound: inference.Objective | None = None) -> tuple[Stage, ...]:
        """KL(q(x, z) | p(x, z)) as a game, and the labels; or the bound."""
        c = self.config
        rates = {"code.scm.weights": c.arrow_rate, "code.scm.mechanisms": c.outer_rate}
        steps = Training(epochs=1000, batch_size=128, learning_rate=5e-5, beta1=0.0, beta2=0.999)
        stage = partial(Stage, rates={} if c.prior == "independent" else rates, training=steps)
        if c.sigma or bound is not None:
            return (stage(self.objective(bound), start=counting(self)),)
        critic = joint_critic(c.shape, self.code.sizes, c.channels, c.hidden).to(self.like())
        points = Encoded("x", *self.code.sizes), Generated("x", *self.code.sizes)
        term, player = inference.density_ratio(critic, *points, learning_rate=c.critic_rate)
        game = self.objective(term + DensityRatio(critic, points[1], -1.0, tilt=(0.5, 2.0)))
        return (stage(game, "game", players=(player,), start=counting(self, critic)),)
