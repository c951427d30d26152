"""Subsampled references, pairs as denoisers in closed form, and denoisers side by side."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from worlds.pages import run_page

import ppl_models as zoo
from ppl_models import data
from ppl_models.data.render.noisy import gratings
from ppl_models.inference import metrics


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blocks(images):
    """The pixels of each block of 2 x 2 ``(4, N, H/2, W/2, ...)``, by slices."""
    return torch.stack([images[:, i::2, j::2] for i in (0, 1) for j in (0, 1)])


@pytest.mark.parametrize("shape", [(2, 4, 6), (3, 6, 4, 2)])
def test_four_images_have_every_pixel_once(shape):
    images = torch.arange(float(math.prod(shape))).reshape(shape)
    y, references = metrics.subsample_references(images, layout="fixed")
    assert torch.equal(torch.cat((y[None], references)), blocks(images))
    y, references = metrics.subsample_references(images)
    parts = torch.cat((y[None], references))
    assert torch.equal(parts.sort(0).values, blocks(images))  # which lie in ascending order
    if len(shape) == 4:  # channels of a pixel stay together
        assert bool((parts[..., 1] - parts[..., 0] == 1).all())
    again = metrics.subsample_references(images.numpy())
    assert torch.equal(y, again[0]) and torch.equal(references, again[1])
    assert not torch.equal(y, metrics.subsample_references(images, seed=1)[0])


def test_of_a_random_layout_each_pixel_goes_anywhere_as_often():
    place = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).repeat(100, 100).unsqueeze(0)
    y, (a, b, c) = metrics.subsample_references(place)
    for part in (y, a, b, c):
        often = torch.bincount(part.long().flatten()) / 10_000
        assert bool(((often - 0.25).abs() < 4 * math.sqrt(0.25 * 0.75 / 10_000)).all())
    # All 24 orders of a block are as likely.
    orders = (y + 4 * a + 16 * b + 64 * c).long().unique(return_counts=True)[1] / 10_000
    assert len(orders) == 24
    assert bool(((orders - 1 / 24).abs() < 4.5 * math.sqrt(23 / 24**2 / 10_000)).all())


def test_subsampling_is_fair_to_smooth_images_and_not_to_rough_ones():
    # Without noise, where the bias is all there is. Of white noise as the clean image the term
    # that is subtracted is the image's own variance, 1/12.
    def told(clean, layout):
        y, references = metrics.subsample_references(clean, layout)
        f = torch.from_numpy(gaussian_filter(y.numpy(), (0, 1, 1), mode="wrap"))
        return float(metrics.umse(f, references).value), float((y - f).square().mean())

    smooth = torch.from_numpy(gratings(1, 256, np.random.default_rng(0), cycles=6.0)).double()
    rough = torch.from_numpy(np.random.default_rng(1).random((1, 256, 256)))
    for layout in ("fixed", "random"):
        found, truth = told(smooth, layout)
        # To be told beside an error of 3.2e-3, that of the filter in noise of deviation 0.2.
        assert abs(found - truth) < 0.15 * 3.2e-3
        found, truth = told(rough, layout)
        # The filter's weights: their squares sum to k2, the middle one is k0.
        kernel = gaussian_filter(np.eye(1, 81, 40).reshape(9, 9), 1)
        k0, k2 = kernel[4, 4], (kernel**2).sum()
        assert truth == pytest.approx((1 - 2 * k0 + k2) / 12, rel=0.02)
        assert found == pytest.approx(k2 / 12, abs=1.5e-3)
        assert found < 0.15 * truth


@pytest.fixture(scope="module")
def rows():
    return data.load("noisy_images", train=20, validation=1, test=60, side=6, level=0.3)


@pytest.fixture(scope="module")
def linear(rows):
    """Its decoder is linear: the mean over draws is what it gives at the posterior mean."""
    return zoo.build("vae", rows, likelihood="normal", latent=2, hidden=())


def test_a_pair_denoises_by_its_decoders_mean(rows, linear):
    x = rows.test.sites["x"]
    with torch.no_grad():
        q = linear.guide.factor("z", {"x": x})
        at_mean = linear.decoder(z=q.mean).chunk(2, -1)[0]
        weights = (
            linear.decoder(z=torch.eye(2)).chunk(2, -1)[0]
            - linear.decoder(z=torch.zeros(2, 2)).chunk(2, -1)[0]
        )
        spread = (q.stddev.square() @ weights.square()).sqrt()  # of what a draw decodes to
    found = metrics.denoise(linear, rows.test, draws=None)
    torch.testing.assert_close(found.images, at_mean)
    assert found.representation == "posterior mean"
    state = torch.get_rng_state()
    found = metrics.denoise(linear, rows.test, draws=200, seed=3)  # in 30 blocks
    assert found.representation == "mean of 200 posterior draws, seed 3"
    scaled = (found.images - at_mean) / (spread / math.sqrt(200))
    assert float(scaled.abs().max()) < 5 and abs(float(scaled.square().mean()) - 1) < 0.3
    again = metrics.denoise(linear, rows.test, draws=200, seed=3)
    assert torch.equal(again.images, found.images) and torch.equal(state, torch.get_rng_state())
    assert not torch.equal(metrics.denoise(linear, rows.test, draws=200).images, found.images)


def test_what_a_row_lacks_is_not_looked_at():
    digits = data.load("paired_digits", train=20, validation=1, test=30)
    pair = zoo.build("mvae", digits, hidden=(8,), latent=2)
    some = digits.test.hide({"t": torch.arange(30) < 20})
    found = metrics.denoise(pair, some, site="s", draws=None).images
    both, alone = (
        metrics.denoise(pair, rows, site="s", draws=None).images
        for rows in (digits.test, digits.test.only("s"))
    )
    torch.testing.assert_close(found, torch.cat((both[:20], alone[20:])))
    assert float((both - alone).abs().max()) > 1e-3


def test_denoisers_side_by_side(rows, linear):
    sites = rows.test.sites
    references = [sites[name] for name in "abc"]
    denoised = {"none": sites["x"], "vae": metrics.denoise(linear, rows.test, draws=None)}
    found = metrics.denoising_scores(denoised, references, 1.0, clean=sites["clean"])
    assert found.sizes == {"denoiser": 2, "image": 60}
    assert found.attrs["mode"] == "paper" and found.attrs["maximum"] == 1
    assert found.attrs["version_ppl_models"] == zoo.__version__
    assert list(found.representation.values) == ["given", "posterior mean"]
    for name, images in (("none", sites["x"]), ("vae", denoised["vae"].images)):
        own, estimate = found.sel(denoiser=name), metrics.umse(images, references)
        over = metrics.umse_over_images(estimate)
        assert np.array_equal(own.umse, estimate.value) and np.array_equal(own.se, estimate.se)
        assert own.set_umse == pytest.approx(float(over.value))
        assert own.set_se == pytest.approx(float(over.se))
        assert own.set_upsnr == pytest.approx(float(metrics.upsnr(over.value, 1.0)))
        assert own.mean_upsnr == pytest.approx(float(metrics.mean_upsnr(estimate, 1.0)))
        error = (images - sites["clean"]).double().square().mean(1).numpy()
        np.testing.assert_allclose(own.mse, error, rtol=1e-5)
        np.testing.assert_allclose(own.psnr, -10 * np.log10(error), rtol=1e-5)
    one = metrics.denoising_scores(
        {"none": sites["x"][:1]}, [r[:1] for r in references], 1.0, mode="averaged"
    )
    assert "mse" not in one and bool(one.set_se.isnull().all()) and bool((one.set_umse > 0).all())
    with pytest.raises(ValueError, match="there is no denoiser, expected one"):
        metrics.denoising_scores({}, references, 1.0)
    with pytest.raises(ValueError, match=r"clean has shape \(5, 36\), expected \(60, 36\)"):
        metrics.denoising_scores(denoised, references, 1.0, clean=sites["clean"][:5])
    with pytest.raises(ValueError, match=r"maximum is inf, expected a positive number"):
        metrics.denoising_scores(denoised, references, math.inf)


def test_what_does_not_fit_is_one_line(rows, linear):
    hidden = rows.test.hide({"x": torch.arange(60) != 7})
    calls = {
        "unknown site of the data 'y'": lambda: metrics.denoise(linear, rows.test, site="y"),
        "site 'x' of noisy_images/test is hidden in row": lambda: metrics.denoise(linear, hidden),
        "draws is 0, expected at least 1": lambda: metrics.denoise(linear, rows.test, draws=0),
        "unknown site 'x'": lambda: metrics.denoise(linear, rows.test.only("a")),
        r"images have shape \(4, 4\), expected": lambda: metrics.subsample_references(drawn(4, 4)),
        "with even H and W": lambda: metrics.subsample_references(drawn(1, 4, 5)),
        "unknown layout 'randm': did you mean 'random'": lambda: metrics.subsample_references(
            drawn(1, 4, 4), "randm"
        ),
    }
    for words, call in calls.items():
        with pytest.raises(ValueError, match=words) as told:
            call()
        assert "\n" not in str(told.value)


def test_the_python_of_the_page_runs():
    scope = run_page("metrics/denoising")
    scores, references = scope["scores"], scope["references"]
    images = scope["denoised"].images
    wanted = metrics.umse(images, references, "averaged").value.mean()
    assert scores.set_umse.sel(denoiser="vae") == pytest.approx(float(wanted))
