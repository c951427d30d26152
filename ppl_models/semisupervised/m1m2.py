"""M1+M2: a class and a style explain a code, and the code explains the row.

Story   y ~ Cat(1/C)   z2 ~ N(0, I)   z1 | y, z2 ~ N(mu, diag sigma^2)   x | z1 ~ p(dec(z1))
Guide   q(z1 | x) q(y | z1) q(z2 | z1, y): y enumerated where it is missing
Paper   Kingma, Rezende, Mohamed, Welling. NIPS 2014, arXiv 1406.5298, Sections 2.3 and 4.1
Shapes  E enumeration and particles on the left, B rows, C classes, D data, L1 code, L2 style
"""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_models import guides, inference
from ppl_models.autoencoders.vae import VAE, VAEConfig
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.networks import Label, Net
from ppl_models.pair import Card, Pair
from ppl_models.parts.label_prior import LabelPrior, label_prior


@dataclass(frozen=True)
class M1M2Config(Config):
    """Settings of the paper's MNIST experiment with 100 labels."""

    data_dim: int = setting(784, "D, size of x", from_data="x", minimum=1)
    classes: int = setting(10, "C, number of labels", from_data="y", minimum=2)
    label_prior: str | tuple[float, ...] = label_prior()
    code: int = setting(50, "size of z1", minimum=1)
    latent: int = setting(50, "size of z2", minimum=1)
    hidden: tuple[int, ...] = setting((500, 500), "hidden units of M1", minimum=1)
    hidden_top: tuple[int, ...] = setting((300,), "hidden units of M2", minimum=1)
    likelihood: str = setting("soft_bernoulli", "p(x | z1)", choices=LIKELIHOODS)
    alpha: float = setting(0.1, "alpha, weight of log q(y | z1); N / N_lab inside", minimum=0)
    dead: float = setting(0.1, "codes whose mean varies less than this are dropped", minimum=0)
    warm_up: float = setting(0.0, "share of M1 over which its KL grows", minimum=0, added=True)


class M1M2(Pair):
    """The stack, trained greedily: M1 first, then M2 on fresh draws of its code."""

    Config = M1M2Config
    config: M1M2Config
    card = Card(
        name="m1m2",
        title="Semi-supervised Learning with Deep Generative Models",
        authors="Diederik P. Kingma, Danilo J. Rezende, Shakir Mohamed, Max Welling",
        year=2014,
        arxiv="1406.5298",
        task="semi-supervised classification, two stochastic layers",
        data={"x": "data vector (D)"},
        latents={"y": "class (C)", "z2": "style (L2)", "z1": "code (L1)"},
        labels=("y",),
        objectives=("enumerated", "iwelbo"),
        departs=("Adam with bias correction and epsilon", "PyTorch's start of weights, no prior"),
        limits=("M1 uses 10 of 50 numbers of its code on MNIST, 20 with `warm_up=0.5`",),
        picture="MNIST digits drawn at every class with the style of the row at the left",
    )
    m1: VAE
    active: Tensor

    def __init__(self, config: M1M2Config) -> None:
        super().__init__(config)
        D, C, H = config.data_dim, config.classes, config.hidden_top
        L1, L2 = config.code, config.latent
        m1 = VAE(VAEConfig(D, L1, config.hidden, config.likelihood))
        self.__dict__["m1"], self.decoder = m1, m1.decoder  # a view: parts have one name only
        self.top = Net({"y": Label(C), "z2": L2}, H, 2 * L1)
        self.label_prior = LabelPrior(config.label_prior, {"y": config.classes})
        self.guide = guides.Factored(
            z1=m1.guide.factors["z"],
            y=guides.Categorical(C, {"z1": L1}, H),
            z2=guides.Normal(L2, {"z1": L1, "y": Label(C)}, H),
        )
        self.register_buffer("active", torch.ones(L1))

    def model(self, batch: Batch) -> None:
        """p(y) p(z2) p(z1 | y, z2) p(x | z1)."""
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            y = pyro.sample("y", self.label_prior("y"), obs=batch.get("y"))  # E x B
            z2 = pyro.sample("z2", dist.Normal(zero, zero + 1).to_event(1))  # E x B x L2
            z1 = LIKELIHOODS["normal"](self.top(y=y, z2=z2) * self.active.repeat(2))
            z1 = pyro.sample("z1", z1, obs=batch.get("z1"))  # E x B x L1
            if "x" in batch or "z1" not in batch:  # where the code is the data, x is a leaf
                x = self.m1.likelihood(self.decoder(z=z1))  # E x B x D
                pyro.sample("x", x, obs=batch.get("x"))

    def encode(self, batch: Batch) -> Batch:
        """The rows with a fresh draw of the live codes as their data."""
        z1 = self.guide.factor("z1", batch).sample() * self.active
        return batch.replace({"z1": z1, **batch.only("y")})

    def drop_dead(self, batch: Batch) -> None:
        """Leave codes that M1 does not use at their prior, and blind M2 to them."""
        self.active.copy_(self.guide.factor("z1", batch).mean.std(0) > self.config.dead)
        for name in ("y", "z2"):
            self.guide.factors[name].net.first.weights["z1"].data.mul_(self.active)

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """Of the second stage: M2's J^alpha (eq. 9) with the code as data."""
        bound = bound or inference.EnumeratedELBO(kl="analytic")
        return bound + inference.Classification("y", self.config.alpha)

    def stages(self, bound: inference.Objective | None = None) -> tuple[inference.Stage, ...]:
        """M1 on every row, then M2 on its codes with M1 frozen."""
        beta = inference.Anneal(0.0, 1.0, 0.0, w) if (w := self.config.warm_up) else 1.0
        first = inference.ELBO(kl="analytic", beta=beta)
        m1 = inference.Stage(first, name="m1", pair=self.m1, sites=("x",))
        m2 = inference.Stage(
            self.objective(bound), name="m2", start=self.drop_dead, prepare=self.encode,
            freeze=("decoder", "guide.factors.z1"),
        )  # fmt: skip
        return m1, m2
