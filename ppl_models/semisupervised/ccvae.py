"""CCVAE: behind each label stands a code of its own, which says how a row has what it has.

Story   y_j ~ Cat(pi_j)   z_j | y_j ~ N(mu_j[y_j], s_j[y_j]^2)   z_s ~ N(0, I)   x ~ p(dec(z))
Guide   prod_j q(z_j | x) q(z_s | x), then q(y_j | z_j), linear: a missing y_j is summed out
Paper   Joy, Schmon, Torr, Siddharth, Rainforth. ICLR 2021, arXiv 2006.10102
Shapes  E enumeration and particle dimensions on the left, B rows, C_j values, K_j and S codes
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import pyro
import pyro.distributions as dist
from torch import nn

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.likelihoods import LIKELIHOODS
from ppl_models.networks import Net, Part
from ppl_models.pair import Card, Pair
from ppl_models.parts.characteristics import Characteristic, classifier
from ppl_models.parts.label_prior import LabelPrior, label_prior


@dataclasses.dataclass(frozen=True)
class CCVAEConfig(Config):
    """Settings for glyphs of 16 x 16 pixels; three of the codes' eight dimensions for labels."""

    data_dim: int = setting(256, "D, size of x", from_data="x", minimum=1)
    labels: tuple[str, ...] = setting(("bar", "blob", "square"), "names of the labels y_j")
    classes: tuple[int, ...] = setting((2, 2, 2), "C_j", from_data="labels", minimum=2)
    label_prior: str | tuple[float, ...] = label_prior("frequencies", "labels", "pi_j, by label")
    characteristic: tuple[int, ...] = setting((1,), "K_j, or one number for all", minimum=1)
    style: int = setting(5, "S, size of z_s", minimum=1)
    hidden: tuple[int, ...] = setting((128, 128), "units of each hidden layer", minimum=1)
    likelihood: str = setting("laplace", "p(x | z)", choices=LIKELIHOODS)
    particles: int = setting(100, "K, draws per labelled row for q(y | x)", minimum=1)
    detach: Literal["none", "code"] = setting("none", "see the bound", choices=("none", "code"))
    alpha: float = setting(0.0, "alpha of log q(y|x); times N / N_lab in other bounds", minimum=0)


def _latents(labels: Sequence[str]) -> dict[str, str]:
    codes = {f"z_{label}": f"how a row has {label} (K_j)" for label in labels}
    return {**dict.fromkeys(labels, "label (C_j)"), **codes, "z_s": "style (S)"}


class CCVAE(Pair):
    """The characteristic-capturing VAE."""

    Config = CCVAEConfig
    config: CCVAEConfig
    card = Card(
        name="ccvae",
        title="Capturing Label Characteristics in VAEs",
        authors="Tom Joy, Sebastian M. Schmon, Philip H. S. Torr, N. Siddharth, Tom Rainforth",
        year=2021,
        arxiv="2006.10102",
        task="labels with codes behind them, for interventions",
        data={"x": "data vector (D)"},
        latents=_latents(CCVAEConfig.labels),
        labels=CCVAEConfig.labels,
        objectives=("characteristic", "self_normalised", "enumerated", "iwelbo"),
        departs=(
            "missing labels are summed out, where the paper draws them",
            "the bracket of the bound counts from its value at a second draw",
        ),
        limits=(
            "a sharp likelihood drowns the labels: keep Laplace of scale 1, or raise alpha",
            "what goes with a label in the data goes with its code",
            "a few labels get lost among many rows: SelfNormalisedELBO(gamma=...) weighs them",
        ),
        picture="glyphs of the test set along the code of each label, all else as it was",
    )

    def __init__(self, config: CCVAEConfig) -> None:
        super().__init__(config)
        c, names, own = config, config.labels, config.characteristic
        own = own * len(names) if len(own) == 1 else own
        if not names or len({"x", "s", *names}) < 2 + len(names):
            raise ValueError(f"labels are {names}, expected different ones, none called x or s")
        for key, given in (("classes", c.classes), ("characteristic", own)):
            if len(given) != len(names):
                raise ValueError(f"{key} has {len(given)} entries, expected {len(names)}")
        self.card = dataclasses.replace(self.card, latents=_latents(names), labels=names)
        self.label_prior = LabelPrior(c.label_prior, dict(zip(names, c.classes, strict=True)))
        self.sizes = {**{f"z_{n}": k for n, k in zip(names, own, strict=True)}, "z_s": c.style}
        self.likelihood = LIKELIHOODS[c.likelihood]
        outputs = c.data_dim * self.likelihood.outputs
        self.decoder = Net(self.sizes, c.hidden[::-1], outputs, "relu")
        self.priors, factors = nn.ModuleDict(), dict[str, guides.Factor]()
        numbers, first = 2 * sum(self.sizes.values()), 0
        for z, size in self.sizes.items():
            factors[z] = guides.Normal(size, {"codes": numbers}, net=Part(first, 2 * size))
            first += 2 * size
        for n, values, size in zip(names, c.classes, own, strict=True):
            self.priors[n] = p = Characteristic(values, size)
            factors[n] = guides.Categorical(values, {f"z_{n}": size}, net=classifier(p, f"z_{n}"))
        encoder = Net({"x": c.data_dim}, c.hidden, numbers, "relu")
        self.guide = guides.Factored({"codes": encoder}, **factors)

    def model(self, batch: Batch) -> None:
        """prod_j p(y_j) p(z_j | y_j), p(z_s), p(x | z)."""
        zero, codes = self.like().new_zeros(self.config.style), {}
        with self.plate(batch):
            for n in self.config.labels:
                y = pyro.sample(n, self.label_prior(n), obs=batch.get(n))  # E x B
                codes[f"z_{n}"] = pyro.sample(f"z_{n}", self.priors[n](y))  # E x B x K_j
            codes["z_s"] = pyro.sample("z_s", dist.Normal(zero, 1.0).to_event(1))  # E x B x S
            pyro.sample("x", self.likelihood(self.decoder(**codes)), obs=batch.get("x"))  # B x D

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The paper's bound, q(z | x, y) by Bayes' rule; or another and log q(y_j | z_j)."""
        c = self.config
        for n in c.labels if bound else ():
            bound = bound + inference.Classification(n, c.alpha)
        return bound or inference.CharacteristicELBO(c.particles, c.detach, c.alpha)
