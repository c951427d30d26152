"""What labels are told at where nothing is drawn: the centres of what all rows share."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch.testing import assert_close
from worlds.global_means import LOW_RANK, NOISE, Mixture

from ppl_models import data, guides
from ppl_models.batch import Batch
from ppl_models.config import Config
from ppl_models.inference.posterior.prediction import label_probabilities
from ppl_models.networks import Scalar


class Left(Mixture):
    """The same, with the class left to the model."""

    def __init__(self, config):
        super().__init__(config)
        q = guides.Normal(Scalar(), {"x": Scalar(), "m": 3})
        self.guide = guides.Mixed(self.guide.globals_, guides.Factored(z=q))


def test_labels_are_told_at_the_centres_of_globals():
    torch.manual_seed(0)
    rows = data.Table("rows", {"x": torch.randn(5), "y": torch.arange(5) % 3})
    x = rows.sites["x"].double()
    pair = Mixture(Config()).double()
    q = pair.guide.factor("y", {"x": x, **pair.guide.centres()})
    assert_close(label_probabilities(pair, rows), q.probs)

    left = Left(Config()).double()
    shared = left.guide.centres()
    z = left.guide.factor("z", {"x": x, **shared}).mean
    p = dist.Normal(shared["m"].unsqueeze(-1) + z, NOISE).log_prob(x).softmax(0).T
    assert_close(label_probabilities(left, rows), p)


@pytest.mark.parametrize("auto", [AutoNormal, LOW_RANK], ids=["normal", "low rank"])
def test_centres_are_means_and_medians(auto):
    def model(batch):
        zero = torch.zeros(())
        pyro.sample("m", dist.Normal(zero.expand(2, 2), 1.0).to_event(2))
        pyro.sample("s", dist.LogNormal(zero, 1.0))
        pyro.sample("w", dist.Dirichlet(zero.new_ones(3)))

    torch.manual_seed(0)
    guide = guides.Globals(model, Batch({"x": torch.zeros(2)}), auto)
    found, q = guide.centres(), guide.marginals()
    assert_close(found["m"], q["m"].mean)
    drawn = {name: q[name].sample((20_000,)) for name in ("s", "w")}
    assert_close(found["s"], drawn["s"].median(), rtol=0.01, atol=0)
    # Of shares that vary by a tenth of themselves the mean is near.
    assert_close(found["w"], drawn["w"].mean(0), rtol=0.02, atol=0)
