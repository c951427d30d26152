"""Checks of counterfactuals on made-up figures, on both sides of their limits, and of masks."""

from __future__ import annotations

import re

import numpy as np
import pytest
import xarray as xr
from worlds.made_up import made_up

from ppl_models import inference

CAUSES, SITES = ["a", "b"], ["a", "b", "x"]


def figures(**changed):
    """Axioms of a good pair, one number of which is changed."""
    two, one = ("set_site", "site"), ("set_site",)
    shape = (2, 3)
    found = {
        "null_error": (two, np.full(shape, 1e-7)),
        "null_largest": (two, np.full(shape, 1e-6)),
        "null_change": (two, np.full(shape, 0.3)),
        "null_made": (("site",), np.array([0, 0, 1])),
        "composition_error": (two, np.full(shape, 0.01)),
        "composition_change": (two, np.full(shape, 0.2)),
        "reversibility_error": (two, np.full(shape, 0.01)),
        "reversibility_change": (two, np.full(shape, 0.2)),
        "effectiveness_error": (one, np.array([0.02, np.nan])),
        "effectiveness_change": (one, np.array([0.3, np.nan])),
        "effectiveness_own": (one, np.array([0.01, np.nan])),
    }
    for name, (place, value) in changed.items():
        found[name][1][place] = value
    dataset = xr.Dataset(found, {"set_site": CAUSES, "site": SITES})
    return made_up(np.zeros((100, 50)), axioms=dataset)


@pytest.mark.parametrize(
    ("check", "variable", "changed", "ok"),
    [
        ("null intervention", "b", {"null_largest": ((0, 1), 0.9e-4)}, True),
        ("null intervention", "b", {"null_largest": ((0, 1), 1.1e-4)}, False),
        ("null intervention", "x", {"null_error": ((1, 2), 0.14)}, True),
        ("null intervention", "x", {"null_error": ((1, 2), 0.16)}, False),
        ("null intervention", "x", {"null_error": ((1, 2), np.nan)}, False),
        ("composition", "x", {"composition_error": ((0, 2), 0.09)}, True),
        ("composition", "x", {"composition_error": ((0, 2), 0.11)}, False),
        ("reversibility", "a", {"reversibility_error": ((1, 0), 0.09)}, True),
        ("reversibility", "a", {"reversibility_error": ((1, 0), 0.11)}, False),
        ("effectiveness", "a", {"effectiveness_error": ((0,), 0.14)}, True),
        ("effectiveness", "a", {"effectiveness_error": ((0,), 0.16)}, False),
    ],
)
def test_each_check_has_its_limit(check, variable, changed, ok):
    found = {f.name: f for f in inference.verdict(figures(**changed)).findings}
    assert found[check].ok == ok and found[check].variable == variable
    assert [n for n, f in found.items() if not f.ok] == ([] if ok else [check])
    assert "at most" in found[check].sentence


def test_a_site_that_no_intervention_moves_may_round():
    """Nothing to halve: half of no change is the rounding."""
    none = {"composition_change": ((0, 0), 0.0), "composition_error": ((0, 0), 5e-5)}
    assert inference.verdict(figures(**none)).ok
    none["composition_error"] = ((0, 0), 2e-4)
    assert not inference.verdict(figures(**none)).ok


# ---- masks --------------------------------------------------------------------------------


def test_calibration_of_masks_by_hand():
    probs = np.array([[0.05, 0.05, 0.95], [0.95, 0.55, 0.45]])
    truth = np.array([[0, 1, 1], [1, 0, 0]])
    found = inference.mask_calibration(probs, truth)
    np.testing.assert_allclose(found.share[[0, 4, 5, 9]], [0.5, 0, 0, 1])
    np.testing.assert_array_equal(found.count, [2, 0, 0, 0, 1, 1, 0, 0, 0, 2])
    assert found.error == pytest.approx((2 * 0.45 + 0.45 + 0.55 + 2 * 0.05) / 6)
    assert found.sure == pytest.approx((4 * 0.95 + 2 * 0.55) / 6)
    assert found.right == pytest.approx(4 / 6)


@pytest.mark.parametrize("power", [1.0, 4.0])
def test_masks_that_are_there_as_often_as_said_are_calibrated(power):
    """And masks whose logits are four times too large are not; also told by draws."""
    draw = np.random.default_rng(0)
    p = draw.uniform(size=(40, 500))
    truth = draw.uniform(size=p.shape) < p
    said = p**power / (p**power + (1 - p) ** power)
    found = inference.mask_calibration(said, truth)
    assert found.error < 0.02 if power == 1 else found.error > 0.1
    assert abs(found.sure - found.right) < 0.01 if power == 1 else found.sure - found.right > 0.15
    draws = draw.uniform(size=(200, *p.shape)) < said
    assert inference.mask_calibration(draws, truth).error == pytest.approx(found.error, abs=0.02)


@pytest.mark.parametrize(
    ("probs", "truth", "sentence"),
    [
        ([0.1, 0.2], [1], "probabilities have shape (2,) and the truth (1,), expected the same"),
        ([1.5, 0.2], [1, 0], "a probability of a mask is 1.5, expected 0 to 1"),
        ([0.5, np.nan], [1, 0], "a probability of a mask is nan, expected 0 to 1"),
        ([0.5, 0.2], [2, 0], "an entry of the true mask is 2.0, expected 0 or 1"),
        ([0.5, 0.2], [0.5, 0], "an entry of the true mask is 0.5, expected 0 or 1"),
    ],
)
def test_masks_that_do_not_fit_are_refused(probs, truth, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        inference.mask_calibration(probs, truth)
