"""Distance correlation against numpy, its closed form for Normals, and its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from worlds.statistics_by_loops import by_hand

from ppl_models import build
from ppl_models.batch import Batch
from ppl_models.inference import (
    Anneal,
    DistanceCorrelation,
    EnumeratedELBO,
    Evaluation,
    UnhandledSite,
)
from ppl_models.inference.objectives.code_terms.distance_correlation import distance_correlation


def normals(rows, *sizes, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, size, generator=g, dtype=dtype) for size in sizes]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("rows", [2, 5, 17])
def test_equals_numpy(rows, dtype):
    u, v = normals(rows, 3, 2)
    v = v + u[:, :2].square()
    got = distance_correlation(u.to(dtype), v.to(dtype))
    expected = torch.tensor(by_hand(u.tolist(), v.tolist()), dtype=dtype)
    assert_close(got, expected, rtol=1e-10 if dtype == torch.float64 else 1e-4, atol=0)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_has_the_closed_form_of_correlated_normals(rho):
    """Szekely et al. 2007, Theorem 7; the bias of n rows is of order 1 / n."""
    root = math.sqrt(1 - rho**2)
    top = rho * math.asin(rho) + root - rho * math.asin(rho / 2) - math.sqrt(4 - rho**2) + 1
    expected = top / (1 + math.pi / 3 - math.sqrt(3))
    rows, found = 400, []
    for seed in range(100):
        u, v = normals(rows, 1, 1, seed=seed)
        found.append(float(distance_correlation(u, rho * u + root * v)) ** 2)
    # Unrelated rows have n dCor^2 near E|u - u'|^2 / dVar(u), which bounds the bias.
    variance = 4 * (1 - math.sqrt(3)) / math.pi + 4 / 3
    bias = 4 / math.pi / variance / rows
    error = np.std(found, ddof=1) / 10
    assert expected - 4 * error <= np.mean(found) <= expected + bias + 4 * error
    if rho == 0:
        assert np.mean(found) == pytest.approx(bias, abs=4 * error + bias / 20)


def test_is_one_for_a_rotated_scaled_and_moved_copy():
    (u,) = normals(20, 4)
    rotation = torch.linalg.qr(normals(4, 4, seed=1)[0])[0]
    copy = 0.3 * u @ rotation + 5
    assert_close(distance_correlation(u, copy), torch.tensor(1.0, dtype=u.dtype))
    assert float(distance_correlation(u, u**3)) < 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", ["one row", "two equal rows", "all equal", "the same site"])
def test_zero_distances_have_finite_gradients(case, dtype):
    u, v = normals(6, 3, 2, dtype=dtype)
    expected = None
    if case == "one row":
        u, v, expected = u[:1], v[:1], 0.0
    elif case == "two equal rows":
        u, v = u[[0, 0, 1, 2]], v[[0, 0, 3, 4]]
    elif case == "all equal":
        v, expected = v[:1].expand(6, 2), 0.0
    else:
        v, expected = u, 1.0
    u, v = (z.detach().clone().requires_grad_() for z in (u, v))
    got = distance_correlation(u, v)
    if expected is None:
        expected = by_hand(u.tolist(), v.tolist())
    assert float(got.detach()) == pytest.approx(expected, abs=1e-5)
    for grad in torch.autograd.grad(got, (u, v)):
        assert bool(grad.isfinite().all())


def test_gradient_is_that_of_finite_differences():
    u, v = (z.requires_grad_() for z in normals(7, 3, 2))
    assert torch.autograd.gradcheck(distance_correlation, (u, v))


# ---- the term -----------------------------------------------------------------------------


def clsvae():
    return build("clsvae", data_dim=6, clean_code=3, dirty_code=2, hidden=(5,)).double()


def batch_of(labelled, scale, rows=6):
    x = (normals(rows, 6, seed=2)[0] > 0).double()
    sites = {"x": x, "y": torch.arange(rows) % 2} if labelled else {"x": x}
    return Batch(sites, size=rows * scale)


@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("labelled", [(False,), (True,), (False, True)])
def test_the_term_counts_per_row_of_the_data_set(labelled, scale):
    pair, batches = clsvae(), [batch_of(seen, scale) for seen in labelled]
    bound = EnumeratedELBO(kl="analytic")
    term = DistanceCorrelation("z_c", "z_d", Anneal(0, 8, 0.2, 0.6))
    for progress, weight in ((0.1, 0), (0.5, 6), (1.0, 8)):
        both = bound + term
        both.at(progress)
        torch.manual_seed(0)
        total = both.differentiable_loss(pair.model, pair.guide, batches)
        torch.manual_seed(0)
        expected = torch.zeros((), dtype=torch.float64)
        for batch in batches:
            run = Evaluation(pair.model, pair.guide, batch)
            # The draws are the bound's: nothing else may use up random numbers.
            guide = bound.weights(run).guide
            u, v = (guide.nodes[name]["value"].tolist() for name in ("z_c", "z_d"))
            expected += scale * (bound.rows(run).sum() + weight * batch.count * by_hand(u, v))
        assert_close(total, expected, rtol=1e-9, atol=0)


def test_prints_its_formula():
    term = DistanceCorrelation("z_c", "z_d", Anneal(0, 8))
    assert str(term) == "-(0 -> 8) dCor(z_c, z_d)"
    assert repr(term) == "DistanceCorrelation('z_c', 'z_d', weight=Anneal(0, 8))"


@pytest.mark.parametrize("weight", [-1.0, math.nan, Anneal(0, -1)])
def test_refuses_weights_that_would_reward_dependence(weight):
    with pytest.raises(ValueError, match=r"weight of DistanceCorrelation\('a', 'b'\)"):
        DistanceCorrelation("a", "b", weight)


def test_names_the_site_it_cannot_use():
    pair = clsvae()
    run = Evaluation(pair.model, pair.guide, batch_of(False, 1))
    with pytest.raises(UnhandledSite, match=r"'w', which the guide does not sample.*'z_c'"):
        DistanceCorrelation("z_c", "w").rows(run)
    with pytest.raises(UnhandledSite, match=r"'y' has draws of shape .* expected one vector"):
        DistanceCorrelation("z_c", "y").rows(run)
    m2 = build("m2", data_dim=6, classes=3, latent=2, hidden=(4,)).double()
    run = Evaluation(m2.model, m2.guide, batch_of(False, 1))
    with pytest.raises(UnhandledSite, match=r"'z' has draws of shape .* missing label"):
        DistanceCorrelation("z", "z").rows(run)
