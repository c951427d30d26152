"""A structural causal model of one's own, whose counterfactuals are those of the world."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from worlds.discs import made, world

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.testing import PairContract

FILE = Path(__file__).parents[2] / "examples" / "cells.py"
PAIR = f"{FILE}:Cells"


class TestCells(PairContract):
    pair = PAIR


def test_it_is_short():
    assert len(FILE.read_text().splitlines()) < 60


def test_what_is_set_to_what_it_is_changes_nothing():
    sites = made(world(40, 0))
    rows = data.from_arrays(**sites, splits=(20, 10, 10))
    pair = zoo.build(PAIR, rows)
    inference.fit(pair, rows, epochs=1, batch_size=10, progress=False)
    (batch,) = rows.test.batches()
    found = pair.counterfactual(batch, dose=batch["dose"])
    for name in sites:
        assert_close(found[name], batch[name], rtol=1e-4, atol=1e-4)
    # What follows of twice the dose, by the noises of the rows.
    noise = pair.scm.noise({name: batch[name] for name in pair.card.causes})
    causes = pair.scm.push(noise, dose=2 * batch["dose"])
    found = pair.counterfactual(batch, dose=2 * batch["dose"])
    means = [
        pair.decoder(z=found["z"], **pair.scm.inner(values, ("size", "glow")))
        for values in (batch, causes)
    ]
    for name, value in {**causes, "x": batch["x"] + means[1] - means[0]}.items():
        assert_close(found[name], value, rtol=1e-4, atol=1e-4)


def off(found, wanted):
    """Median distance by site."""
    return {n: float((found[n] - value).abs().median()) for n, value in wanted.items()}


@pytest.mark.long
@pytest.mark.training
def test_its_counterfactuals_are_those_of_the_world():
    noise = world(1200, 0)
    rows = data.from_arrays(**made(noise), splits=(1000, 50, 150))
    pair = zoo.build(PAIR, rows)
    inference.fit(pair, rows, epochs=40, batch_size=100, learning_rate=0.01, progress=False)
    (batch,) = rows.test.batches(torch.arange(150))
    dose = batch["dose"].flip(0)
    truth = made({name: value[rows.test.numbers] for name, value in noise.items()}, dose)
    torch.manual_seed(0)
    found = off(pair.counterfactual(batch, dose=dose), truth)
    anew = off(pair.intervene(batch, mean=False, dose=dose), truth)
    # 10 seeds: 0.005 (0.007) and 0.016 (0.003); what is drawn anew 0.11 (0.01), 0.08 (0.01).
    assert found["glow"] < 0.04 and found["x"] < 0.03
    assert anew["glow"] > 0.08 and anew["x"] > 0.05
