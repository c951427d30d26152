"""Labels by draws that all labels share, against the exact posterior."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal
from torch.testing import assert_close

from ppl_models import Card, Config, Pair, data, guides, inference
from ppl_models.networks import Label, Scalar

MEANS = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
PRIOR = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
X = torch.tensor([-2.0, 0.0, 0.7, 3.0], dtype=torch.float64)
TABLE = data.Table("t", {"x": X})
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
            pyro.sample("x", dist.Normal(MEANS[y] + z + b, 1.0), obs=batch.get("x"))


def exact():
    bits = torch.tensor([0.7, 0.3], dtype=torch.float64)
    density = Normal(MEANS[:, None] + torch.arange(2), 2**0.5).log_prob(X[:, None, None]).exp()
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
            inference.label_probabilities(pair, TABLE, particles=K // 20, seed=s, shared=True)
            for s in range(20)
        ]
    )
    error = parts.std(0) / 20**0.5
    assert bool(((parts.mean(0) - exact()).abs() < 5 * error + 1e-3).all())
    assert bool((error < 0.01).all())
    assert_close(parts.sum(-1), torch.ones(20, 4).double())


def test_one_draw_weighs_all_labels_with_the_code_of_the_drawn_one():
    torch.manual_seed(0)
    pair, calls = Mixture("y").double(), []
    pair.guide.register_forward_hook(lambda module, given, values: calls.append(values))
    got = inference.label_probabilities(pair, TABLE, particles=1, shared=True)
    # q(z | x, y_s) is the same for all y, so that one draw leaves p(y) p(x | y, z, b).
    z, b = (calls[-1][name].reshape(4) for name in ("z", "b"))
    joint = PRIOR.log() + Normal(MEANS + (z + b)[:, None], 1.0).log_prob(X[:, None])
    assert_close(got, joint.softmax(-1))


def test_shared_draws_need_draws_and_a_label():
    pair = Mixture("y").double()
    with pytest.raises(ValueError, match="shared draws need particles of at least 1, got 0"):
        inference.label_probabilities(pair, TABLE, shared=True)
    with pytest.raises(ValueError, match="unknown missing label 'z': expected one of b, y"):
        inference.label_probabilities(pair, TABLE, "z", particles=2, shared=True)
