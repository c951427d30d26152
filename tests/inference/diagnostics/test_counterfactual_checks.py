"""Checks of counterfactuals on made-up figures, on both sides of their limits, and of masks."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import xarray as xr
from worlds.made_up import made_up

from ppl_models import inference
from ppl_models.inference.diagnostics.counterfactual_checks import mask_checks

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
        "null_drawn": (("site",), np.array([0, 0, 0])),
        "non_descendants_largest": (two, np.array([[np.nan] * 3, [1e-6, np.nan, np.nan]])),
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
        ("non-descendants", "a", {"non_descendants_largest": ((1, 0), 0.9e-4)}, True),
        ("non-descendants", "a", {"non_descendants_largest": ((1, 0), 1.1e-4)}, False),
        ("composition", "b", {"composition_error": ((0, 1), 0.09)}, True),
        ("composition", "b", {"composition_error": ((0, 1), 0.11)}, False),
        ("composition", "x", {"composition_error": ((0, 2), 0.14)}, True),
        ("composition", "x", {"composition_error": ((0, 2), 0.16)}, False),
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


@pytest.mark.parametrize("drawn", [0, 1])
def test_what_is_told_anew_is_held_against_another_row(drawn):
    """A class that is not moved comes back as another in some rows, though nothing is wrong."""
    none = {
        "null_drawn": ((1,), drawn),
        "reversibility_change": ((0, 1), 0.0),
        "reversibility_error": ((0, 1), 0.1),
    }
    assert inference.verdict(figures(**none)).ok == bool(drawn)
    none["reversibility_error"] = ((0, 1), 0.16)
    (failed,) = inference.verdict(figures(**none)).failed
    assert failed.variable == "b" and ("another row" in failed.fact) == bool(drawn)


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


def of_masks(probs, truth, dims=("a", "j")):
    """Figure, limit and verdict of each check of masks, in their order."""
    structure = xr.Dataset({"p": (dims, np.asarray(probs))})
    return list(mask_checks({"structure": structure}, {"p": truth}))


def test_masks_are_held_against_their_own_chance():
    """Two standard errors were the probabilities right: of those probably there, and of others."""
    probs = [[0.8, 0.8, 0.8], [0.1, 0.1, 0.3]]
    masks, rate = of_masks(probs, [[1, 0, 0], [0, 0, 0]])
    error = math.sqrt(3 * 0.16) / 3
    assert masks.figure == pytest.approx(0.8 - 1 / 3)
    assert masks.limit == pytest.approx(0.2 + 2 * error)
    assert rate.figure == pytest.approx(1.9)
    assert rate.limit == pytest.approx(1.45 + 2 * math.sqrt(3 * 0.16 + 2 * 0.09 + 0.21))
    assert masks.ok and rate.ok and "3 of 6 entries of p are probably there" in masks.fact
    # All right, and not sure: of six entries that says nothing.
    masks, _ = of_masks(np.full((1, 6), 0.75), np.ones((1, 6)))
    assert masks.ok and masks.figure == pytest.approx(0.25)
    assert not of_masks(np.full((60, 6), 0.75), np.ones((60, 6)))[0].ok


@pytest.mark.parametrize("copies", [1, 4])
def test_chains_of_one_mask_are_no_further_entries(copies):
    """The limits of four chains that agree are those of one, and each is judged for itself."""
    probs, truth = np.array([[0.9, 0.6, 0.7], [0.2, 0.1, 0.6]]), [[1, 0, 1], [0, 0, 0]]
    (masks, rate), several = (
        of_masks(probs, truth),
        of_masks(np.stack([probs] * copies), truth, ("chain", "a", "j")),
    )
    assert len(several) == 2 * copies
    for place in range(copies):
        of = f" of chain {place}" if copies > 1 else ""
        for one, other in zip((masks, rate), several[2 * place :], strict=False):
            assert (other.figure, other.limit, other.ok) == (one.figure, one.limit, one.ok)
            assert f"entries of p{of} are" in other.fact
    # The truth may be of each chain, whose latents have an order of their own.
    turned = np.stack([probs if n % 2 else probs[:, ::-1] for n in range(copies)])
    own = np.stack([truth if n % 2 else np.asarray(truth)[:, ::-1] for n in range(copies)])
    for found in of_masks(turned, own, ("chain", "a", "j")):
        assert found.figure == pytest.approx((rate if found.name == "mask rate" else masks).figure)
    with pytest.raises(
        ValueError, match=re.escape("'p' has shape (2, 3) and the truth (2,), exp")
    ):
        of_masks(probs, [1, 0])


def test_calibrated_masks_raise_few_alarms_and_sure_ones_many():
    """Masks that are drawn by their probabilities, few and small; and the same sharpened."""
    draw, alarms, caught = np.random.default_rng(0), 0, 0
    for _ in range(200):
        p = draw.beta(0.5, 1.5, size=(6, 4))
        truth = draw.uniform(size=p.shape) < p
        alarms += not all(f.ok for f in of_masks(p, truth))
        caught += not all(f.ok for f in of_masks(np.where(p > 0.3, 0.999, 0.001), truth))
    assert alarms <= 4 and caught >= 150
