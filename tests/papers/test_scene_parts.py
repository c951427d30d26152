"""Pictures on canvases: where they stand, how large, and back again."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from ppl_models.parts.scenes import SPREAD, cut, place_of, stamp

SHARE = 4 / 12


def at(down: float, across: float, scale: float = 1.0) -> torch.Tensor:
    """A place by its canvas coordinates."""
    middle = place_of(torch.tensor([down, across]).double(), SHARE)
    log_scale = torch.tensor([scale]).double().log() / SPREAD
    return torch.cat([log_scale, middle])


@pytest.mark.parametrize(("row", "column"), [(4, 4), (1, 4), (6, 0)])
def test_a_picture_stands_where_it_is_put(row, column):
    """Whole pixels: nothing is interpolated."""
    picture = torch.rand(4, 4).double()
    middle = [(start + 2) / 6 - 1 for start in (row, column)]
    found = stamp(picture, at(*middle), 12)
    expected = torch.zeros(12, 12).double()
    expected[row : row + 4, column : column + 4] = picture
    assert_close(found, expected, atol=0.004, rtol=0)  # held inside by so much


def test_twice_the_size():
    """Four pixels for each, which keep the sum up to interpolation at the rim."""
    picture = torch.zeros(4, 4).double()
    picture[1:3, 1:3] = 1
    found = stamp(picture, at(0.0, 0.0, 2.0), 12)
    assert_close(found[5:7, 5:7], torch.ones(2, 2).double())
    assert found.sum().item() == pytest.approx(16, rel=1e-6)


def test_cutting_undoes_stamping():
    torch.manual_seed(0)
    pictures = torch.rand(5, 4, 4).double()
    places = torch.stack([at(0.5, 0.5), at(0.0, -0.5), at(-0.5, 1 / 6), at(0, 0), at(1 / 3, 0)])
    assert_close(cut(stamp(pictures, places, 12), places, 4), pictures)


def test_places_broadcast_against_pictures():
    picture, places = torch.rand(3, 1, 4, 4).double(), torch.randn(5, 3).double()
    found = stamp(picture, places, 12)
    assert found.shape == (3, 5, 12, 12)
    assert_close(found[1, 2], stamp(picture[1, 0], places[2], 12))


def test_middles_are_uniform_over_the_places_that_fit():
    """A standard Normal's probability integral."""
    draws = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0))
    middle = (1 - SHARE) * torch.erf(draws[:, 1] / 2**0.5)
    assert middle.abs().max() <= 1 - SHARE
    # The variance of a uniform number on +-a is a^2 / 3; four standard errors of it.
    expected = (1 - SHARE) ** 2 / 3
    assert middle.var().item() == pytest.approx(expected, rel=4 * (0.8 / 20_000) ** 0.5)


def test_gradients_reach_the_place():
    place = at(0.2, -0.1, 1.1).requires_grad_()
    stamp(torch.rand(4, 4).double(), place, 12)[5, 5].backward()
    assert bool((place.grad != 0).all())
