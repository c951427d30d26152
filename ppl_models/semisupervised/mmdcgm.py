"""mmDCGM: class and style explain a row; a missing class is the best by a max-margin classifier.

Story   y ~ Cat(1/C)   z ~ N(0, I)   x | y, z ~ p(dec(y, z))
Guide   y = argmax of the scores s(x), straight through, or summed out; q(z | x, y)
Paper   Li, Zhu, Zhang. Max-Margin Deep Generative Models for (Semi-)Supervised Learning.
        IEEE TPAMI 2018, arXiv 1611.07119, Section 5
Shapes  E enumeration and particle dimensions on the left, B rows, C classes, D data, L style
"""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.networks import Label, Net
from ppl_models.pair import Card, Pair
from ppl_models.parts.label_prior import LabelPrior, label_prior


@dataclass(frozen=True)
class MMDCGMConfig(Config):
    """Settings of the paper's MNIST experiment with 100 labels, perceptrons apart."""

    data_dim: int = setting(784, "D, size of x", from_data="x", minimum=1)
    classes: int = setting(10, "C, number of labels", from_data="y", minimum=2)
    label_prior: str | tuple[float, ...] = label_prior()
    latent: int = setting(100, "size of z", minimum=1)
    hidden: tuple[int, ...] = setting((500,), "units of each hidden layer", minimum=1)
    likelihood: str = setting("soft_bernoulli", "p(x | y, z)", choices=LIKELIHOODS)
    missing: str = setting(
        "argmax", "a missing y is imputed, or summed out as in M2", choices=("argmax", "enumerate")
    )
    st_weight: float = setting(3e-4, "gradient of the bound that reaches the scores", minimum=0)
    alpha: float = setting(0.1, "alpha, weight of all that follow beside the bound", minimum=0)
    hinge: float = setting(1.0, "of the margin of labelled rows", minimum=0)
    hat: float = setting(0.3, "of the margin of unlabelled rows", minimum=0)
    balance: float = setting(1e-3, "of the distance between their mean scores", minimum=0)
    decay: float = setting(1e-4, "of the classifier's squared weights", minimum=0)
    margin: float = setting(1.0, "delta, by which a class has to win", minimum=0)


class MMDCGM(Pair):
    """The max-margin class-conditional generative model."""

    Config = MMDCGMConfig
    config: MMDCGMConfig
    card = Card(
        name="mmdcgm",
        title="Max-Margin Deep Generative Models for (Semi-)Supervised Learning",
        authors="Chongxuan Li, Jun Zhu, Bo Zhang",
        year=2018,
        arxiv="1611.07119",
        task="semi-supervised classification at the cost of one class",
        data={"x": "data vector (D)"},
        latents={"y": "class (C)", "z": "style (L)"},
        labels=("y",),
        objectives=("enumerated", "iwelbo"),
        departs=(
            "perceptrons, where the paper has convolutions, batch normalisation and dropout: its "
            "errors are out of reach",
            "rows of both kinds count in the bound as often as in the data, not as in the batch",
            "log p(y), a constant, stays in the bound",
        ),
        limits=(
            "the margin trusts its own labels: wrong ones of confident rows are not revised",
            "the softmax of the scores ranks the classes and is not calibrated",
            "with imputed labels the objective is no bound of log p(x)",
        ),
        picture="styles of test digits in every class, and the seconds of a step over the number "
        "of classes, imputed and summed out",
    )

    def __init__(self, config: MMDCGMConfig) -> None:
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
        """The bound, and alpha times margins, balance and decay, as means over rows."""
        c = self.config
        bound = bound or inference.EnumeratedELBO(kl="analytic")
        if c.missing == "argmax":
            bound = inference.Imputed(bound, "y", c.st_weight)
        terms = inference.Hinge("y", c.hinge, c.margin) + inference.Hat("y", c.hat, c.margin)
        terms += inference.Balance("y", c.balance) + inference.Penalty("|W|^2", self.size, c.decay)
        return bound + terms * c.alpha

    def size(self, run: inference.Evaluation) -> Tensor:
        """Squared norm of the classifier's weights."""
        network = self.guide.factors["y"].parameters()
        return torch.stack([p.square().sum() for p in network if p.dim() > 1]).sum()
