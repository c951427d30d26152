"""M2: a class label and a style code explain a row; most labels are missing.

Story   y ~ Cat(1/C)   z ~ N(0, I)   x | y, z ~ p(dec(y, z))
Guide   q(y | x) q(z | x, y): y enumerated where it is missing, z reparameterised
Paper   Kingma, Rezende, Mohamed, Welling. NIPS 2014, arXiv 1406.5298, Section 2.2
Shapes  E enumeration and particle dimensions on the left, B rows, C classes, D data, L style
"""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.networks import Label, Net
from ppl_models.pair import Card, Pair
from ppl_models.parts.label_prior import LabelPrior, label_prior


@dataclass(frozen=True)
class M2Config(Config):
    """Settings of the paper's MNIST experiment."""

    data_dim: int = setting(784, "D, size of x", from_data="x", minimum=1)
    classes: int = setting(10, "C, number of labels", from_data="y", minimum=2)
    label_prior: str | tuple[float, ...] = label_prior()
    latent: int = setting(50, "size of z", minimum=1)
    hidden: tuple[int, ...] = setting((500,), "units of each hidden layer", minimum=1)
    likelihood: str = setting("soft_bernoulli", "p(x | y, z)", choices=LIKELIHOODS)
    alpha: float = setting(0.1, "alpha, weight of log q(y | x); N / N_lab inside", minimum=0)


class M2(Pair):
    """The generative semi-supervised model."""

    Config = M2Config
    config: M2Config
    card = Card(
        name="m2",
        title="Semi-supervised Learning with Deep Generative Models",
        authors="Diederik P. Kingma, Danilo J. Rezende, Shakir Mohamed, Max Welling",
        year=2014,
        arxiv="1406.5298",
        task="semi-supervised classification",
        data={"x": "data vector (D)"},
        latents={"y": "class (C)", "z": "style (L)"},
        labels=("y",),
        objectives=("enumerated", "iwelbo"),
        departs=(
            "Adam with its bias correction and epsilon",
            "weights start at PyTorch's default scale",
            "no prior on the weights; the paper's is `weight_prior=1` in training",
        ),
        limits=(
            "alpha 0.1 wants many passes: 28 % error after 25 on 14 x 14 MNIST, with alpha 1 20",
            "on small images a supervised network is hardly worse (digits: 9.5 % against 10.5)",
        ),
        picture="MNIST digits drawn at every class with the style of the row at the left",
    )

    def __init__(self, config: M2Config) -> None:
        super().__init__(config)
        D, C, L, H = config.data_dim, config.classes, config.latent, config.hidden
        self.likelihood = LIKELIHOODS[config.likelihood]
        self.decoder = Net({"y": Label(C), "z": L}, H, D * self.likelihood.outputs)
        self.label_prior = LabelPrior(config.label_prior, {"y": config.classes})
        self.guide = guides.Factored(
            y=guides.Categorical(C, {"x": D}, H),
            z=guides.Normal(L, {"x": D, "y": Label(C)}, H),
        )

    def model(self, batch: Batch) -> None:
        """p(y) p(z) p(x | y, z)."""
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            y = pyro.sample("y", self.label_prior("y"), obs=batch.get("y"))  # E x B
            z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))  # E x B x L
            x = self.likelihood(self.decoder(y=y, z=z))  # E x B x D
            pyro.sample("x", x, obs=batch.get("x"))

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """J^alpha (eq. 9): both bounds, and the label network as a classifier."""
        bound = bound or inference.EnumeratedELBO(kl="analytic")
        return bound + inference.Classification("y", self.config.alpha)
