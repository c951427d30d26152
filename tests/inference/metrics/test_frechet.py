"""Distances of samples of features: closed forms, brute force, and both ways to the cross term."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import scipy.linalg
import torch

from ppl_models.inference.metrics import (
    Moments,
    extrapolated_distance,
    frechet_bias,
    frechet_distance,
    kernel_distance,
)
from ppl_models.inference.metrics.frechet import root_trace, root_trace_of_rows


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gaussian(mean, variances, count=5):
    """Moments of a Gaussian with a diagonal covariance, exactly."""
    mean = torch.as_tensor(mean, dtype=torch.float64)
    return Moments(count, mean, torch.diag(torch.as_tensor(variances).double()) * (count - 1))


def brute_force(x, y):
    """The definition, with a general matrix root."""
    x, y = x.double().numpy(), y.double().numpy()
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(a @ b)
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + (a + b - 2 * root.real).trace()


# ---- Frechet's distance ----------------------------------------------------------------------


def test_commuting_covariances_have_a_closed_form():
    a, b = [1.0, 2.0, 3.0], [2.0, 0.5, 3.0]
    found = frechet_distance(gaussian([0, 0, 0], a), gaussian([1, 1, 1], b))
    wanted = 3 + sum((math.sqrt(x) - math.sqrt(y)) ** 2 for x, y in zip(a, b, strict=True))
    assert wanted == pytest.approx(3.5 + (1 - math.sqrt(2)) ** 2, abs=1e-12)
    assert found == pytest.approx(wanted, abs=1e-9)


def test_equal_covariances_leave_the_means():
    x = drawn(50, 6)
    shift = torch.arange(6.0).double()
    assert frechet_distance(x, x + shift) == pytest.approx(55.0, abs=1e-9)
    assert frechet_distance(x[:4], x[:4] + shift) == pytest.approx(55.0, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "m"), [(40, 70), (300, 20)])
def test_it_is_the_definition(n, m, dtype):
    x, y = drawn(n, 8, dtype=dtype), 0.3 + drawn(m, 8, seed=1, dtype=dtype).exp()
    assert frechet_distance(x, y) == pytest.approx(brute_force(x, y), rel=1e-9)
    assert frechet_distance(y, x) == pytest.approx(frechet_distance(x, y), rel=1e-12)


@pytest.mark.parametrize(
    ("n", "m", "d"), [(30, 25, 64), (20, 300, 40), (300, 20, 40), (64, 64, 8)]
)
def test_both_ways_to_the_cross_term_agree(n, m, d):
    x, y = drawn(n, d), 1 + 2 * drawn(m, d, seed=1)
    by_values = root_trace(Moments.of(x).covariance, Moments.of(y).covariance)
    assert float(root_trace_of_rows(x, y)) == pytest.approx(float(by_values), rel=1e-4)
    of_moments = frechet_distance(Moments.of(x), Moments.of(y))
    assert frechet_distance(x, y) == pytest.approx(of_moments, rel=1e-4)


def test_a_sample_is_at_no_distance_from_itself():
    few, many = drawn(300, 512), drawn(300, 16)
    assert abs(frechet_distance(few, few)) < 1e-8
    assert abs(frechet_distance(many, many)) < 1e-8
    # In another order, in other axes, and far away: nothing of it counts.
    turn = torch.linalg.qr(drawn(512, 512, seed=2)).Q
    assert abs(frechet_distance(few @ turn, few.flip(0) @ turn)) < 1e-8
    assert abs(frechet_distance(few.float() + 1000, few.float() + 1000)) < 1e-8


# ---- moments in parts ------------------------------------------------------------------------


def test_parts_have_the_moments_of_the_whole_however_far_from_zero():
    # A sum of squares less n m m' would keep no digit here: 1e8 squared against variances of 1.
    x = 1e8 + drawn(1000, 3)
    parts = [Moments.of(part) for part in x.split([1, 7, 400, 592])]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.merge(part)
    assert whole.count == 1000
    exact = np.cov((x - 1e8).numpy(), rowvar=False)
    np.testing.assert_allclose(whole.covariance, exact, atol=1e-6)
    assert torch.allclose(whole.mean, x.mean(0), rtol=1e-15)
    assert frechet_distance(whole, x) == pytest.approx(0, abs=1e-6)


# ---- bias ------------------------------------------------------------------------------------


def test_bias_of_equal_eigenvalues_and_of_one():
    d, n = 16, 500
    assert frechet_bias(torch.ones(d), n) == pytest.approx(d / n + d * (d + 1) / (4 * n))
    assert frechet_bias(torch.ones(2048), 10_000) == pytest.approx(105.1, abs=0.1)
    # Of one number: its mean's variance l / n, and l / (2 n) of its deviation's.
    assert frechet_bias(torch.tensor([3.0]), 10) == pytest.approx(0.3 + 0.15)
    # Features that never vary cost nothing.
    assert frechet_bias(torch.tensor([3.0, 0.0, 0.0]), 10) == pytest.approx(0.45)


def test_bias_is_the_mean_over_repeats():
    # Of 30 repeats, 12 times: 1.008 (0.024) and 1.009 (0.031) of the formula.
    for place, n in enumerate((500, 2000)):
        exact = gaussian(torch.zeros(16), torch.ones(16))
        found = [
            frechet_distance(exact, Moments.of(drawn(n, 16, seed=100 * place + k)))
            for k in range(30)
        ]
        assert statistics.mean(found) == pytest.approx(frechet_bias(torch.ones(16), n), rel=0.13)


# ---- many rows -------------------------------------------------------------------------------


def test_a_line_in_one_over_n_is_extrapolated_exactly():
    rows = drawn(200, 2)
    found = extrapolated_distance(lambda v: 3.0 + 40.0 / len(v), rows)
    assert found.value == pytest.approx(3.0, abs=1e-12)
    assert found.slope == pytest.approx(40.0, abs=1e-9)
    assert found.residual < 1e-12
    sizes, seen = [], []

    def kept(v):
        sizes.append(len(v))
        seen.append(v)
        return float(len(v) % 2)

    off = extrapolated_distance(kept, rows, seed=3)
    assert len(sizes) == 15 and sizes[0] == 20 and sizes[-1] == 200
    assert all(len(v.unique(dim=0)) == len(v) for v in seen)
    # The fit is numpy's.
    x, y = 1 / np.array(sizes), np.array(sizes) % 2
    slope, value = np.polyfit(x, y, 1)
    assert off.value == pytest.approx(value) and off.slope == pytest.approx(slope)
    assert off.residual == pytest.approx(np.sqrt(((y - value - slope * x) ** 2).mean()))


def test_subsets_depend_on_the_seed_alone():
    rows, reference = drawn(100, 3), Moments.of(drawn(500, 3, seed=1))

    def ask(seed):
        return extrapolated_distance(lambda v: frechet_distance(reference, v), rows, seed)

    state = torch.random.get_rng_state()
    assert ask(0) == ask(0) != ask(1)
    assert torch.equal(torch.random.get_rng_state(), state)


# ---- the kernel distance ---------------------------------------------------------------------


def unbiased_mmd(x, y):
    """The definition, pair by pair."""
    d = x.shape[1]

    def k(a, b):
        return (float(a @ b) / d + 1) ** 3

    n, m = len(x), len(y)
    within = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    others = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within + others - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kid_is_the_definition(dtype):
    x, y = drawn(22, 3, dtype=dtype), 0.5 + drawn(31, 3, seed=1, dtype=dtype)
    found = kernel_distance(x, y)
    assert found.value == pytest.approx(unbiased_mmd(x.double(), y.double()), rel=1e-10)
    assert kernel_distance(x, y, seed=0) == found != kernel_distance(x, y, seed=1)


def test_kid_of_more_rows_than_a_block_of_the_kernel(monkeypatch):
    x, y = drawn(50, 4), drawn(60, 4, seed=1)
    whole = kernel_distance(x, y)
    monkeypatch.setattr("ppl_models.inference.metrics.frechet.BLOCK", 7)
    assert kernel_distance(x, y) == pytest.approx(whole, rel=1e-12)


def test_kid_has_mean_zero_of_equal_distributions_and_may_be_negative():
    found = [kernel_distance(drawn(40, 6, seed=k), drawn(40, 6, seed=100 + k)) for k in range(40)]
    values = [v.value for v in found]
    error = statistics.stdev(values) / math.sqrt(len(values))
    # 12 lists of 40 seeds: mean / error 0.40 (1.08).
    assert abs(statistics.mean(values)) < 4 * error
    assert min(values) < 0
    # The error of the mean over parts is from above that of the value.
    assert statistics.mean(v.error for v in found) > statistics.stdev(values)


# ---- what does not fit -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "line"),
    [
        (drawn(5, 3), drawn(5, 4), "samples have 3 and 4 features, expected as many"),
        (drawn(1, 3), drawn(5, 3), "first features have 1 rows, expected at least 2"),
        (drawn(5), drawn(5, 3), r"first features have shape \(5,\), expected \(n, d\)"),
        (drawn(5, 3), torch.full((5, 3), math.nan), "second features, row 0, column 0: got nan"),
        (Moments.of(drawn(1, 3)), drawn(5, 3), "moments are of 1 row, expected at least 2"),
    ],
)
def test_samples_that_do_not_fit_are_one_line(first, second, line):
    with pytest.raises(ValueError, match=line):
        frechet_distance(first, second)


def test_other_arguments_that_do_not_fit_are_one_line():
    with pytest.raises(ValueError, match="features have 19 rows, expected at least 20"):
        extrapolated_distance(lambda v: 0.0, drawn(19, 2))
    with pytest.raises(ValueError, match="second features have 3 rows, expected at least 20"):
        kernel_distance(drawn(20, 2), drawn(3, 2))
    with pytest.raises(ValueError, match=r"spectrum has shape \(2,\), expected"):
        frechet_bias(torch.tensor([1.0, -1.0]), 5)
    with pytest.raises(ValueError, match="n is 1, expected at least 2"):
        frechet_bias(torch.ones(2), 1)
    with pytest.raises(ValueError, match="samples have 3 and 2 features"):
        Moments.of(drawn(4, 3)).merge(Moments.of(drawn(4, 2)))
