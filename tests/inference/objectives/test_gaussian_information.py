"""Mutual information of Gaussian codes against closed forms and quadrature-free identities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from worlds.given_codes import covariance_of
from worlds.labelled_codes import Codes, rows_of

from ppl_models.batch import Batch
from ppl_models.inference import (
    ELBO,
    Anneal,
    GaussianInformation,
    UnhandledSite,
    gaussian_information,
)
from ppl_models.inference.objectives.code_terms.gaussian_information import residuals


def linear_toy(c: float, n: float, w: torch.Tensor) -> torch.Tensor:
    """Covariance of (s_1, s_2, z_1, z_2): s ~ N(0, [[1, c], [c, 1]]), z = W (s + N(0, n I))."""
    sigma = torch.tensor([[1.0, c], [c, 1.0]], dtype=torch.float64)
    x = sigma + n * torch.eye(2, dtype=torch.float64)
    return torch.cat((torch.cat((sigma, sigma @ w.T), 1), torch.cat((w @ sigma, w @ x @ w.T), 1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rho", [0.0, 0.3, -0.95])
def test_two_numbers_have_the_form_of_their_correlation(rho, dtype) -> None:
    covariance = torch.tensor([[4.0, 2 * rho], [2 * rho, 1.0]], dtype=dtype)
    found = gaussian_information(covariance, [0], [1])
    expected = -0.5 * math.log(1 - rho**2)
    assert float(found) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1, 3), (3, 2, 0)])
def test_it_is_the_chain_rule_of_entropies(sizes) -> None:
    """I(a; b | g) = h(a, g) + h(b, g) - h(a, b, g) - h(g), with whole determinants."""
    covariance = covariance_of(sum(sizes))
    places = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    a, b, g = (part.tolist() for part in places)

    def h(*parts):
        chosen = [place for part in parts for place in part]
        return 0.5 * np.linalg.slogdet(covariance.numpy()[np.ix_(chosen, chosen)])[1]

    expected = h(a, g) + h(b, g) - h(a, b, g) - (h(g) if g else 0)
    assert float(gaussian_information(covariance, a, b, g)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("c", "n"), [(0.8, 0.1), (0.95, 0.5), (-0.3, 1.0)])
def test_the_linear_toy_of_the_paper(c, n) -> None:
    """At W = I the subspaces are independent given either attribute, and not without."""
    eye = torch.eye(2, dtype=torch.float64)
    covariance = linear_toy(c, n, eye)
    for given in ([0], [1]):
        assert float(gaussian_information(covariance, [2], [3], given)) == pytest.approx(0)
    marginal = -0.5 * math.log(1 - (c / (1 + n)) ** 2)
    assert float(gaussian_information(covariance, [2], [3])) == pytest.approx(marginal)
    # The Base optimum, by its partial correlation given s_1.
    sigma = covariance[:2, :2]
    base = linear_toy(c, n, sigma @ torch.linalg.inv(sigma + n * eye))
    inverse = torch.linalg.inv(base[np.ix_([0, 2, 3], [0, 2, 3])])
    rho = -inverse[1, 2] / (inverse[1, 1] * inverse[2, 2]).sqrt()
    found = gaussian_information(base, [2], [3], [0])
    assert_close(found, -0.5 * (1 - rho**2).log())
    assert float(found) > 0.01
    # Whitening makes the marginal information 0, with any rotation.
    values, vectors = torch.linalg.eigh(sigma + n * eye)
    white = linear_toy(c, n, vectors @ torch.diag(values.rsqrt()) @ vectors.T)
    assert float(gaussian_information(white, [2], [3])) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", ["label", "number", "vector"])
def test_residuals_are_those_of_least_squares(kind) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    label = torch.arange(12) % 3
    given = {
        "label": label,
        "number": torch.rand(12, generator=generator, dtype=torch.float64),
        "vector": torch.rand(12, 2, generator=generator, dtype=torch.float64),
    }[kind]
    known = np.eye(3)[label] if kind == "label" else given.reshape(12, -1).numpy()
    known = np.concatenate([np.ones((12, 1)), known], 1)
    fitted = known @ np.linalg.lstsq(known, values.numpy(), rcond=None)[0]
    assert_close(residuals(values, given), values - torch.from_numpy(fitted))


@pytest.mark.parametrize("within", ["", "s"])
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_term_and_its_gradient(within, scale, dtype) -> None:
    pair, batch = Codes(dtype), rows_of(20, dtype, scale)
    term = GaussianInformation("z_1", "z_2", within, 2.0)
    loss = term.differentiable_loss(pair.model, pair.guide, batch)
    z = np.concatenate([v.detach().numpy() for v in pair.codes(batch["x"])], 1)
    groups = batch["s"].numpy() if within else np.zeros(20)
    left = np.concatenate([z[groups == g] - z[groups == g].mean(0) for g in np.unique(groups)])
    covariance = left.T @ left / 20
    logdet = [np.linalg.slogdet(m)[1] for m in (covariance[:2, :2], covariance)]
    by_hand = 0.5 * (logdet[0] + math.log(covariance[2, 2]) - logdet[1])
    assert loss.item() == pytest.approx(2 * 20 * scale * by_hand, rel=1e-4)
    # Scales do not matter: the gradient in direction of each code's own scale is 0.
    loss.backward()
    own = (pair.weights.grad * pair.weights).detach()
    assert_close(own, torch.zeros_like(own), rtol=0, atol=1e-3 if dtype == torch.float32 else 1e-9)


def test_rows_without_the_label_count_nothing_and_other_sites_are_named() -> None:
    pair = Codes()
    batches = rows_of(6, torch.float64), rows_of(8, torch.float64, label=False)
    term = GaussianInformation("z_1", "z_2", "s", Anneal(0, 2))
    assert term.formula == "-(0 -> 2) I_Gauss(z_1; z_2 | s)"
    assert term.differentiable_loss(pair.model, pair.guide, batches).item() == 0  # at the start
    term.at(1.0)
    alone = term.differentiable_loss(pair.model, pair.guide, batches[0])
    assert_close(term.differentiable_loss(pair.model, pair.guide, batches), alone)
    few = rows_of(3, torch.float64)  # of three numbers each
    assert term.differentiable_loss(pair.model, pair.guide, few).item() == 0
    assert (ELBO() + term).part_names == ("bound", "gaussian_information(z_1, z_2, s)")
    with pytest.raises(UnhandledSite, match="is given 't', which is no site of these rows"):
        GaussianInformation("z_1", "z_2", "t").differentiable_loss(
            pair.model, pair.guide, Batch({"x": batches[0]["x"]})
        )
