"""The procedural spectra, the light they are seen in, and the likelihood of a spectrum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.integrate import quad
from torch.testing import assert_close

from ppl_models import Card, Config, Pair, data, inference
from ppl_models.data.render.spectra import CLASSES, prototypes
from ppl_models.data.render.sunlight import wavelengths
from ppl_models.parts.physics import Illumination, clear_sky
from ppl_models.parts.spectral_angle import SpectralAngle, spectral_angle

# ---- light -----------------------------------------------------------------------------------


def test_bands_lie_in_the_windows_of_the_atmosphere():
    bands = wavelengths()
    assert len(bands) == 95 and bool((bands.diff() > 0.012).all())
    starts = [0, 23, 32, 40, 51, 71]
    assert_close(bands[starts], torch.tensor([0.453, 0.772, 0.986, 1.162, 1.506, 2.026]).double())
    assert float(bands[-1]) == pytest.approx(2.026 + 23 * 0.0125)
    few = wavelengths(5)
    assert_close(few[[0, -1]], bands[[0, -1]])
    # Place 23.5 of 0..94, half way between the last band of a window and the first of the next.
    assert float(few[1]) == pytest.approx((bands[23] + bands[24]) / 2)


def test_light_is_the_formula_of_the_paper():
    cosine, r0 = math.cos(math.radians(40)), torch.tensor([0.6, 0.1, 0.0])
    light = Illumination(r0, cosine, excess=0.2)
    z_P, omega = torch.tensor([0.0, 0.3, cosine]), torch.tensor([0.5, 0.9, 1.0])
    for k, (z, o) in enumerate(zip(z_P.tolist(), omega.tolist(), strict=True)):
        hand = [(z + o * r) / (cosine + r) for r in r0.tolist()]
        assert_close(light(z_P, omega)[k], torch.tensor(hand))
        assert_close(light(z_P)[k], light(z_P[k], z_P[k] + 0.2))
    assert_close(light(z_P, omega)[2], torch.ones(3), rtol=0, atol=1e-7)
    assert not list(light.parameters()) and not light.state_dict()


def test_a_clear_sky_has_the_measured_power_law():
    sky = clear_sky(3, sun=60.0, wavelength=(0.5, 1.0, 2.0))
    assert sky.cos_theta == pytest.approx(0.5)
    hand = [0.078 / 0.5**1.915, 0.078, 0.078 / 2**1.915]
    assert_close(sky.r0, torch.tensor(hand))
    with pytest.raises(ValueError, match=r"cos_theta is 1\.2"):
        Illumination(torch.ones(2), 1.2)
    with pytest.raises(ValueError, match="r0 has entries that are negative"):
        Illumination(torch.tensor([0.1, -0.1]), 0.5)


# ---- the set ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spectra():
    return data.load("spectra", labelled=400, unlabelled=600, validation=50, test=2000, seed=3)


def test_only_sunlit_rows_are_labelled(spectra):
    sites, mask = spectra.train.sites, spectra.train.observed["y"]
    assert spectra.train.counts["y"] == 400 and spectra.train.sizes["x"] == 95
    assert spectra.train.classes["y"] == CLASSES
    assert float(sites["irradiance"][mask].min()) >= 0.7
    assert float(sites["sky_view"][mask].min()) >= 0.9
    assert 0.2 <= float(sites["sky_view"][~mask].min()) < 0.21
    for table in (spectra.train.rows((~mask).nonzero().flatten()), spectra.test):
        sun = table.sites["irradiance"]
        assert abs(float(sun.mean()) - 0.5) < 4 * math.sqrt(1 / 12 / len(table))
    counts = spectra.test.sites["y"].bincount() / 2000
    assert bool(((counts - 0.2).abs() < 4 * math.sqrt(0.2 * 0.8 / 2000)).all())


def test_pixels_are_reflectances_under_the_light_with_noise(spectra):
    sites = spectra.test.sites
    light = clear_sky(95)(sites["irradiance"], sites["sky_view"])
    noise = sites["x"] - sites["reflectance"] * light
    count = noise.numel()
    assert abs(float(noise.mean())) < 4 * 0.003 / count**0.5
    assert abs(float(noise.std()) / 0.003 - 1) < 4 / (2 * count) ** 0.5


def test_reflectances_mix_the_prototypes_of_their_own_material(spectra):
    y, rho = spectra.test.sites["y"].numpy(), spectra.test.sites["reflectance"].numpy()
    for k, ends in enumerate(prototypes().values()):
        system = np.vstack([ends.T, 1e3 * np.ones(len(ends))])
        known = np.vstack([rho[y == k].T, 1e3 * np.ones((y == k).sum())])
        shares, *_ = np.linalg.lstsq(system, known, rcond=None)
        assert np.abs(ends.T @ shares - rho[y == k].T).max() < 1e-5
        assert shares.min() > -1e-3
        # A share of Dirichlet(1, ..., 1) over n has variance (n - 1) / n^2 / (n + 1).
        n, rows = len(ends), (y == k).sum()
        error = math.sqrt((n - 1) / n**2 / (n + 1) / rows)
        assert np.abs(shares.mean(1) - 1 / n).max() <= 4 * error + 1e-4


def test_prototypes_have_the_values_of_their_formulas():
    spectra, u = prototypes(), wavelengths().numpy()
    assert [len(s) for s in spectra.values()] == [3, 1, 2, 3, 1] and tuple(spectra) == CLASSES
    step = lambda c, w, at: 1 / (1 + math.exp(-(at - c) / w))  # noqa: E731
    bump = lambda c, w, at: math.exp(-(((at - c) / w) ** 2) / 2)  # noqa: E731
    at = {w: int(np.abs(u - w).argmin()) for w in (0.55, 0.86, 1.2, 2.2)}
    green, near, short, far = (float(u[i]) for i in at.values())
    leaf, metal, clay = spectra["vegetation"][0], spectra["aluminium"][0], spectra["loam"][0]
    edge = step(0.715, 0.012, near)
    water = 1 - 0.35 * step(1.38, 0.03, near) - 0.5 * bump(1.45, 0.12, near)
    water -= 0.45 * step(1.88, 0.03, near) + 0.12 * bump(1.2, 0.05, near)
    assert leaf[at[0.86]] == pytest.approx(0.03 * (1 - edge) + 0.5 * edge * water, abs=1e-9)
    assert leaf[at[0.55]] == pytest.approx(0.1, abs=2e-3)  # the green peak
    hand = 0.37 - 0.06 * (short - 0.45) - 0.16 * bump(0.9, 0.1, short)
    hand += 0.3 * step(1.15, 0.08, short) + 0.08 * (short - 1.2) * step(1.2, 0.05, short)
    assert metal[at[1.2]] == pytest.approx(hand, abs=1e-9)
    hand = 0.02 + 0.49 * (1 - math.exp(-(far - 0.42) / 0.32)) - 0.04 * bump(2.2, 0.04, far)
    assert clay[at[2.2]] == pytest.approx(hand, abs=1e-9)
    hand = 0.1 + 0.2 * step(0.55, 0.035, green) + 0.06 * math.sin(2 * (green - 0.5))
    hand -= 0.012 * bump(0.86, 0.06, green) + 0.05 * step(1.9, 0.05, green)
    assert spectra["tile"][0][at[0.55]] == pytest.approx(hand, abs=1e-9)
    hand = 0.071 + 0.013 * (1 - math.exp(-(far - 0.45) / 0.12)) - 0.005 * step(2.1, 0.08, far)
    assert spectra["asphalt"][0][at[2.2]] == pytest.approx(hand, abs=1e-9)


def test_a_set_comes_from_its_seed_and_bad_options_are_named(spectra):
    again = data.remake(spectra.recipe)
    assert again.recipe["digest"] == spectra.recipe["digest"]
    for options, message in (
        ({"noise": -1.0}, r"noise is -1\.0, expected >= 0"),
        ({"labelled": 0}, "labelled is 0, expected at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            data.load("spectra", **options)


# ---- the likelihood --------------------------------------------------------------------------


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


# ---- vectors whose support is not entry by entry ---------------------------------------------


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
