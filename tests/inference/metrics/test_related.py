"""Distances of Gaussians in closed form, and the AUC against all pairs of pairs."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import linalg, stats

from ppl_models.inference.metrics import relatedness, wasserstein


def gaussians(rows, seed, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    loc = torch.randn(rows, 3, generator=draw, dtype=dtype)
    return loc, torch.rand(rows, 3, generator=draw, dtype=dtype) + 0.1


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.float64, 1e-7)])
def test_distances_are_those_of_full_covariances(dtype, within):
    one, other = gaussians(4, 0, dtype), gaussians(5, 1, dtype)
    found = wasserstein(*one, *other)
    assert found.dtype == dtype
    for i, j in itertools.product(range(4), range(5)):
        a, b = (s[k].double().square().diag().numpy() for (_, s), k in ((one, i), (other, j)))
        root = linalg.sqrtm(a)
        middle = linalg.sqrtm(root @ b @ root)
        apart = (one[0][i] - other[0][j]).double().square().sum()
        wanted = (apart + (a + b - 2 * middle).trace()) ** 0.5
        assert float(found[i, j]) == pytest.approx(float(wanted), abs=within)


def test_of_one_dimension_they_are_those_of_quantiles():
    level = torch.linspace(0, 1, 200_001, dtype=torch.float64)[1:-1].numpy()
    gap = stats.norm(0.3, 0.5).ppf(level) - stats.norm(-1, 2).ppf(level)
    loc, other = torch.tensor([[0.3]]).double(), torch.tensor([[-1.0]]).double()
    found = wasserstein(loc, torch.tensor([[0.5]]).double(), other, torch.tensor([2.0]).double())
    assert float(found) == pytest.approx((gap**2).mean() ** 0.5, abs=1e-3)


def test_close_pairs_far_from_zero_keep_their_digits():
    loc, scale = gaussians(3, 0, torch.float32)
    far = loc + 4096.0
    found = wasserstein(far, scale, far, scale)
    assert found.diagonal().tolist() == [0, 0, 0]
    torch.testing.assert_close(found, torch.cdist(
        torch.cat([far, scale], 1).double(), torch.cat([far, scale], 1).double()
    ).float())  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_relatedness_is_the_share_of_all_comparisons(dtype):
    draw = torch.Generator().manual_seed(3)
    distances = torch.randint(0, 4, (7, 6), generator=draw).to(dtype)  # many ties
    labels, others = torch.tensor([0, 1, 2, 0, 1, 1, 5]), torch.tensor([0, 0, 1, 2, 2, 3])
    same, apart = [], []
    for i, j in itertools.product(range(7), range(6)):
        (same if labels[i] == others[j] else apart).append(float(distances[i, j]))
    wins = [(a < b) + (a == b) / 2 for a, b in itertools.product(same, apart)]
    found = relatedness(distances, labels, others)
    assert found == pytest.approx(sum(wins) / len(wins), abs=1e-12)
    # Any rising function keeps it, the opposite order turns it round.
    assert relatedness(distances**3 + 2, labels, others) == found
    assert relatedness(-distances, labels, others) == pytest.approx(1 - found)
    order = torch.randperm(7, generator=draw)
    assert relatedness(distances[order], labels[order], others) == pytest.approx(found)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, s: wasserstein(m, s, m, -s), "second Gaussians have a standard deviation of -"),
        (lambda m, s: wasserstein(m, s[:2], m, s), r"first Gaussians have means \(4, 3\) and"),
        (lambda m, s: wasserstein(m, s, m[:, :2], s[:, :2]), "have 3 and 2 dimensions"),
        (lambda m, s: relatedness(m, m[:3, 0], m[0]), r"shape \(4, 3\), expected \(3, 3\)"),
        (
            lambda m, s: relatedness(m, torch.zeros(4), torch.zeros(3)),
            "12 pairs are of one class and 0 of two",
        ),
        (
            lambda m, s: relatedness(m * torch.nan, torch.arange(4), torch.arange(3)),
            "distance of row 0 and column 0 is NaN",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(call, words):
    with pytest.raises(ValueError, match=words) as told:
        call(*gaussians(4, 0))
    assert "\n" not in str(told.value)
