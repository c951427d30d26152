"""A mixture whose class means all rows share."""

from __future__ import annotations

import functools

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoLowRankMultivariateNormal
from torch import nn

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.config import Config
from ppl_models.pair import Card, Pair

LOW_RANK = functools.partial(AutoLowRankMultivariateNormal, rank=1)
NOISE = 0.5


class Mixture(Pair):
    """Class means as a global; a class and a code explain each row."""

    Config = Config
    card = Card(
        "mixture", "-", "-", 2026, "-", "test", {"x": "data"}, {"y": "class", "z": "code"}, ("y",)
    )

    def __init__(self, config):
        super().__init__(config)
        self.anchor = nn.Parameter(torch.zeros(()))
        rows = Batch({"x": torch.zeros(2)})
        self.guide = guides.Mixed(
            guides.Globals(self.model, rows, LOW_RANK),
            guides.inverse(self.model, rows, hidden=(5,), see_globals=True),
        )

    def model(self, batch):
        zero = self.like().new_zeros(())
        m = pyro.sample("m", dist.Normal(zero.expand(3), 2.0).to_event(1))
        with self.plate(batch):
            y = pyro.sample("y", dist.Categorical(logits=zero.expand(3)), obs=batch.get("y"))
            z = pyro.sample("z", dist.Normal(zero, 1.0))
            pyro.sample("x", dist.Normal(m[y] + z, NOISE), obs=batch.get("x"))
