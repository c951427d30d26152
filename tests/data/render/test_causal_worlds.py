"""Pendulums, written digits and grids of factors are what their options say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from worlds.render import arrays

from ppl_models import data
from ppl_models.data.render import dsprites, morpho, pendulum
from ppl_models.data.tables.seeds import numpy_generator

# ---- causes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "own", "light", "step", "shortest"),
    [
        ("pendulum", (-10.0, 10.0), (60.0, 120.0), 2.0, 1.0),
        ("pendulum", (-36.5, 20.0), (20.25, 50.0), 3.0, 5.0),
        ("pendulum_dear", (0.0, 20.0), (80.0, 100.0), 0.5, 4.0),
        ("pendulum_dear", (-7.7, 20.0), (100.0, 150.0), 1.1, 2.0),
    ],
)
def test_pendulums_stand_on_the_grid_that_is_asked(name, own, light, step, shortest):
    d = data.load(name, side=4, validation=50, noise=0.0, pendulum_angle=own, light_angle=light,
                  step=step, shortest=shortest)  # fmt: skip
    parts = [arrays(t) for t in (d.train, d.validation, d.test)]
    found = {n: np.concatenate([p[n] for p in parts]).astype(float) for n in pendulum.NAMES}
    for option, (low, high) in (("pendulum_angle", own), ("light_angle", light)):
        angles = np.unique(found[option])
        expected = low + step * np.arange(int((high - low) / step + 1e-9) + 1)
        if option == "light_angle":
            expected = expected[np.abs(expected - 90) > 1e-9]
        np.testing.assert_allclose(angles, expected, atol=1e-5)
    assert len(found["light_angle"]) == math.prod(
        len(np.unique(found[n])) for n in ("pendulum_angle", "light_angle")
    )
    true = pendulum.shadow(found["pendulum_angle"], found["light_angle"], shortest)
    np.testing.assert_allclose(found["shadow_length"], true[:, 2], rtol=1e-4)
    assert found["shadow_length"].min() >= shortest - 1e-6


@pytest.mark.parametrize("noise", [0.1, 1.1, 3.0])
@pytest.mark.parametrize("name", ["pendulum", "pendulum_dear"])
def test_shadows_are_told_with_the_noise_that_is_asked(name, noise):
    own, clean = (arrays(data.load(name, side=4, noise=n).train) for n in (noise, 0.0))
    assert (own["x"] == clean["x"]).all()
    for site in ("shadow_length", "shadow_position"):
        off = (own[site] - clean[site]).astype(float)
        assert abs(off.std() / noise - 1) < 4 / math.sqrt(2 * len(off))
    assert (own["light_angle"] == clean["light_angle"]).all()


@pytest.mark.parametrize("edges", [(1.0, 0.8, -1.0, 1.2), (0.0, 2.0, 3.0, 0.0), (-1, 0, 0, 0.5)])
def test_factors_are_correlated_as_their_arrows_say(edges):
    rows = 6000
    d = data.load("pendulum_vectors", train=rows, validation=4, test=4, edges=edges)
    own = arrays(d.train)
    values = np.stack([own[n] for n in pendulum.NAMES]).astype(float)
    mix = np.linalg.inv(np.eye(4) - pendulum.graph(edges))
    cov = mix.T @ np.diag([1, 1, 0.25, 0.25]) @ mix
    expected = cov / np.sqrt(np.outer(np.diag(cov), np.diag(cov)))
    error = (1 - expected**2) / math.sqrt(rows)
    assert (np.abs(np.corrcoef(values) - expected) <= 4.5 * error + 1e-3).all()


def test_vectors_of_one_network_whatever_the_rows():
    sizes = {"validation": 4, "test": 4, "noise": 0.0}
    for seed, rows in ((0, 400), (1, 600), (2, 500)):
        d = data.load("pendulum_vectors", train=rows, seed=seed, network_seed=7, **sizes)
        draw, own = numpy_generator(seed, 0), numpy_generator(7, 4)
        draw.normal(size=(rows + 8, 4))
        nuisance = draw.normal(size=(rows + 8, 2))[:rows]
        found = arrays(d.train)
        sources = np.column_stack([*(found[n] for n in pendulum.NAMES), nuisance])
        hidden = np.tanh(sources @ own.normal(0, 6**-0.5, (6, 24)))
        x = 1.5 * hidden @ own.normal(0, 24**-0.5, (24, 16))
        np.testing.assert_allclose(found["x"], x, atol=1e-5)
        louder = data.load("pendulum_vectors", train=rows, seed=seed, network_seed=7,
                           **{**sizes, "noise": 0.3})  # fmt: skip
        off = arrays(louder.train)["x"] - x
        assert abs(off.std() / 0.3 - 1) < 4 / math.sqrt(2 * off.size)


@pytest.mark.parametrize("effect", [-3.0, 0.0, 2.0])
@pytest.mark.parametrize("noise", [0.0, 0.5, 2.0])
def test_thickness_acts_on_intensity_as_asked(effect, noise):
    rows = 2000
    thickness, intensity = morpho.causes(rows, numpy_generator(0), effect, noise)
    same, _ = morpho.causes(rows, numpy_generator(0))
    assert (thickness == same).all()
    share = (intensity - 64) / 191
    if noise == 0:
        expected = 1 / (1 + np.exp(-effect * (thickness - 2.5)))
        np.testing.assert_allclose(share, expected, rtol=1e-9)
        return
    inner = share < 1 - 1e-12
    logit = np.log(share[inner] / (1 - share[inner])) - effect * (thickness[inner] - 2.5)
    assert abs(logit.mean()) < 4 * noise / math.sqrt(rows)
    assert abs(logit.std() / noise - 1) < 4 / math.sqrt(2 * rows)


@pytest.mark.parametrize("effect", [-10.0, 0.0, 20.0])
def test_thickness_acts_on_slant_as_asked(effect):
    d = data.load("morpho_mnist", source="digits", train=60, validation=2, test=2, slanted=True,
                  slant_effect=effect, intensity_effect=1.0, noise=0.0)  # fmt: skip
    own = arrays(d.train)
    off = own["slant"] - effect * (own["thickness"] - 2.5)
    assert abs(off.mean()) < 4 / math.sqrt(60) and abs(off.std() - 1) < 4 / math.sqrt(120)
    expected = 64 + 191 / (1 + np.exp(-(own["thickness"] - 2.5)))
    np.testing.assert_allclose(own["intensity"], expected, rtol=1e-5)


# ---- grids -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenes_seed", [12, 0, 5])
def test_scenes_have_the_colours_of_their_seed(scenes_seed):
    made = data.factor_data("candle_like", scenes_seed=scenes_seed, confounded=False)
    assert len(made) == 5 * 5 * 3 * 6 * 16 * 3
    classes = np.zeros((16, 6), int)
    classes[:, 1], classes[:, 4] = 1, np.arange(16)  # small blue cubes, below the first row
    draw = np.random.default_rng(scenes_seed)
    high = draw.uniform(0.25, 0.95, (16, 2, 3))[:, 1]
    page = made.render(classes, numpy_generator(0))
    np.testing.assert_array_equal(page[:, 0, 0], np.rint(255 * high.astype(np.float32)))
    usual = data.factor_data("candle_like")
    assert len(usual) == 12_546 and len(made) > len(usual)


@pytest.mark.parametrize("ends", [(0.0, 0.2), (0.5, 0.5), (0.9, 1.0)])
def test_sprites_are_as_bright_as_asked(ends):
    own = arrays(
        data.load("color_dsprites", train=200, validation=4, test=4, brightness=ends).train
    )
    colour = own["x"].max((1, 2)).astype(float)
    assert ends[0] - 1e-6 <= colour.min() and colour.max() <= ends[1] + 1e-6
    assert (
        abs(colour.mean() - np.mean(ends)) <= 4 * (ends[1] - ends[0]) / math.sqrt(12 * 600) + 1e-6
    )


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_the_ground_is_as_noisy_as_asked(noise):
    made = data.factor_data("noisy_dsprites", noise=noise)
    white = data.factor_data("dsprites")
    classes = made.sample(20, numpy_generator(3))
    page = made.render(classes, numpy_generator(0)).astype(float)
    mask = white.render(classes, numpy_generator(0))
    assert (page[mask] == 1).all()
    ground = page[~mask]
    assert ground.max() <= noise + 1e-6
    assert abs(ground.mean() - noise / 2) <= 4 * noise / math.sqrt(12 * ground.size) + 1e-9


@pytest.mark.parametrize("texture_seed", [0, 1, 9])
def test_the_ground_is_a_window_of_the_texture_of_its_seed(texture_seed):
    made = data.factor_data("textured_dsprites", texture_seed=texture_seed)
    row = made.render(made.sample(1, numpy_generator(0)), numpy_generator(1))[0, 0]
    steps = 2 * np.diff(row, axis=0)  # the tint is the same everywhere
    windows = np.lib.stride_tricks.sliding_window_view(
        np.diff(dsprites.texture(texture_seed), axis=1), 63, axis=1
    )
    off = np.abs(windows - steps.T[None, None]).max((2, 3))
    assert off.min() < 1e-5
    other = np.lib.stride_tricks.sliding_window_view(
        np.diff(dsprites.texture(texture_seed + 1), axis=1), 63, axis=1
    )
    assert np.abs(other - steps.T[None, None]).max((2, 3)).min() > 0.01


@pytest.mark.parametrize("width", [0.5, 1.5, 4.0])
def test_a_bump_is_as_wide_as_asked(width):
    made = data.factor_data("blob", width=width)
    page = made.render(np.array([[0, 23], [5, 7]]), numpy_generator(0))
    row, column = np.mgrid[:16, :16]
    for image, (x, y) in zip(page, ((0, 23), (5, 7)), strict=True):
        far = (column - 3 - 9 * x / 23) ** 2 + (row - 3 - 9 * y / 23) ** 2
        np.testing.assert_allclose(image, np.exp(-far / (2 * width**2)), atol=1e-6)


@pytest.mark.parametrize("spacing", [1, 2, 5, 8])
def test_objects_stand_where_they_are_asked_to(spacing):
    made = data.factor_data("xyobject", spacing=spacing)
    places = 49 // spacing + 1
    assert made.factor_sizes == (4, 5, places, places)
    classes = np.array([[0, 4, places - 1, 0], [3, 0, 1, places - 1]])
    page = made.render(classes, numpy_generator(0)).any(-1)
    for image, (_, size, x, y) in zip(page, classes, strict=True):
        width = 7 + 2 * size
        inset = (15 - width) // 2
        for axis, at in ((0, x), (1, y)):
            lit = np.flatnonzero(image.any(axis))
            assert lit[0] == spacing * at + inset and len(lit) == width
