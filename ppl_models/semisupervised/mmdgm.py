"""mmDGM: a code explains a row, and a max-margin classifier shapes the encoder that infers it.

Story   z ~ N(0, I)   x | z ~ p(dec(z))   y | x ~ Cat(softmax f(x)), f the discriminant below
Guide   q(z | x) reparameterised; f(x) = W phi(x), phi the encoder's hidden layers or mean of z
Paper   Li, Zhu, Shi, Zhang. NIPS 2015, arXiv 1504.06787
Shapes  E enumeration and particle dimensions on the left, B rows, C classes, D data, L code
"""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.networks import Net
from ppl_models.pair import Card, Pair


@dataclass(frozen=True)
class MMDGMConfig(Config):
    """Settings of the paper's MNIST experiment with perceptrons."""

    data_dim: int = setting(784, "D, size of x", from_data="x", minimum=1)
    classes: int = setting(10, "C, number of labels", from_data="y", minimum=2)
    latent: int = setting(50, "size of z", minimum=1)
    hidden: tuple[int, ...] = setting((500, 500), "units of each hidden layer", minimum=1)
    features: str = setting("hidden", "phi, what f reads", choices=("hidden", "mean"))
    likelihood: str = setting("soft_bernoulli", "p(x | z)", choices=LIKELIHOODS)
    hinge: float = setting(15.0, "C, weight of the margin beside the bound; 0 is a VAE", minimum=0)
    margin: float = setting(3.0, "l, by which the known class has to win", minimum=0)
    prior_scale: float = setting(1.0, "sigma, of the prior of the weights W", minimum=1e-6)


class Discriminant(nn.Module):
    """Class scores, linear in what an encoder makes of the data."""

    def __init__(self, encoder: Net, hidden: bool, size: int, classes: int) -> None:
        super().__init__()
        self.encoder, self.hidden = encoder, hidden
        self.weights = nn.Parameter(torch.zeros(classes, size))  # zero as in the authors' code
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, x: Tensor) -> Tensor:
        """Data ``(..., D)`` to scores ``(..., C)``."""
        value, layers = self.encoder.first(x=x), []
        for layer in self.encoder.rest:
            value = layer(value)
            if not isinstance(layer, nn.Linear):
                layers.append(value)
        features: Tensor = torch.cat(layers, -1) if self.hidden else value.chunk(2, -1)[0]
        return features @ self.weights.T + self.bias


class MMDGM(Pair):
    """The max-margin deep generative model."""

    Config = MMDGMConfig
    config: MMDGMConfig
    card = Card(
        name="mmdgm",
        title="Max-margin Deep Generative Models",
        authors="Chongxuan Li, Jun Zhu, Tianlin Shi, Bo Zhang",
        year=2015,
        arxiv="1504.06787",
        task="classification and generation with one code",
        data={"x": "data vector (D)"},
        latents={"z": "code (L)", "y": "class (C)"},
        labels=("y",),
        objectives=("enumerated", "iwelbo"),
        departs=(
            "the paper generates no label; here f does, and the objective leaves that out",
            "q(W) = N(Lambda, I) has its mean for a parameter; its KL is |Lambda|^2 / 2 sigma^2",
            "no pre-training, no sparsity of hidden units, no convolutions",
        ),
        limits=(
            "the label informs the encoder and never the decoder: no class can be asked for",
            "rows without label train the autoencoder alone; scores are not calibrated",
        ),
        picture="two-dimensional codes of test digits, and digits with a block filled in",
    )

    def __init__(self, config: MMDGMConfig) -> None:
        super().__init__(config)
        D, C, L, H = config.data_dim, config.classes, config.latent, config.hidden
        self.likelihood = LIKELIHOODS[config.likelihood]
        self.decoder = Net({"z": L}, H, D * self.likelihood.outputs)
        encoder = Net({"x": D}, H, 2 * L)
        hidden = config.features == "hidden"
        self.discriminant = Discriminant(encoder, hidden, sum(H) if hidden else L, C)
        self.guide = guides.Factored(
            z=guides.Normal(L, {"x": D}, net=encoder),
            y=guides.Categorical(C, {"x": D}, net=self.discriminant),
        )

    def model(self, batch: Batch) -> None:
        """p(z) p(x | z) p(y | x)."""
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))  # E x B x L
            x = self.likelihood(self.decoder(z=z))  # E x B x D
            x = pyro.sample("x", x, obs=batch.get("x"))
            pyro.sample("y", self.guide.factor("y", {"x": x}), obs=batch.get("y"))  # E x B

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The bound of log p(x), C times the margin, and KL(q(W) || p(W)), as sums over rows."""
        c, bound = self.config, inference.LeftOut(bound or inference.ELBO(kl="analytic"), "y")
        terms = inference.Hinge("y", c.hinge, c.margin) + inference.Penalty("KL(W) / N", self.kl)
        return bound + terms

    def kl(self, run: inference.Evaluation) -> Tensor:
        """KL(q(W) || p(W)) up to a constant; each row has its share."""
        squares = [w.square().sum() for w in (self.discriminant.weights, self.discriminant.bias)]
        return torch.stack(squares).sum() / (2 * self.config.prior_scale**2 * run.batch.total)
