"""The classification term: class weights, and labels that hang on what the guide samples."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.testing import assert_close

from ppl_models import Batch, Card, Config, Pair, guides
from ppl_models.inference import Classification, EnumeratedELBO, Evaluation
from ppl_models.networks import Label

B, C, T = 6, 3, 2


@dataclass(frozen=True)
class WorldConfig(Config):
    """None."""


class World(Pair):
    """Labels y, then a code z, then a label t that the guide reads off both."""

    Config = WorldConfig
    card = Card(
        "world", "-", "-", 2026, "-", "-", {"x": "data"}, {"y": "-", "z": "-", "t": "-"},
        ("y", "t"),
    )  # fmt: skip

    def __init__(self, config: WorldConfig) -> None:
        super().__init__(config)
        self.means = torch.nn.Parameter(torch.randn(C, 2))
        self.guide = guides.Factored(
            y=guides.Categorical(C, {"x": 2}),
            z=guides.Normal(2, {"x": 2, "y": Label(C)}),
            t=guides.Categorical(T, {"z": 2, "y": Label(C)}, (4,)),
        )

    def model(self, batch: Batch) -> None:
        zero = self.like().new_zeros
        with self.plate(batch):
            y = pyro.sample("y", dist.Categorical(logits=zero(C)), obs=batch.get("y"))
            pyro.sample("t", dist.Categorical(logits=zero(T)), obs=batch.get("t"))
            z = pyro.sample("z", dist.Normal(zero(2), 1.0).to_event(1))
            x = dist.Normal(z + self.means[y], 1.0).to_event(1)
            pyro.sample("x", x, obs=batch.get("x"))


@pytest.fixture
def pair():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return World(WorldConfig()).double()


def batch(*labels, scale=1):
    g = torch.Generator().manual_seed(1)
    sites = {
        "x": torch.randn(B, 2, generator=g, dtype=torch.float64),
        "y": torch.arange(B) % C,
        "t": torch.tensor([0, 1, 1, 0, 0, 1]),
    }
    total = 4 * B * scale
    seen = {name: sites[name] for name in ("x", *labels)}
    observed = {"x": total, "y": total // 2, "t": B * scale}
    return Batch(seen, size=B * scale, total=total, observed=observed)


@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("kl", ["sampled", "analytic"])
@pytest.mark.parametrize("labels", [("t",), ("y", "t")], ids=["y missing", "y known"])
def test_a_label_given_draws_is_scored_at_those_of_the_bound(pair, labels, kl, scale):
    rows = batch(*labels, scale=scale)
    objective = EnumeratedELBO(kl=kl) + Classification("t", 0.5)
    torch.manual_seed(2)
    loss = objective.differentiable_loss(pair.model, pair.guide, rows)
    torch.manual_seed(2)
    run = objective.run(pair.model, pair.guide, rows)
    bound = EnumeratedELBO(kl=kl).rows(run)
    z = run.weights(analytic_kl=kl == "analytic").guide.nodes["z"]["value"].reshape(-1, B, 2)
    term = torch.zeros(B, dtype=torch.float64)
    q_y = pair.guide.factor("y", rows).probs
    for b in range(B):
        known = [int(rows["y"][b])] if "y" in rows else range(C)
        for place, y in enumerate(known):
            given = {"z": z[place, b], "y": torch.tensor(y)}
            log_q = pair.guide.factor("t", given).log_prob(rows["t"][b])
            term[b] = term[b] + (1.0 if "y" in rows else q_y[b, y]) * log_q
    assert_close(loss, scale * (bound - 0.5 * 4 * term).sum(), rtol=1e-10, atol=0)
    for other in (pair.guide.factors["t"], pair.guide.factors["z"]):
        grad = torch.autograd.grad(term.sum(), other.parameters(), retain_graph=True)
        again = Classification("t", 0.5).rows(run).sum() / (-0.5 * 4)
        found = torch.autograd.grad(again, other.parameters(), retain_graph=True)
        assert_close(found, grad)


@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("site", ["y", "t"])
def test_class_weights_multiply_the_rows_of_their_class(pair, site, scale):
    rows = batch("y", "t", scale=scale)
    classes = (2.0, 0.0, 0.5)[: C if site == "y" else T]
    run = Evaluation(pair.model, pair.guide, rows)
    plain = Classification(site, 0.3).rows(run)
    weighted = Classification(site, 0.3, classes).rows(run)
    assert_close(weighted, torch.tensor(classes).double()[rows[site]] * plain)
    assert float(plain.detach().min()) > 0


def test_rows_without_the_label_add_nothing(pair):
    run = Evaluation(pair.model, pair.guide, batch("y"))
    assert not bool(Classification("t", 1.0, (1.0, 2.0)).rows(run).any())


def test_prints_what_it_weighs():
    term = Classification("y", 2.0, (1.5, 1.0))
    assert repr(term) == "Classification('y', weight=2, classes=(1.5, 1))"
    assert str(term) == "2 (N / N_labelled) c(y) log q(y | ...)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Classification("y", classes=(1.0, -1.0)), "a class weight .* is -1.0"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_another_number_of_classes_is_named(pair):
    run = Evaluation(pair.model, pair.guide, batch("y", "t"))
    with pytest.raises(ValueError, match=r"Classification\('y'\) has 2 class weights, expected 3"):
        Classification("y", classes=(1.0, 1.0)).rows(run)
