"""The likelihood of a spectrum: an angle and a brightness."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.integrate import quad
from torch.testing import assert_close

from ppl_models import Card, Config, Pair, data, inference
from ppl_models.parts.spectral_angle import SpectralAngle, spectral_angle


def test_log_density_is_minus_the_error_over_the_temperature():
    f, x = torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.tensor([1.0, 1.0])
    hand = [
        -(0.5 + 2 * math.pi / 4) / 0.1,
        -((4 + 9) / 2 + 2 * math.acos(7 / 5 / math.sqrt(2))) / 0.1,
    ]
    assert_close(SpectralAngle(f, 0.1, 2.0).log_prob(x), torch.tensor(hand))
    assert_close(spectral_angle(3 * x, f), spectral_angle(x, 0.2 * f))  # brightness is no part
    assert SpectralAngle(f).expand((3, 2)).batch_shape == (3, 2)


def test_slopes_are_finite_where_spectra_agree_or_vanish():
    x = torch.tensor([[0.2, 0.4], [0.0, 0.0], [-0.2, -0.4]])
    f = torch.tensor([0.2, 0.4], requires_grad=True)
    (grad,) = torch.autograd.grad(SpectralAngle(f.expand(3, 2)).log_prob(x).sum(), f)
    assert bool(grad.isfinite().all())


def test_draws_follow_brightness_and_direction():
    torch.manual_seed(0)
    bands, T, rows = 95, 1e-4, 20_000
    f = torch.linspace(0.1, 0.5, bands, dtype=torch.float64)
    size = float(f.norm())
    draws = SpectralAngle(f.expand(rows, bands), T).sample()
    theta = spectral_angle(draws, f)

    # The density of the angle, brightness integrated out.
    def log_density(t):
        return (bands - 2) * math.log(math.sin(t)) - t / T - (size * math.sin(t)) ** 2 / bands / T

    top = log_density(94 * T)
    moments = [
        quad(lambda t, k=k: t**k * math.exp(log_density(t) - top), 1e-3, 0.03, points=[94 * T])[0]
        for k in (0, 1, 2)
    ]
    mean = moments[1] / moments[0]
    spread = math.sqrt(moments[2] / moments[0] - mean**2)
    assert abs(float(theta.mean()) - 94 * T) < 4 * math.sqrt(94) * T / rows**0.5
    assert abs(94 * T - mean) < 0.03 * mean  # what small angles leave out
    assert float(theta.std()) == pytest.approx(spread, rel=0.05)
    along = draws.norm(dim=-1) - size * theta.cos()
    assert abs(float(along.mean())) < 4 * math.sqrt(bands * T / 2 / rows)
    assert float(along.var()) == pytest.approx(bands * T / 2, rel=4 * math.sqrt(2 / rows))


@dataclass(frozen=True)
class _NoConfig(Config):
    """Nothing to set."""


class _Shares(Pair):
    Config = _NoConfig
    card = Card("shares", "-", "-", 2026, "-", "test", {"x": "shares"}, {})

    def __init__(self) -> None:
        super().__init__(_NoConfig())
        self.scale = torch.nn.Parameter(torch.ones(3))

    def model(self, batch):
        with self.plate(batch):
            pyro.sample("x", dist.Dirichlet(self.scale), obs=batch.get("x"))


def test_a_row_outside_the_support_of_a_vector_is_named():
    x = torch.tensor([[0.2, 0.3, 0.5], [0.5, 0.5, 0.0], [0.2, 0.2, 0.2]])
    pair = _Shares()
    good = data.Table("t", {"x": x[:2]})
    inference.check_data(pair, good)
    with pytest.raises(
        ValueError, match=r"site 'x', row 2 of t.* outside the support of Dirichlet"
    ):
        inference.check_data(pair, data.Table("t", {"x": x}))
