"""Partially-specified models: any guide, labels upstream or downstream of the code.

Story   y ~ Cat(1/C)   z ~ N(0, I)   x | y, z ~ p(dec(y, z))
Guide   label first: q(y | x) q(z | x, y); style first: q(z | x) q(y | x, z)
Paper   Siddharth et al. NIPS 2017, arXiv 1706.00400, Section 3 and 4.1
Shapes  E enumeration and particle dimensions on the left, B rows, C classes, D data, L style
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
class PartiallySpecifiedConfig(Config):
    """Settings of the authors' MNIST notebook."""

    data_dim: int = setting(784, "D, size of x", from_data="x", minimum=1)
    classes: int = setting(10, "C, number of labels", from_data="y", minimum=2)
    label_prior: str | tuple[float, ...] = label_prior()
    latent: int = setting(50, "size of z", minimum=1)
    hidden: tuple[int, ...] = setting((256,), "units of each hidden layer", minimum=1)
    likelihood: str = setting("soft_bernoulli", "p(x | y, z)", choices=LIKELIHOODS)
    guide: str = setting(
        "label_first", "order of the guide", choices=("label_first", "style_first")
    )
    particles: int = setting(8, "S, draws per row", minimum=1)
    logq: Literal["lme", "jensen"] = setting(
        "jensen", "estimate of log q(y | x)", choices=("jensen", "lme")
    )
    alpha: float = setting(0.1, "alpha, extra weight of log q(y | x) per labelled row", minimum=0)
    gamma: float = setting(
        1.0, "gamma, weight of a labelled row; see inference.supervision", minimum=0
    )


class PartiallySpecified(Pair):
    """The paper's instance for MNIST."""

    Config = PartiallySpecifiedConfig
    config: PartiallySpecifiedConfig
    card = Card(
        name="partially_specified",
        title="Learning Disentangled Representations with Semi-Supervised Deep Generative Models",
        authors="N. Siddharth, Brooks Paige, Jan-Willem van de Meent, Alban Desmaison, "
        "Noah D. Goodman, Pushmeet Kohli, Frank Wood, Philip H. S. Torr",
        year=2017,
        arxiv="1706.00400",
        task="semi-supervised learning with a guide of any shape",
        data={"x": "data vector (D)"},
        latents={"y": "class (C)", "z": "style (L)"},
        labels=("y",),
        objectives=("self_normalised", "enumerated", "iwelbo"),
        departs=(
            "missing labels are summed out instead of relaxed",
            "factors of the guide share no hidden layer",
            "labelled rows are fixed once, where the notebook labels batches that are reshuffled",
        ),
        limits=(
            "with few draws the style-first guide's weights may rest on one of them: see "
            "SelfNormalisedELBO.effective_draws",
            "another bound gets the label network's log-likelihood as a term of its own, with "
            "weight alpha N / N_labelled",
        ),
        picture="MNIST digits drawn at every class with the style of the row at the left",
    )

    def __init__(self, config: PartiallySpecifiedConfig) -> None:
        super().__init__(config)
        D, L, H, label = config.data_dim, config.latent, config.hidden, Label(config.classes)
        self.label_prior = LabelPrior(config.label_prior, {"y": config.classes})
        self.likelihood = LIKELIHOODS[config.likelihood]
        self.decoder = Net({"y": label, "z": L}, H, D * self.likelihood.outputs, "relu")
        first = config.guide == "label_first"
        y = guides.Categorical(label, {"x": D} if first else {"x": D, "z": L}, H, "relu")
        z = guides.Normal(L, {"x": D, "y": label} if first else {"x": D}, H, "relu")
        self.guide = guides.Factored(y=y, z=z) if first else guides.Factored(z=z, y=y)

    def model(self, batch: Batch) -> None:
        """p(y) p(z) p(x | y, z)."""
        zero = self.like().new_zeros(self.config.latent)
        with self.plate(batch):
            y = pyro.sample("y", self.label_prior("y"), obs=batch.get("y"))  # E x B
            z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))  # E x B x L
            x = self.likelihood(self.decoder(y=y, z=z))  # E x B x D
            pyro.sample("x", x, obs=batch.get("x"))

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The self-normalised semi-supervised bound (eq. 4 to 6)."""
        c = self.config
        if bound is not None:
            return bound + inference.Classification("y", c.alpha)
        return inference.SelfNormalisedELBO(c.particles, c.logq, alpha=c.alpha, gamma=c.gamma)
