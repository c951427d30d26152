"""Two sites and a label explained by a code, with each kind of factor for it.

Story   y ~ Cat(1/3)   top ~ N(0, I)   z | top, y ~ N(W top + V_y, I)   a, b | z ~ Bernoulli
Guide   q(y | a, b?) q(top | ...) q(z | ...), by the setting ``kind``
Paper   None; a small story that uses the factors together
Shapes  E labels on the left, B rows
"""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from ppl_models import Batch, Card, Config, Pair, guides, setting
from ppl_models.networks import Label, Net


@dataclass(frozen=True)
class FactorsConfig(Config):
    """Settings."""

    a_dim: int = setting(5, "size of a", from_data="a", minimum=1)
    b_dim: int = setting(4, "size of b", from_data="b", minimum=1)
    classes: int = setting(3, "C, number of classes", from_data="y", minimum=2)
    kind: str = setting("ladder", "factors of the codes")
    rows: int = setting(60, "rows of the training table", minimum=1)


def ladder(a, b, classes):
    """One trunk, two heads; the lower head is also given the upper site."""
    shared = {"low": Net({"a": a, "b?": b}, (), 6), "high": Net({"low": 6}, (6,), 4)}
    top = guides.Normal(2, {"high": 4}, scale=(0.01, 2.0))
    z = guides.Normal(2, {"low": 6, "top": 2, "y": Label(classes)}, (5,), scale=(0.01, 2.0))
    return shared, {"top": top, "z": z}


def of_experts(combine, **options):
    """The code from each of the two sites."""

    def make(a, b, classes):
        each = (guides.Normal(2, {"a": a, "y": Label(classes)}), guides.Normal(2, {"b": b}, (4,)))
        top = guides.Normal(2, {"a?": a, "b?": b}, (4,))
        return {}, {"top": top, "z": combine(*each, **options)}

    return make


def points(a, b, classes):
    """The code as a point, the site above it as a density."""
    z = guides.Point(2, {"a": a, "b?": b, "y": Label(classes)}, (4,))
    return {}, {"z": z, "top": guides.Normal(2, {"z": 2}, (4,))}


KINDS = {
    "ladder": ladder,
    "product": of_experts(guides.Product),
    "mixture": of_experts(guides.Mixture),
    "both": of_experts(guides.Mixture, products=True),
    "point": points,
}


class Factors(Pair):
    """A code over two sites and a label."""

    Config = FactorsConfig
    card = Card(
        name="factors",
        title="Factors together",
        authors="none",
        year=2024,
        arxiv="10.0000/none",
        task="clustering",
        data={"a": "some entries", "b": "others"},
        latents={"y": "class (C)", "top": "upper code", "z": "code"},
        labels=("y",),
        objectives=("enumerated",),
    )

    def __init__(self, config: FactorsConfig) -> None:
        super().__init__(config)
        a, b, classes = config.a_dim, config.b_dim, config.classes
        self.to_z = Net({"top": 2, "y": Label(classes)}, (), 2)
        self.to_a, self.to_b = Net({"z": 2}, (5,), a), Net({"z": 2}, (5,), b)
        self.scale = nn.Parameter(torch.zeros(()))
        y = guides.Categorical(classes, {"a?": a, "b?": b}, (4,))
        if config.kind == "row":
            codes = {"top": guides.Normal(2, {"a?": a}), "z": guides.PointPerRow(2, config.rows)}
            self.guide = guides.Factored(y=y, **codes)
        else:
            shared, codes = KINDS[config.kind](a, b, classes)
            self.guide = guides.Factored(shared, y=y, **codes)

    def model(self, batch: Batch) -> None:
        """p(y) p(top) p(z | top, y) p(a | z) p(b | z)."""
        like = self.like()
        unit = dist.Normal(like.new_zeros(2), 1.0).to_event(1)
        with self.plate(batch):
            uniform = like.new_zeros(self.config.classes)
            y = pyro.sample("y", dist.Categorical(logits=uniform), obs=batch.get("y"))
            top = pyro.sample("top", unit, obs=batch.get("top"))  # B x 2
            z = dist.Normal(self.to_z(top=top, y=y), self.scale.exp()).to_event(1)
            z = pyro.sample("z", z, obs=batch.get("z"))  # E x B x 2
            for name, net in (("a", self.to_a), ("b", self.to_b)):
                x = dist.Bernoulli(logits=net(z=z)).to_event(1)
                pyro.sample(name, x, obs=batch.get(name))
