"""What blocks tell of factors, where that is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ppl_models.inference.metrics.disentanglement.block_r2 import BlockScores, block_r2


def known(rows=2000, seed=0):
    """Two factors in two blocks, one of them also half in block 0."""
    torch.manual_seed(seed)
    a, b, noise = 2 * torch.rand(rows) - 1, torch.rand(rows, 2), torch.randn(rows) / 3**0.5
    codes = torch.stack([a**3, b[:, 0] + b[:, 1], b[:, 0] - b[:, 1], a + noise], 1)
    return codes, torch.tensor([1, 2, 2, 0]), {"a": a, "b": b}


def test_blocks_tell_what_they_hold():
    found = block_r2(*known(), steps=250, hidden=(32, 32), batch_size=256)
    assert found.factors == ("a", "b") and found.r2.shape == (4, 2)
    wanted = np.array([[0.5, 0], [1, 0], [0, 1], [1, 1]])  # of a with as much noise: a half
    assert found.r2 == pytest.approx(wanted, abs=0.12)
    ranks = np.array([[0.69, 0], [1, 0], [0, 1], [1, 1]])
    assert found.spearman == pytest.approx(ranks, abs=0.15)
    assert found.diagonal() == pytest.approx(1, abs=0.1)
    assert found.off_diagonal() == pytest.approx(0, abs=0.1)
    again, other = (block_r2(*known(), steps=2, seed=seed) for seed in (0, 1))
    assert (again.r2 == block_r2(*known(), steps=2).r2).all() and (again.r2 != other.r2).any()


def test_means_are_those_of_the_paper():
    r2 = np.array([[0.9, 0.9, 0.1], [0.8, 0.1, 0.3], [0.2, 0.6, 0.7], [1, 1, 1]])
    found = BlockScores(("a", "b", "free"), r2, r2)
    assert found.diagonal() == pytest.approx(0.7)
    assert found.off_diagonal() == pytest.approx((0.3 + 0.7) / 2)
    assert found.off_diagonal(2) == pytest.approx((0.1 + 0.2) / 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codes": torch.zeros(3, 4)}, "rows"),
        ({"blocks": torch.zeros(3)}, r"blocks have shape \(3,\), expected \(4,\)"),
        ({"factors": {"a": torch.zeros(5)}}, "factor 'a' has 5 rows, the codes 2000"),
    ],
)
def test_what_does_not_fit_is_one_line(change, words):
    given = dict(zip(("codes", "blocks", "factors"), known(), strict=True))
    with pytest.raises(ValueError, match=words):
        block_r2(**{**given, **change})
