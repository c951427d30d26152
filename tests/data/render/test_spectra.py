"""The procedural spectra and the light they are seen in."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ppl_models import data
from ppl_models.data.render.spectra import CLASSES, prototypes
from ppl_models.data.render.sunlight import wavelengths
from ppl_models.parts.physics import Illumination, clear_sky

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
