"""Labels from the story against the posterior: left out by the guide, or by shared draws."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal

from ppl_models import Batch, Card, Config, Pair, data, guides, inference
from ppl_models.networks import Label, Scalar

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
    with pytest.raises(
        ValueError, match=r"^site 'a' has no mean; draw it \(draws or particles\)$"
    ):
        inference.label_probabilities(left, TABLE)


# ---- draws that all labels share ----------------------------------------------------------

CENTRES = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
PRIOR = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
NUMBERS = torch.tensor([-2.0, 0.0, 0.7, 3.0], dtype=torch.float64)
ROWS = data.Table("t", {"x": NUMBERS})
K = 40_000


@dataclass(frozen=True)
class Order(Config):
    """Which factor stands first in the guide, and whether a label is left to the model."""

    first: str = "y"


class Mixture(Pair):
    """x | y, z ~ N(mean_y + z + b, 1) with a code z and a bit b."""

    Config = Order
    card = Card(
        "mixture", "-", "-", 2026, "-", "test", {"x": "number"},
        {"y": "class", "z": "code", "b": "bit"}, ("y",),
    )  # fmt: skip

    def __init__(self, first: str) -> None:
        super().__init__(Order(first))
        label, number = Label(3), Scalar()
        y_first = first != "z"
        y = guides.Categorical(label, {"x": number} | ({} if y_first else {"z": number}), (4,))
        z = guides.Normal(number, {"x": number} | ({"y": label} if y_first else {}), (4,))
        b = {} if first == "left" else {"b": guides.Bernoulli({"x": number, "z": number})}
        factors = {"y": y, "z": z} if y_first else {"z": z, "y": y}
        self.guide = guides.Factored(**factors, **b)

    def model(self, batch):
        """p(y) p(z) p(b) p(x | y, z, b)."""
        with self.plate(batch):
            y = pyro.sample("y", dist.Categorical(PRIOR), obs=batch.get("y"))
            z = pyro.sample("z", dist.Normal(self.like().new_zeros(()), 1.0))
            b = dist.Bernoulli(self.like().new_tensor(0.3))
            b = pyro.sample("b", b, infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(CENTRES[y] + z + b, 1.0), obs=batch.get("x"))


def exact():
    bits = torch.tensor([0.7, 0.3], dtype=torch.float64)
    density = (
        Normal(CENTRES[:, None] + torch.arange(2), 2**0.5).log_prob(NUMBERS[:, None, None]).exp()
    )
    joint = PRIOR * (bits * density).sum(-1)
    return joint / joint.sum(-1, keepdim=True)


@pytest.mark.parametrize("first", ["y", "z", "left"])
def test_shared_draws_give_the_posterior(first):
    torch.manual_seed(0)
    pair = Mixture(first).double()
    with torch.no_grad():  # guides wider than the posterior: weights with a variance
        pair.guide.factors["z"].net.rest[-1].bias[1] = 1.0
    parts = torch.stack(
        [
            inference.label_probabilities(pair, ROWS, particles=K // 20, seed=s, shared=True)
            for s in range(20)
        ]
    )
    error = parts.std(0) / 20**0.5
    assert bool(((parts.mean(0) - exact()).abs() < 5 * error + 1e-3).all())
    assert bool((error < 0.01).all())
    torch.testing.assert_close(parts.sum(-1), torch.ones(20, 4).double())


def test_one_draw_weighs_all_labels_with_the_code_of_the_drawn_one():
    torch.manual_seed(0)
    pair, calls = Mixture("y").double(), []
    pair.guide.register_forward_hook(lambda module, given, values: calls.append(values))
    got = inference.label_probabilities(pair, ROWS, particles=1, shared=True)
    # q(z | x, y_s) is the same for all y, so that one draw leaves p(y) p(x | y, z, b).
    z, b = (calls[-1][name].reshape(4) for name in ("z", "b"))
    joint = PRIOR.log() + Normal(CENTRES + (z + b)[:, None], 1.0).log_prob(NUMBERS[:, None])
    torch.testing.assert_close(got, joint.softmax(-1))


def test_shared_draws_need_draws_and_a_label():
    pair = Mixture("y").double()
    with pytest.raises(ValueError, match="shared draws need particles of at least 1, got 0"):
        inference.label_probabilities(pair, ROWS, shared=True)
    with pytest.raises(ValueError, match="unknown missing label 'z': expected one of b, y"):
        inference.label_probabilities(pair, ROWS, "z", particles=2, shared=True)
