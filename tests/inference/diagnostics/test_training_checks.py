"""Slopes of made-up training curves, and runs that stopped before their end."""

from __future__ import annotations

import numpy as np
import pytest
from worlds.made_up import made_up

from ppl_models.inference.diagnostics.training_checks import training_checks
from ppl_models.inference.posterior.groups import groups_of


def noise(*shape):
    return np.random.default_rng(1).normal(size=shape)


def checks(attrs=None, **curve):
    idata = made_up(attrs=attrs, **curve)
    return training_checks(groups_of(idata), idata.attrs)


@pytest.mark.parametrize(
    ("loss", "stage", "ok", "words"),
    [
        (100 * np.exp(-np.arange(200) / 10) + noise(200), None, True, "changed by"),
        (100 - 0.4 * np.arange(200) + noise(200), None, False, "train longer"),
        (100 - np.arange(200) + 0.01 * np.arange(200) ** 2 + noise(200), None, False, "it rises"),
        # A first stage that falls, a second one that does not move.
        (np.r_[100 - np.arange(100), noise(100)], [0] * 100 + [1] * 100, True, "changed by"),
        (noise(9), None, True, "has 9 points, too few"),
    ],
    ids=["settled", "falling", "rising", "stages", "short"],
)
def test_slope_of_the_training_loss(loss, stage, ok, words):
    (found,) = checks(loss=loss, stage=stage)
    assert found.ok == ok and found.name == "slope"
    assert words.replace("it rises", "the loss rises") in found.sentence


def test_figures_of_a_straight_line():
    (found,) = checks(loss=100 - 0.5 * np.arange(100.0))
    assert found.figure == pytest.approx(-20) and found.limit == pytest.approx(0.3)
    assert found.sentence == (
        "the training loss changed by -20 nats over its last 40 points (at most 0.3: 3 standard "
        "errors, or 1 % of the 30 gained before). To try: train longer."
    )


@pytest.mark.parametrize(("points", "window"), [(20, 10), (60, 30), (100, 40), (400, 80)])
def test_window_of_the_slope(points, window):
    (found,) = checks(loss=noise(points))
    assert f"over its last {window} points" in found.fact


def test_each_chain_has_a_slope_of_its_own():
    found = checks(loss=np.stack([noise(100), 50 - np.arange(100)]))
    assert [check.ok for check in found] == [True, False]
    assert "loss of chain 1 changed" in found[1].fact


@pytest.mark.parametrize(
    ("status", "steps", "ok", "fact"),
    [
        ("finished", [40, 40], True, "training is finished after 40 of 40 planned steps"),
        ("finished", [30, 40], True, "training is finished after 30 of 40 planned steps"),
        ("stopped", [30, 40], True, "training is stopped after 30 of 40 planned steps"),
        ("interrupted", [3, 40], False, "training is interrupted after 3 of 40 planned steps"),
        ("running", [3, 0], False, "training is running after 3 steps"),
    ],
)
def test_steps_against_the_plan(status, steps, ok, fact):
    found = checks({"training_status": status, "training_steps": steps}, loss=noise(40))[0]
    assert (found.name, found.ok) == ("plan", ok)
    assert found.fact == f"{fact} (expected finished or stopped)"
    assert ok or "--resume" in found.sentence


@pytest.mark.parametrize("steps", ["many", [1.5, 2.0], [1, 2, 3], 7])
def test_a_plan_of_another_kind_is_none(steps):
    assert [c.name for c in checks({"training_status": "running", "training_steps": steps},
                                   loss=noise(40))] == ["slope"]  # fmt: skip
