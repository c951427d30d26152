"""Canonical correlations: against scikit-learn, in closed form, and of too few rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import CCA

from ppl_models.inference.metrics import canonical_space


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pairs(rows=60, seed=0, dtype=torch.float64):
    shared = drawn(rows, 2, seed=seed, dtype=dtype)
    first = torch.cat([shared, drawn(rows, 2, seed=seed + 1, dtype=dtype)], 1)
    second = shared @ drawn(2, 3, seed=seed + 2, dtype=dtype)
    return first, second + drawn(rows, 3, seed=seed + 3, dtype=dtype)


def by_eigenvalues(first, second):
    """Roots of the eigenvalues of S_xx^-1 S_xy S_yy^-1 S_yx."""
    x, y = (v.double() - v.double().mean(0) for v in (first, second))
    product = torch.linalg.solve(x.T @ x, x.T @ y) @ torch.linalg.solve(y.T @ y, y.T @ x)
    found = torch.linalg.eigvals(product).real.clamp(min=0).sqrt()
    return found.sort(descending=True).values[: min(x.shape[1], y.shape[1])]


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-6), (torch.float64, 1e-10)])
def test_correlations_are_the_roots_of_the_eigenvalues(dtype, within):
    first, second = pairs(dtype=dtype)
    found = canonical_space(first, second)
    torch.testing.assert_close(
        found.correlations, by_eigenvalues(first, second), rtol=0, atol=within
    )
    with np.errstate(all="ignore"):
        peer = CCA(2, scale=False, tol=1e-12, max_iter=5000).fit(first.numpy(), second.numpy())
    one, other = peer.transform(first.numpy(), second.numpy())
    wanted = [np.corrcoef(one[:, k], other[:, k])[0, 1] for k in range(2)]
    assert found.correlations[:2].tolist() == pytest.approx(wanted, abs=1e-5)


def test_directions_have_variance_one_and_no_other_correlation():
    first, second = pairs()
    found = canonical_space(first, second)
    one, other = found.project(first, second)
    for own in (one, other):
        torch.testing.assert_close(own.T.cov(), torch.eye(3, dtype=torch.float64))
    cross = one.T @ other / (len(one) - 1)
    torch.testing.assert_close(cross, found.correlations.diag(), rtol=0, atol=1e-10)
    cosine = torch.nn.functional.cosine_similarity(one, other)
    torch.testing.assert_close(found.pair_scores(first, second), cosine)
    few = canonical_space(first, second, dimensions=1)
    assert torch.equal(few.correlations, found.correlations[:1])
    assert few.pair_scores(first, second).abs().tolist() == pytest.approx([1] * 60)


def test_linear_maps_and_columns_that_follow_from_others_change_nothing():
    first, second = pairs()
    wanted = canonical_space(first, second)
    moved = first @ drawn(4, 4, seed=9) + 5
    twice = torch.cat([second, second[:, :2] - 3 * second[:, 2:], torch.ones(60, 1)], 1)
    for one, other in ((moved, twice), (moved.float(), twice.float())):
        found = canonical_space(one, other)
        assert found.correlations.shape == (3,)
        torch.testing.assert_close(found.correlations, wanted.correlations, rtol=0, atol=1e-5)
        torch.testing.assert_close(
            found.pair_scores(one, other), wanted.pair_scores(first, second), rtol=0, atol=1e-3
        )


def test_pairs_that_belong_together_score_above_shuffled_ones():
    # 20 seeds: 0.44 (0.10) and 0.007 (0.020)
    first, second = pairs(700)
    space = canonical_space(first[:400], second[:400])
    right = float(space.pair_scores(first[400:], second[400:]).mean())
    wrong = float(space.pair_scores(first[400:], second[400:].roll(1, 0)).mean())
    assert right > 0.1 > wrong


def test_more_columns_than_rows_need_a_ridge():
    first, second = drawn(10, 30), drawn(10, 4, seed=1)
    with pytest.raises(
        ValueError, match="of 9 and 4 directions have 10 rows, expected at least 14"
    ):
        canonical_space(first, second)
    found = canonical_space(first, second, ridge=2.0)
    # By hand: (S + ridge I)^-1/2 of both sides about S_xy.
    x, y = first - first.mean(0), second - second.mean(0)
    roots = []
    for v in (x, y):
        values, vectors = torch.linalg.eigh(v.T @ v / 9 + 2.0 * torch.eye(v.shape[1]).double())
        roots.append(vectors @ (values**-0.5).diag() @ vectors.T)
    wanted = torch.linalg.svdvals(roots[0] @ (x.T @ y / 9) @ roots[1])[:4]
    torch.testing.assert_close(found.correlations, wanted)
    assert float(found.correlations.max()) < 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda a, b: canonical_space(a, b[:9]), "first table has 60 rows and the second 9"),
        (lambda a, b: canonical_space(a, b, 4), "dimensions is 4, expected 1 to 3"),
        (lambda a, b: canonical_space(a, b, ridge=-1), "ridge is -1, expected at least 0"),
        (lambda a, b: canonical_space(a, 0 * b + 7), "the second table does not vary"),
        (lambda a, b: canonical_space(a[:, 0], b), r"first table has shape \(60,\), expected"),
        (lambda a, b: canonical_space(a.log(), b), "first table holds nan at row"),
        (
            lambda a, b: canonical_space(a, b).project(b, b),
            "first table has 3 columns, expected 4",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(call, words):
    with pytest.raises(ValueError, match=words) as told:
        call(*pairs())
    assert "\n" not in str(told.value)
