"""Boxhead: quantised laws, hues on a circle, and tiles that have the hues of their labels."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from scipy.stats import chisquare
from worlds.boxhead_laws import (
    circular,
    expected,
    front_light,
    hues,
    normal,
    tile_centres,
    uniform,
)

from ppl_models import data
from ppl_models.data.render import boxhead
from ppl_models.data.render.boxhead import EYES, FACTORS, VARIANTS

ROWS = 20_000


@pytest.fixture(scope="module")
def drawn():
    """Steps and labels of 20,000 rows, by variant."""
    made = {name: boxhead.steps(name, ROWS, np.random.default_rng(0)) for name in VARIANTS}
    return {name: (steps, boxhead.labels(steps, name)) for name, steps in made.items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_factors_follow_the_quantised_laws(variant, drawn):
    steps, labels = drawn[variant]
    for name, law in expected(variant).items():
        assert law.sum() == pytest.approx(1)
        counts = np.bincount(labels[name], minlength=len(law))
        assert len(counts) == len(law) == len(boxhead.values(variant)[name])
        assert chisquare(counts, ROWS * law).pvalue > 0.01, name
    for name, count in (("cube", 10), ("floor", 10), ("wall", 10), ("azimuth", 10)):
        both_ends = np.bincount(steps[name], minlength=count + 1)  # before 0 and 1 are one hue
        assert chisquare(both_ends, ROWS * uniform(count)).pvalue > 0.01, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_hangs_on_what(variant, drawn):
    found = hues(variant, drawn[variant][1])
    of_cube = circular(found["cube"], found["overall"])
    # exp(-(2 pi 0.2)^2 / 2) = 0.45 of a normal that is not rounded; else sampling error, 0.007
    assert (
        of_cube == pytest.approx(0.45, abs=0.03) if variant == "three_levels" else of_cube < 0.03
    )
    # of an eye about the overall hue: the mean cosine of what lies between them
    told = circular(found["overall"], found["eye_3"])
    steps = np.arange(8) - 3.5
    between = {
        "three_levels": uniform(7) @ np.cos(2 * np.pi * steps / 35),
        "two_levels": normal() @ np.cos(2 * np.pi * np.arange(-60, 61) / 70),
        "two_levels_wide": normal() @ np.cos(2 * np.pi * np.arange(-60, 61) / 35),
    }
    assert told == pytest.approx(between[variant], abs=0.02)
    # given the overall hue, eyes are independent
    apart = [(found[name] - found["overall"] + 0.5) % 1 for name in EYES]
    assert np.abs(np.corrcoef(apart) - np.eye(4)).max() < 0.03
    assert (
        max(circular(found[a], found[b]) for a, b in (("floor", "wall"), ("wall", "cube"))) < 0.03
    )


def test_the_tiles_of_a_front_view_have_their_hues():
    turns = np.array([0.1, 0.25, 0.9, 0.2, 0.45, 0.6, 0.8])
    (image,) = boxhead.images(turns[None], np.ones(1), np.zeros(1)).astype(float)
    floor, wall, cube, *eyes = (np.array(colorsys.hls_to_rgb(h, 0.5, 1)) for h in turns)
    light = front_light()
    for (row, column), colour in zip(tile_centres(), eyes, strict=True):
        assert np.abs(image[row, column] - 255 * light * colour).max() <= 1
    for (row, column), colour, shade in (((40, 26), cube, light), ((20, 10), wall, light)):
        assert np.abs(image[row, column] - 255 * shade * colour).max() <= 1
    lit = image[60, 5] / 255
    assert np.allclose(lit / lit.max(), floor, atol=0.02)  # its hue; it is lit less
    assert np.array_equal(image[2, 5], np.rint([65, 105, 225]))


def test_pictures_are_those_of_the_labels():
    rows = data.load("boxhead", train=12, validation=2, test=2, variant="two_levels", seed=3)
    assert tuple(rows.train.classes) == FACTORS and set(rows.roles.values()) == {"factor"}
    known = {n: np.array(rows.train.classes[n], float) for n in FACTORS}
    told = {n: known[n][rows.train.sites[n].numpy()] for n in FACTORS}
    assert [len(known[n]) for n in FACTORS] == [10, 11, 7, 70, 70, 70, 70, 10, 10, 11]
    turns = np.stack([told[n] for n in ("floor", "wall", "cube", *EYES)], 1)
    again = boxhead.images(turns, told["scale"], told["azimuth"])
    seen = rows.train.sites["x"].numpy().reshape(-1, 64, 64, 3)
    assert np.abs(seen - again / 255).max() <= 1 / 255 + 1e-6  # class names have six digits
    other = boxhead.images(turns, told["scale"][::-1], told["azimuth"])
    assert np.abs(seen - other / 255).max() > 0.2


def test_hue_1_is_hue_0():
    zero, one = (boxhead.images(np.full((1, 7), h), np.ones(1), np.zeros(1)) for h in (0.0, 1.0))
    assert np.array_equal(zero, one)
    turns = np.linspace(0, 1, 71)
    wanted = [colorsys.hls_to_rgb(h, 0.5, 1) for h in turns]
    np.testing.assert_allclose(boxhead.colours(turns), wanted, atol=1e-12)


def test_a_camera_that_turns_right_sees_the_right_side():
    turns = np.array([[0.3, 0.6, 0.0, *[0.5] * 4]])
    left, right = (
        boxhead.images(turns, np.ones(1), np.array([a]))[0, ..., 0].astype(float)
        for a in (-30.0, 30.0)
    )
    assert np.abs(left - right[:, ::-1]).max() <= 1  # a mirrored scene, but for the eyes' names
    towards = (front_light() - 0.35) / 0.65
    for (row, column), share in (((40, 20), np.cos(np.pi / 6)), ((40, 40), np.sin(np.pi / 6))):
        assert right[row, column] == np.rint(255 * (0.35 + 0.65 * share * towards))  # front, side
