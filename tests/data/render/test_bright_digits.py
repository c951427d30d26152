"""Bright digits: the class, the noise of the brightness, and what both make of a digit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logit
from worlds.render import arrays

from ppl_models import data
from ppl_models.data.render import morpho
from ppl_models.data.render.bright_digits import causes
from ppl_models.data.tables.seeds import numpy_generator

SMALL = {"source": "digits", "train": 24, "validation": 2, "test": 12}


@pytest.mark.parametrize("rows", [400, 4001])
@pytest.mark.parametrize("correlation", [-1.0, 0.0, 0.5, 0.9, 1.0])
def test_the_noise_has_the_sign_of_its_class_as_often_as_asked(correlation, rows) -> None:
    y = numpy_generator(1).permutation(np.arange(rows) % 2)
    thickness, e = causes(y, correlation, numpy_generator(0))
    said = np.mean((e > 0) == (y == 0))
    assert said == pytest.approx((1 + correlation) / 2, abs=0.51 / rows)
    # Whatever the class, thickness and the size of the noise are those of the causal model.
    same, other = causes(y, 0.0, numpy_generator(0))
    assert (thickness == same).all() and (np.abs(e) == np.abs(other)).all()
    error = rows**-0.5
    assert np.abs(e).mean() == pytest.approx((2 / np.pi) ** 0.5, abs=4 * 0.61 * error)
    assert abs(np.corrcoef(e, thickness)[0, 1]) < 4 * error
    if correlation in (0.5, 0.9):  # over both classes the noise is standard normal
        assert abs(e.mean()) < 4 * error and abs(e.std() - 1) < 4 * error


@pytest.mark.parametrize(
    "world",
    [
        {},
        {"digits": (1, 0), "correlation": -1.0, "noise": 0.5},
        {"intensity_effect": -2.0, "test_correlation": 1.0, "noise": 1.0},
    ],
)
def test_rows_are_what_their_causes_say(world) -> None:
    d = data.load("bright_digits", **SMALL, **world)
    options = d.recipe["options"]
    assert d.train.classes["y"] == tuple(map(str, options["digits"]))
    for table, name in ((d.train, "correlation"), (d.test, "test_correlation")):
        own = arrays(table)
        t, i, y = (own[n].astype(float) for n in ("thickness", "intensity", "y"))
        assert y.mean() == 0.5
        inside = i < 255 - 1e-3  # where single precision tells the noise
        e = (logit((i - 64) / 191) - options["intensity_effect"] * (t - 2.5))[inside]
        e /= options["noise"]
        share = np.mean(np.where(inside, (i > 159.5) == (y == 0), 0))
        assert np.abs(e).max() < 4.5 and 0 <= share <= 1
        said = np.mean((e > 0) == (y[inside] == 0))
        rounding = 0.5 / len(y) + np.mean(~inside)
        assert said == pytest.approx((1 + options[name]) / 2, abs=rounding)
        images = np.rint(255 * own["x"]).astype(np.uint8).reshape(-1, 28, 28)
        bright = np.array([np.median(x[x > x.max() / 2]) for x in images])
        assert np.mean(np.abs(bright - i) < 1) > 0.8
        assert np.corrcoef(morpho.measure(images), t)[0, 1] > 0.9


def test_no_digit_is_in_two_parts_or_classes() -> None:
    d = data.load("bright_digits", **SMALL, correlation=0.0, noise=0.0, intensity_effect=0.0)
    other = data.load("bright_digits", **SMALL, noise=0.0, intensity_effect=0.0)
    own, theirs = arrays(d.train), arrays(other.train)
    assert (own["x"] == theirs["x"]).all() and (own["y"] == theirs["y"]).all()
    assert len(np.unique(own["x"], axis=0)) == len(own["x"])
    assert (own["intensity"] == 159.5).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"digits": (3, 3)}, r"digits is \(3, 3\), expected two different whole numbers"),
        ({"digits": (3, 8.5)}, "expected two different whole numbers"),
        ({"digits": (3, 10)}, "expected 2 numbers in 0..9"),
        ({"correlation": 1.5}, "correlation is 1.5, expected a number in -1..1"),
        ({"test_correlation": "no"}, "test_correlation is 'no', expected a number in -1..1"),
        ({"noise": -1}, "noise is -1, expected >= 0"),
        ({"test": 1}, "bright_digits has 1 test rows, expected at least 2"),
        ({"source": "minst"}, "unknown source 'minst': did you mean 'mnist'"),
    ],
)
def test_what_cannot_be_is_one_line(options, message) -> None:
    with pytest.raises(ValueError, match=message) as told:
        data.load("bright_digits", **{**SMALL, **options})
    assert "\n" not in str(told.value)
