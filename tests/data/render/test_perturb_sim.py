"""Perturbed cells: the published simulation's figures, targets, and the truth beside the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ppl_models import data
from ppl_models.data.render import perturb_sim

SMALL = {"perturbations": 6, "cells": 30, "latents": 4, "genes": 20, "validation": 20, "test": 20}


def every(d, site):
    return torch.cat([t.sites[site] for t in (d.train, d.validation, d.test)]).double().numpy()


# Ten worlds: standard deviation 736 (77), zeros 0.13 % (0.02); one world of theirs: 700, 0.1 %.
@pytest.mark.parametrize("seed", [0, 1])
def test_the_published_figures(seed):
    d = data.load("perturb_sim", perturbations=100, cells=250, latents=15, seed=seed)
    x, library = every(d, "x"), every(d, "library")
    assert len(x) == 25_000 and (x.sum(1, keepdims=True) == library).all()
    assert library.mean() == pytest.approx(4000, rel=1e-3)
    assert 400 < library.std() < 1100
    assert (x == 0).mean() < 4e-3
    # Each gene has the same sum over all cells.
    assert x.mean(0) == pytest.approx(40, rel=0.02)


@pytest.mark.parametrize("cells", [25, 100])
def test_depth_does_not_hang_on_the_number_of_cells(cells):
    d = data.load("perturb_sim", cells=cells, validation=10, test=10)
    assert every(d, "x").mean() == pytest.approx(40, rel=2e-3)


def test_targets_are_drawn_with_replacement():
    targets = perturb_sim.world(perturbations=40_000, latents=4).targets.sum(1)
    # Of one, two or three draws out of four, how many are different.
    one, two, three = 1, 1 + 3 / 4, 1 + 3 / 4 + (3 / 4) ** 2
    assert targets.mean() == pytest.approx((one + two + three) / 3, abs=5 * 0.7 / 200)
    shares = np.bincount(targets) / len(targets)
    assert shares[1] == pytest.approx((1 + 1 / 4 + 1 / 16) / 3, abs=5 * 0.5 / 200)
    shifts = perturb_sim.world(perturbations=4_000, latents=4).shifts
    size = shifts[shifts != 0]
    assert abs(size).mean() == pytest.approx(5, abs=0.05)
    assert abs(size).std() == pytest.approx(0.5, abs=0.03)
    assert (size > 0).mean() == pytest.approx(0.5, abs=0.05)


def test_states_are_shifted_where_the_world_says():
    d = data.load("perturb_sim", **{**SMALL, "cells": 2_000, "controls": 2_000})
    world = perturb_sim.world(6, 4, 20)
    state, label = every(d, "state"), every(d, "perturbation")
    for code in range(7):
        own = state[label == code]
        shift = world.shifts[code] if code < 6 else np.zeros(4)
        assert np.abs(own.mean(0) - shift).max() < 5 / np.sqrt(2_000)
        assert own.std(0) == pytest.approx(1, abs=0.08)
    assert d.train.classes["perturbation"][-1] == "control"
    assert d.roles == {"perturbation": "covariate", "library": "covariate", "state": "factor"}


def test_counts_are_poisson_at_the_worlds_rates():
    d = data.load("perturb_sim", **{**SMALL, "cells": 3_000}, depth=3.0)
    logits = perturb_sim.world(6, 4, 20).logits(every(d, "state"))
    rate = np.exp(logits / logits.std())
    rate *= 3 / rate.mean(0)
    left = (every(d, "x") - rate) ** 2 / rate  # of mean 1, and variance 2 + 1 / rate
    error = np.sqrt((2 + 1 / rate).mean() / rate.size)
    assert left.mean() == pytest.approx(1, abs=5 * error)


def test_layers_are_orthonormal_and_scaled():
    for layer in perturb_sim.world(3, 8, 100).layers:
        inputs, outputs = layer.shape
        gain = 2 / (1 + 0.2**2) * 2 / (inputs + outputs)
        gram = layer.T @ layer if inputs >= outputs else layer @ layer.T
        assert gram == pytest.approx(gain * np.eye(min(layer.shape)), abs=1e-12)


def test_unseen_perturbations_are_in_the_test_part_alone():
    d = data.load("perturb_sim", **SMALL, unseen=2)
    seen = [set(t.sites["perturbation"].tolist()) for t in (d.train, d.validation, d.test)]
    assert seen[0] == set(range(4)) and seen[1] <= seen[0] and seen[2] == {4, 5}
    assert len(d.test) == 60 and len(d.validation) == 20


def test_one_world_in_other_cells():
    first, second = (data.load("perturb_sim", **SMALL, seed=s, world_seed=5) for s in (0, 1))
    assert not torch.equal(first.train.sites["x"], second.train.sites["x"])
    means = [
        np.stack([every(d, "state")[every(d, "perturbation") == c].mean(0) for c in range(6)])
        for d in (first, second)
    ]
    assert np.abs(means[0] - means[1]).max() < 7 / np.sqrt(30)
