"""Chroma-VAE: a small part of the code takes the shortcut to the label, the rest is free of it.

Story   z1 ~ N(0, I)   z2 ~ N(0, I)   x | z1, z2 ~ N(dec(z1, z2), sigma^2)   y | z1 ~ Cat
Guide   q(z1 | x) q(z2 | x) from one encoder that never sees y; a missing y is summed out
Paper   Yang, Kirichenko, Goldblum, Wilson. NeurIPS 2022, arXiv 2211.15231
Shapes  E enumeration and particle dimensions on the left, B rows, C classes, D data, L1, L2 codes
"""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.config import Config, setting
from ppl_models.networks import Net, Part
from ppl_models.pair import Card, Pair


@dataclass(frozen=True)
class ChromaVAEConfig(Config):
    """Settings for the digits with a patch, ``patch_digits``."""

    data_dim: int = setting(100, "D, size of x", from_data="x", minimum=1)
    classes: int = setting(2, "C, number of labels", from_data="y", minimum=2)
    shortcut: int = setting(2, "L1, size of z1, which the label reads; small", minimum=1)
    rest: int = setting(16, "L2, size of z2", minimum=1)
    hidden: tuple[int, ...] = setting((192, 192), "units of encoder and decoder", minimum=1)
    classifier: tuple[int, ...] = setting((32, 32), "units of p(y | z1)", minimum=1)
    pixel_sigma: float = setting(0.1, "sigma, standard deviation of a pixel; sharp", minimum=1e-6)
    label: float = setting(1000.0, "lambda, weight of log p(y | z1); 0 is a VAE", minimum=0)


class ChromaVAE(Pair):
    """The first stage; :class:`ppl_models.inference.Secondary` is the second, on z2."""

    Config = ChromaVAEConfig
    config: ChromaVAEConfig
    card = Card(
        name="chroma_vae",
        title="Chroma-VAE: Mitigating Shortcut Learning with Generative Classifiers",
        authors="Wanqian Yang, Polina Kirichenko, Micah Goldblum, Andrew Gordon Wilson",
        year=2022,
        arxiv="2211.15231",
        task="classification without shortcuts",
        data={"x": "data vector (D)"},
        latents={"z1": "shortcut (L1)", "z2": "the rest (L2)", "y": "class (C)"},
        labels=("y",),
        objectives=("enumerated", "iwelbo"),
        departs=(
            "perceptrons on small digits, where the paper has convolutions on larger images",
            "lambda and the sizes are our own choice",
            "lambda stands in the objective and not in the story, whose density stays one: "
            "every bound takes it, IWELBO too",
        ),
        limits=(
            "needs a shortcut that is simpler than the rest, thousands of rows and a sharp "
            "likelihood; with a large z1 the rest goes there, too",
            "z1 takes with it what goes with the label: another z1 changes some digits, not only "
            "the patch, and z2 classifies worse than pixels without the patch would",
            "means of unused dimensions of z2 carry a faint copy of the shortcut, which "
            "networks amplify: train them on draws, or take nearest neighbours",
        ),
        picture="accuracy where the patch lies, by method; and digits decoded with their own z1, "
        "with that of a row of the other class, and with z1 of many rows",
    )

    def __init__(self, config: ChromaVAEConfig) -> None:
        super().__init__(config)
        D, L1, L2, H = config.data_dim, config.shortcut, config.rest, config.hidden
        self.decoder = Net({"z1": L1, "z2": L2}, H, D, "relu")
        self.classifier = Net({"z1": L1}, config.classifier, config.classes, "relu")
        numbers = 2 * (L1 + L2)
        self.guide = guides.Factored(
            {"codes": Net({"x": D}, H, numbers, "relu")},
            z1=guides.Normal(L1, {"codes": numbers}, net=Part(0, 2 * L1)),
            z2=guides.Normal(L2, {"codes": numbers}, net=Part(2 * L1, 2 * L2)),
        )

    def model(self, batch: Batch) -> None:
        """p(z1) p(z2) p(x | z1, z2) p(y | z1)."""
        c, zero = self.config, self.like().new_zeros
        with self.plate(batch):
            z1 = pyro.sample("z1", dist.Normal(zero(c.shortcut), 1.0).to_event(1))  # E x B x L1
            z2 = pyro.sample("z2", dist.Normal(zero(c.rest), 1.0).to_event(1))  # E x B x L2
            x = dist.Normal(self.decoder(z1=z1, z2=z2), c.pixel_sigma).to_event(1)
            pyro.sample("x", x, obs=batch.get("x"))  # E x B x D
            y = dist.Categorical(logits=self.classifier(z1=z1))
            pyro.sample("y", y, obs=batch.get("y"), infer={"enumerate": "parallel"})  # E x B

    def objective(self, bound: inference.Objective | None = None) -> inference.Objective:
        """The bound of log p(x, y), in which log p(y | z1) counts lambda times."""
        bound = bound or inference.EnumeratedELBO()
        return bound + inference.Emphasis("y", self.config.label)
