"""Unsupervised errors of denoisers: exact over all noise there is, by loops, in closed form."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from ppl_models.inference import metrics

# Noise of mean 0, as (value, probability); the second is skewed.
EVEN, SKEWED = ((-0.3, 0.5), (0.3, 0.5)), ((-0.2, 2 / 3), (0.4, 1 / 3))
CLEAN = torch.tensor([[0.2, 0.9]], dtype=torch.float64)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def everything(noise, copies):
    """All noisy copies ``(copies, M, 2)`` of two pixels, and their probabilities."""
    found = list(itertools.product(noise, repeat=2 * copies))
    values = torch.tensor([[v for v, _ in way] for way in found], dtype=torch.float64)
    weights = torch.tensor([math.prod(p for _, p in way) for way in found], dtype=torch.float64)
    return CLEAN + values.reshape(-1, copies, 2).movedim(1, 0), weights


def smooth(noisy):
    """A denoiser that mixes the pixels."""
    return 0.6 * noisy + 0.3 * noisy.flip(-1)


@pytest.mark.parametrize("noise", [EVEN, SKEWED])
def test_it_is_unbiased_over_all_noise_there_is(noise):
    (y, *references), weights = everything(noise, 4)
    f = smooth(y)
    wanted = float(weights @ (CLEAN - f).square().mean(1))

    def mean(references, **mode):
        return float(weights @ metrics.umse(f, references, **mode).value)

    assert mean(references) == pytest.approx(wanted, rel=1e-12)
    assert mean(references, mode="averaged") == pytest.approx(wanted, rel=1e-12)
    assert mean(references[:2], mode="averaged") == pytest.approx(wanted, rel=1e-12)
    a, b, _ = references
    # The second and the third may be what was denoised, the first must not: the noise in f and in
    # y have the covariance 0.6 s^2, which the estimate lacks twice.
    assert mean([a, b, y]) == pytest.approx(wanted, rel=1e-12)
    assert mean([a, y, b]) == pytest.approx(wanted, rel=1e-12)
    s2 = sum(p * v**2 for v, p in noise)
    assert mean([y, a, b]) == pytest.approx(wanted - 1.2 * s2, rel=1e-12)
    naive = float(weights @ (a - f).square().mean(1))
    assert naive == pytest.approx(wanted + s2, rel=1e-12)


def test_what_correlated_noise_and_other_exposures_do():
    # One draw for both pixels of a copy: unbiased, but the mean varies as a single term does.
    references, weights = everything(EVEN, 3)
    alike = CLEAN + (references - CLEAN)[..., :1]
    f = torch.full((len(weights), 2), 0.5, dtype=torch.float64)
    truth = float((CLEAN - 0.5).square().mean())
    assert float(weights @ metrics.umse(f, alike).value) == pytest.approx(truth, rel=1e-12)
    # Of b and c with twice the deviation four times the variance is subtracted.
    a, b, c = references
    louder = metrics.umse(f, [a, 2 * b - CLEAN, 2 * c - CLEAN]).value
    assert float(weights @ louder) == pytest.approx(truth - 3 * 0.3**2, rel=1e-12)
    level = 0.5 + 0 * drawn(2000, 40)
    noise = 0.3 * drawn(3, 2000, 20, seed=1)
    found = metrics.umse(level - 0.2, level + torch.cat((noise, noise), -1))
    assert float(found.value.std() / found.se.mean()) == pytest.approx(math.sqrt(2), rel=0.1)


@pytest.mark.parametrize("noise", [EVEN, SKEWED])
def test_the_variance_of_a_term_is_that_of_the_moments(noise):
    references, weights = everything(noise, 3)
    f = torch.tensor([[0.5, 0.6]], dtype=torch.float64).expand(len(weights), 2)
    s2, m3, m4 = (sum(p * v**k for v, p in noise) for k in (2, 3, 4))
    e = CLEAN - f[:1]
    found = metrics.umse(f, references).terms
    variance = weights @ found.square() - (weights @ found) ** 2
    wanted = 4 * e**2 * s2 + 4 * e * m3 + (m4 - s2**2) + (m4 + s2**2) / 2
    torch.testing.assert_close(variance, wanted[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
def test_values_and_errors_are_those_of_loops(dtype):
    f, *references = (
        (60 * drawn(3, 2, 5, seed=k) + 120).clamp(0, 255).to(dtype) for k in range(4)
    )
    if dtype == torch.float32:
        f, references = f + 1e4, [r + 1e4 for r in references]  # digits that sums would lose
    found = metrics.umse(f, references)
    again = metrics.umse(f.numpy(), np.stack([r.numpy() for r in references]))
    assert found.value.dtype == torch.float64 and found.terms.shape == (3, 10)
    for row in range(3):
        a, b, c, own = ([float(v) for v in r[row].flatten()] for r in (*references, f))
        terms = [(a[i] - own[i]) ** 2 - (b[i] - c[i]) ** 2 / 2 for i in range(10)]
        assert found.value[row] == pytest.approx(np.mean(terms), rel=1e-13)
        assert found.se[row] == pytest.approx(np.std(terms, ddof=1) / math.sqrt(10), rel=1e-13)
    assert torch.equal(found.terms, again.terms)
    # Of three references the averaged estimate is the mean over the parts that they can play.
    parts = [
        metrics.umse(f, [references[k] for k in at]).value
        for at in ((0, 1, 2), (1, 2, 0), (2, 0, 1))
    ]
    averaged = metrics.umse(f, references, mode="averaged")
    torch.testing.assert_close(averaged.value, torch.stack(parts).mean(0), rtol=1e-12, atol=1e-9)
    two = metrics.umse(f, references[:2], mode="averaged").terms
    a, b, own = (v.double().flatten(1) for v in (*references[:2], f))
    torch.testing.assert_close(
        two, ((a + b) / 2 - own) ** 2 - (a - b) ** 2 / 4, rtol=1e-12, atol=1e-9
    )
    assert averaged.mode == "averaged" and found.mode == "paper"


def test_of_gaussian_noise_deviations_and_intervals_are_right():
    # 400 images of 1,024 pixels: the standard error of their deviation is 3.5 %, that of the share
    # of intervals that cover 1.1 %. The squared error is the same in all pixels.
    s, count = 0.2, 400
    clean = 0.5 + 0 * drawn(count, 32, 32)
    references = clean + s * drawn(3, count, 32, 32, seed=1)
    f = clean + torch.where(drawn(32, 32, seed=2) > 0, 0.1, -0.1)
    per_pixel = {
        "paper": 4 * 0.1**2 * s**2 + 4 * s**4,
        "averaged": 4 * 0.1**2 * s**2 / 3 + 2 * s**4 / (3 * 2),
    }
    for mode, variance in per_pixel.items():
        found = metrics.umse(f, references, mode=mode)
        deviation = math.sqrt(variance / 1024)
        assert float(found.value.std()) == pytest.approx(deviation, rel=0.15)
        assert float(found.se.mean()) == pytest.approx(deviation, rel=0.02)
        for low, high in (
            metrics.umse_interval(found),
            metrics.umse_bootstrap(found, resamples=500),
        ):
            covered = float(((low <= 0.01) & (high >= 0.01)).double().mean())
            assert abs(covered - 0.95) < 0.045, mode
        assert abs(float(found.value.mean()) - 0.01) < 4 * deviation / math.sqrt(count)


def test_cut_references_are_biased_as_the_cut_noise_is():
    # Black images whose noise of deviation 0.3 is cut at 0: its mean is s / sqrt(2 pi).
    references = (0.3 * drawn(3, 1, 400, 400)).clamp(min=0)
    found = metrics.umse(torch.zeros(1, 400, 400), references)
    bias = 0.3**2 / (2 * math.pi)
    assert abs(float(found.value) - bias) < 4 * float(found.se) < bias / 10


def test_the_bootstrap_draws_terms_with_replacement():
    # Of two terms the mean is 0, 1/2 or 1, with probabilities 1/4, 1/2 and 1/4.
    both = metrics.UMSE(
        torch.tensor(0.5), torch.tensor(0.5), torch.tensor([0.0, 1.0]).double(), "paper"
    )
    state = torch.get_rng_state()
    assert metrics.umse_bootstrap(both) == (0, 1)
    assert metrics.umse_bootstrap(both, level=0.4) == (0.5, 0.5)
    estimate = metrics.umse(drawn(5, 300), drawn(3, 5, 300, seed=1))
    low, high = metrics.umse_bootstrap(estimate, seed=3)
    again = metrics.umse_bootstrap(estimate, seed=3)
    other = metrics.umse_bootstrap(estimate, seed=4)
    assert torch.equal(low, again[0]) and torch.equal(high, again[1])
    assert not torch.equal(low, other[0]) and torch.equal(state, torch.get_rng_state())
    # An image's interval does not hang on those beside it, and is nearly the normal one.
    alone = metrics.umse(drawn(5, 300)[2:3], drawn(3, 5, 300, seed=1)[:, 2:3])
    torch.testing.assert_close(metrics.umse_bootstrap(alone, seed=3)[1], high[2:3])
    normal = metrics.umse_interval(estimate)
    torch.testing.assert_close(normal[1] - normal[0], 2 * 1.959964 * estimate.se)
    torch.testing.assert_close(high - low, normal[1] - normal[0], rtol=0.15, atol=0)


def test_sets_of_images_have_two_upsnrs():
    estimate = metrics.umse(drawn(4, 50), drawn(3, 4, 50, seed=1))
    over = metrics.umse_over_images(estimate)
    values = estimate.value.numpy()
    assert over.value == pytest.approx(values.mean()) and over.value.shape == ()
    assert over.se == pytest.approx(values.std(ddof=1) / 2)
    of_set, of_images = metrics.upsnr(over.value, 255), metrics.mean_upsnr(estimate, 255)
    assert of_set == pytest.approx(10 * math.log10(255**2 / values.mean()))
    assert (
        of_images == pytest.approx((10 * np.log10(255**2 / values)).mean()) and of_images > of_set
    )
    low, high = metrics.umse_bootstrap(over)
    assert values.min() <= low < over.value < high <= values.max()
    with pytest.raises(ValueError, match=r"values of shape \(\), expected \(N,\) of two images"):
        metrics.umse_over_images(over)


def test_an_error_that_is_not_positive_has_no_upsnr():
    value = torch.tensor([0.01, 0.0, -0.002])
    with pytest.warns(UserWarning, match="uMSE is not positive in 2 of 3 values"):
        found = metrics.upsnr(value, 1.0)
    assert found[0] == pytest.approx(20) and bool(found[1:].isnan().all())
    assert metrics.upsnr(0.01, 10.0) == pytest.approx(40)
    assert metrics.psnr(torch.zeros(1), 1.0) == math.inf
    lower, upper = metrics.upsnr_interval(
        (torch.tensor([0.01, -0.1, -0.2]), torch.tensor([0.1, 0.1, -0.1])), 1.0
    )
    torch.testing.assert_close(lower, torch.tensor([10.0, 10.0, math.nan]), equal_nan=True)
    torch.testing.assert_close(upper, torch.tensor([20.0, math.inf, math.nan]), equal_nan=True)


IMAGES, COPIES = drawn(2, 3, 3), drawn(3, 2, 3, 3)
ESTIMATE = metrics.umse(IMAGES, COPIES)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.umse(IMAGES, COPIES[:2]), "there are 2 references, expected three"),
        (lambda: metrics.umse(IMAGES, COPIES[:1], "averaged"), "1 references to average"),
        (lambda: metrics.umse(IMAGES, COPIES, "average"), "unknown mode 'average': did you mean"),
        (
            lambda: metrics.umse(IMAGES, [*COPIES[:2], IMAGES[:1]]),
            r"reference 2 has shape \(1, 3, 3\), expected \(2, 3, 3\)",
        ),
        (lambda: metrics.umse(IMAGES / 0, COPIES), "denoised has values that are not finite"),
        (lambda: metrics.umse(IMAGES, COPIES.log()), "reference 0 has values that are not finite"),
        (lambda: metrics.umse(IMAGES[:, :1, 0], COPIES[..., :1, 0]), "two real numbers each"),
        (lambda: metrics.umse(IMAGES[:0], COPIES[:, :0]), r"denoised has shape \(0, 3, 3\)"),
        (lambda: metrics.umse_interval(ESTIMATE, 95), "level is 95, expected a number between"),
        (lambda: metrics.umse_bootstrap(ESTIMATE, 1.0), r"level is 1\.0, expected"),
        (lambda: metrics.umse_bootstrap(ESTIMATE, resamples=1), "resamples is 1, expected at"),
        (lambda: metrics.umse_bootstrap(ESTIMATE, seed=-1), "seed is -1, expected"),
        (lambda: metrics.upsnr(0.1, 0), "maximum is 0, expected a positive number"),
        (lambda: metrics.upsnr(0.1, math.nan), "maximum is nan, expected a positive number"),
    ],
)
def test_what_does_not_fit_is_one_line(call, words):
    with pytest.raises(ValueError, match=words) as told:
        call()
    assert "\n" not in str(told.value)
