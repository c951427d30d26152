"""Pendulums: the published recipe, its label ranges, and pictures that show their labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ppl_models import data
from ppl_models.data.render.pendulum import NAMES, draw_pendulums, graph, shadow


def labels(d):
    tables = (d.train, d.validation, d.test)
    order = torch.cat([t.numbers for t in tables]).argsort()
    return np.stack(
        [torch.cat([t.sites[n] for t in tables])[order].double().numpy() for n in NAMES], axis=1
    )


def by_hand(i, j):
    """The published script, one image."""
    theta, phi = i * np.pi / 200, j * np.pi / 200

    def project(x, y, base):
        return (base - (y - x * np.tan(phi))) / np.tan(phi)

    tip = 10 + 9.5 * np.sin(theta), 10.5 - 9.5 * np.cos(theta)
    ends = project(10, 10.5, -0.5), project(*tip, -0.5)
    return 0.9 * i, 0.9 * j, max(3, abs(ends[0] - ends[1])), sum(ends) / 2


@pytest.fixture(scope="module")
def pendulum():
    return data.load("pendulum", side=16)


def test_all_published_images_are_there(pendulum):
    cells = [(i, j) for i in range(-40, 44) for j in range(60, 148) if j != 100]
    expected = np.array([by_hand(i, j) for i, j in cells])
    found = labels(pendulum)
    assert len(found) == 7308
    assert found == pytest.approx(expected, abs=1e-4)
    assert found[:, 2].min() == 3
    assert found[:, 2].max() == pytest.approx(12.58, abs=5e-3)
    assert found[:, 3].min() == pytest.approx(2.01, abs=5e-3)
    assert found[:, 3].max() == pytest.approx(19.61, abs=5e-3)


def test_every_fourth_image_from_the_fifth_on_is_for_the_test(pendulum):
    count, test = 1, []
    for number in range(7308):  # the script's running counter
        if count == 5:
            test.append(number)
            count = 1
        count += 1
    assert pendulum.test.numbers.tolist() == test
    assert len(test) / 7308 == pytest.approx(0.25, abs=1e-3)
    assert len(pendulum.validation) == 500


def spots(images):
    """Centre of what is orange, red, and black on the ground, in units of the drawing."""
    side = images.shape[1]
    r, g, b = np.moveaxis(images.astype(int), -1, 0)
    share = (np.arange(side) + 0.5) / side
    x, y = 20 * (share - 0.125) / 0.775, 21 - 22 * (share - 0.12) / 0.77
    orange = (r > 230) & (g > 130) & (g < 200) & (b < 90)
    red = (r > 140) & (g < 90) & (b < 90)
    black = (r < 90) & (g < 90) & (b < 90) & (y < 0.6)[:, None]
    weights = [(m.sum((1, 2)), m.sum(1) @ x, m.sum(2) @ y) for m in (orange, red, black)]
    return [(a / n, b / n) for n, a, b in weights], black.sum(1).astype(bool) @ np.ones(side), side


def test_pictures_show_their_labels():
    pendulum, light = np.meshgrid(np.linspace(-36, 36, 9), np.linspace(63, 117, 7))
    numbers = shadow(pendulum.ravel(), light.ravel())
    images = draw_pendulums(numbers, 96)
    assert images.dtype == np.uint8
    assert (images[:, 0] == 255).all()  # the margin
    ((sun, _), (bob, bob_height), (middle, ground)), columns, side = spots(images)
    assert sun == pytest.approx(10 + 10 / np.tan(np.deg2rad(numbers[:, 1])), abs=0.3)
    # the rod hides part of the bob, on the side of the pivot
    assert bob == pytest.approx(10 + 8 * np.sin(np.deg2rad(numbers[:, 0])), abs=0.5)
    assert bob_height == pytest.approx(10.5 - 8 * np.cos(np.deg2rad(numbers[:, 0])), abs=0.5)
    within = (numbers[:, 3] - numbers[:, 2] / 2 > 0.5) & (numbers[:, 3] + numbers[:, 2] / 2 < 19.5)
    assert within.sum() > 20
    assert middle[within] == pytest.approx(numbers[within, 3], abs=0.2)
    assert ground[within] == pytest.approx(-0.5, abs=0.15)
    length = columns / side * 20 / 0.775 - 0.9  # of a line with round ends
    assert length[within] == pytest.approx(numbers[within, 2], abs=0.45)


@pytest.mark.parametrize("noise", [0, 1.1])
def test_moments_of_the_archive_of_dear(noise):
    found = labels(data.load("pendulum_dear", noise=noise, side=8))
    assert len(found) == 82**2
    assert found[:, 0].min() == 0
    assert found[:, 0].max() == 40.5
    assert found[:, 1].min() == 48
    assert found[:, 1].max() == 88.5
    assert found[:, :2].mean(0) == pytest.approx([20.25, 68.25])
    assert found[:, :2].std(0) == pytest.approx([11.836] * 2, abs=2e-3)
    error = noise / 82
    assert found[:, 2:].mean(0) == pytest.approx([6.905, 8.821], abs=1e-3 + 4 * error)
    spread = np.sqrt(np.square([2.631, 1.831]) + noise**2)
    assert found[:, 2:].std(0) == pytest.approx(spread, abs=2e-3 + 3 * error)
    if noise:  # the paper's own moments, of one draw of its noise
        assert found[:, 2:].mean(0) == pytest.approx([6.993, 8.798], abs=0.1)
        assert found[:, 2:].std(0) == pytest.approx([2.842, 2.178], abs=0.06)
    else:
        assert found[:, 2].min() == 2


def test_label_noise_is_not_drawn():
    clean, noisy = (data.load("pendulum_dear", noise=n, side=16) for n in (0, 1.1))
    assert torch.equal(clean.train.sites["x"], noisy.train.sites["x"])
    assert torch.equal(clean.train.sites["light_angle"], noisy.train.sites["light_angle"])
    gap = (clean.train.sites["shadow_length"] - noisy.train.sites["shadow_length"]).double()
    assert float(gap.std()) == pytest.approx(1.1, abs=4 * 1.1 / (2 * len(gap)) ** 0.5)


def test_vectors_have_the_published_covariance():
    d = data.load("pendulum_vectors", train=40_000, validation=10, test=10)
    way = np.linalg.inv(np.eye(4) - graph())
    cov = way.T @ np.diag([1, 1, 0.25, 0.25]) @ way
    expected = cov / np.sqrt(np.outer(np.diag(cov), np.diag(cov)))
    factors = np.stack([d.train.sites[n].double().numpy() for n in NAMES])
    assert np.corrcoef(factors) == pytest.approx(expected, abs=4 / 200)
    assert factors.mean(1) == pytest.approx(0, abs=0.01)
    assert factors.std(1) == pytest.approx(1, abs=0.01)
    # unit-noise edges of the paper's check: 2, -2, 1.6, 2.4
    assert graph()[:2, 2:] / 0.5 == pytest.approx(np.array([[2, 1.6], [-2, 2.4]]))
    assert d.sizes["x"] == 16


def test_x_of_the_vectors_says_all_factors():
    d = data.load("pendulum_vectors")
    x, test = (t.sites["x"].double().numpy() for t in (d.train, d.test))
    x, test = (np.hstack([v, v**2, v**3, np.ones((len(v), 1))]) for v in (x, test))
    for name in NAMES:
        y, truth = (t.sites[name].double().numpy() for t in (d.train, d.test))
        error = test @ np.linalg.lstsq(x, y, rcond=None)[0] - truth
        assert error.var() < 0.15 * truth.var()


@pytest.mark.parametrize("name", ["pendulum", "pendulum_vectors"])
def test_some_rows_keep_their_numbers(name):
    small = {"side": 4} if name == "pendulum" else {}
    d, full = data.load(name, labelled=50, **small), data.load(name, **small)
    seen = d.train.observed[NAMES[0]]
    for site in NAMES:
        assert torch.equal(d.train.observed[site], seen)
        assert torch.equal(d.train.sites[site][seen], full.train.sites[site][seen])
        assert d.train.sites[site][~seen].isnan().all()
    assert int(seen.sum()) == 50
    assert d.validation.observed == {}
    with pytest.raises(ValueError, match="labelled is 0, expected 1 to "):
        data.load(name, labelled=0, **small)


def test_options_out_of_range():
    with pytest.raises(ValueError, match="noise is -1, expected >= 0"):
        data.load("pendulum_dear", noise=-1)
