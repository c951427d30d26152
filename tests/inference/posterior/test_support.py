"""Observed values against the support of their site, whatever the distribution is made of."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_models import Batch, Card, Config, Pair, data, guides, inference


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
