"""A label that the guide does not sample: its probabilities come from the story."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal

from ppl_models import Batch, Card, Config, Pair, data, guides, inference
from ppl_models.networks import Scalar

RIGHT = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)  # p(y | a)
MEANS = torch.tensor([[0.0, 1.0], [2.0, 3.5]], dtype=torch.float64)  # of x given a, y


@dataclass(frozen=True)
class NoConfig(Config):
    """Nothing to set."""


class Left(Pair):
    """A bit a, which the guide draws; y | a, which it leaves; and x that hangs on both."""

    Config = NoConfig
    card = Card(
        "left", "-", "-", 2026, "-", "test", {"x": "number"}, {"a": "bit", "y": "class"}, ("y",)
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__(NoConfig())
        self.guide = guides.Factored(a=guides.Bernoulli({"x": Scalar()}))

    def model(self, batch: Batch) -> None:
        """p(a) p(y | a) p(x | a, y)."""
        with self.plate(batch):
            a = pyro.sample("a", dist.Bernoulli(self.like().new_tensor(0.4))).long()
            y = dist.Categorical(RIGHT[a])
            y = pyro.sample("y", y, obs=batch.get("y"), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(MEANS[a, y], 1.0), obs=batch.get("x"))


@pytest.fixture
def left() -> Left:
    torch.manual_seed(0)
    return Left().double()


X = torch.tensor([-1.0, 0.5, 2.0, 4.0], dtype=torch.float64)
TABLE = data.Table("t", {"x": X})


def test_weighted_draws_give_the_posterior(left):
    joint = torch.tensor([0.6, 0.4]).double().log()[:, None] + RIGHT.log()
    joint = joint + Normal(MEANS, 1.0).log_prob(X[:, None, None])  # rows x a x y
    exact = joint.exp().sum(1) / joint.exp().sum((1, 2))[:, None]
    got = inference.label_probabilities(left, TABLE, particles=20_000)
    # Two values of a, each drawn with q(a | x): the weights' error is known.
    q = torch.stack([1 - left.guide.factor("a", {"x": X}).mean.detach()] * 2, -1)
    q[:, 1] = 1 - q[:, 0]
    w = joint.exp().sum(2) / q
    p_y = joint.exp()[..., 1] / joint.exp().sum(2)
    share = w / (q * w).sum(1, keepdim=True)
    error = (q * (share * (p_y - exact[:, 1:])).square()).sum(1).div(20_000).sqrt()
    assert bool(((got - exact)[:, 1].abs() < 5 * error).all()) and bool((error < 0.01).all())
    torch.testing.assert_close(got.sum(-1), torch.ones(4).double())


def test_a_bit_has_no_mean_to_stand_for_it(left):
    with pytest.raises(ValueError, match=r"site 'a' has no mean; draw it \(particles >= 1\)"):
        inference.label_probabilities(left, TABLE)
