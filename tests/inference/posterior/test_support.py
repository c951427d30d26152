"""Observed values against the support of their site, whatever the distribution is made of."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_models import Batch, Card, Config, Pair, data, guides, inference
from ppl_models.inference.posterior.support import surely_inside


@dataclass(frozen=True)
class NoConfig(Config):
    """Nothing to set."""


class Amounts(Pair):
    """Positive amounts: a transformed distribution, whose base has the whole line."""

    Config = NoConfig
    card = Card("amounts", "-", "-", 2026, "-", "test", {"x": "amounts"}, {"z": "size"})

    def __init__(self) -> None:
        super().__init__(NoConfig())
        self.guide = guides.Factored(z=guides.Normal(1, {"x": 3}, (4,)))

    def model(self, batch: Batch) -> None:
        """p(z) p(x | z)."""
        zero = self.like().new_zeros(1)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            x = dist.LogNormal(z.expand(*z.shape[:-1], 3), 1.0).to_event(1)
            pyro.sample("x", x, obs=batch.get("x"))


def test_a_transformed_distribution_has_a_support_of_its_own():
    x = torch.tensor([[1.0, 2.0, 0.5], [0.1, 3.0, 1.0], [1.0, 1.0, -0.5]])
    inference.check_data(Amounts(), data.Table("t", {"x": x[:2]}))
    words = r"'x', row 2 of t, column 2: the value -0.5 is outside the support of LogNormal"
    with pytest.raises(ValueError, match=words):
        inference.check_data(Amounts(), data.Table("t", {"x": x}))


NAN, INF = float("nan"), float("inf")
SUPPORTS = {
    "real": dist.Normal(0.0, 1.0),
    "vector": dist.Normal(torch.zeros(2), 1.0).to_event(1),
    "boolean": dist.Bernoulli(0.5),
    "unit interval": dist.ContinuousBernoulli(torch.tensor(0.5)),
    "interval": dist.Uniform(-1.0, 2.0),
    "positive": dist.Gamma(1.0, 1.0),
    "counts": dist.Poisson(1.0),
    "labels": dist.Categorical(torch.ones(3)),
    "half open": dist.Beta(2.0, 2.0),
}


@pytest.mark.parametrize("kind", SUPPORTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_extremes_never_pass_what_a_look_at_every_value_refuses(kind, dtype):
    support = SUPPORTS[kind].support
    numbers = [-2.0, -1.0, -0.5, 0.0, 0.25, 1.0, 1.5, 2.0, 3.0, NAN, INF, -INF]
    for one in numbers:
        for other in numbers:
            if dtype == torch.int64 and not (one == one // 1 and other == other // 1):
                continue
            if dtype == torch.int64 and INF in (abs(one), abs(other)):
                continue
            values = torch.tensor([[one, other], [other, other]], dtype=dtype)
            inside = bool(support.check(values).all()) and bool(values.isfinite().all())
            assert inside or not surely_inside(values, support), (one, other)
            if kind in ("real", "vector", "boolean", "unit interval", "interval"):
                assert inside == surely_inside(values, support), (one, other)
