"""Numbers that change over training: by its share and by steps, along lines, waves, decays."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from ppl_models import inference
from ppl_models.inference import Anneal, Progress
from ppl_models.inference.objectives.by_name import parse_objective
from ppl_models.inference.objectives.schedule import change_follows_progress, follows_progress

TOTAL = 40


@pytest.mark.parametrize("shape", ["linear", "cosine", "exponential"])
@pytest.mark.parametrize("steps", [0, 10, 25, 80])
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.2, 0.6), (0.5, 0.5)])
def test_values_are_those_of_the_formula(shape, steps, start, end):
    anneal = Anneal(0.3, 2.0, start, end, steps, shape)
    for done in range(TOTAL + 1):
        moment = done / (steps or TOTAL)
        if start == end:
            share = float(moment >= end)
        else:
            share = min(1.0, max(0.0, (moment - start) / (end - start)))
        if shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        elif shape == "exponential":
            share = (1 - math.exp(-5 * share)) / (1 - math.exp(-5))
        expected = 0.3 + share * 1.7
        assert anneal(Progress(done / TOTAL, done)) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("tau", [0.97, 0.99, 0.996])
def test_half_a_wave_to_1_is_the_decay_of_bootstrapped_targets(tau):
    for k in range(TOTAL):
        expected = 1 - (1 - tau) * (math.cos(math.pi * k / TOTAL) + 1) / 2
        assert Anneal(tau, 1, shape="cosine")(k / TOTAL) == pytest.approx(expected, abs=1e-15)


def test_steps_that_nobody_counts():
    anneal = Anneal(0, 1, steps=5)
    assert anneal(0.0) == 0
    with pytest.raises(ValueError, match=r"by steps, but the progress is 0.5; expected Progress"):
        anneal(0.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": -1}, "steps of Anneal is -1, expected a whole number >= 0"),
        ({"steps": 2.5}, "steps of Anneal is 2.5, expected a whole number"),
        ({"shape": "sine"}, "shape of Anneal is 'sine', expected one of linear, cosine"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(ValueError, match=words):
        Anneal(0, 1, **options)


def test_by_name():
    found = parse_objective("elbo(beta=anneal(0, 1, steps=100, shape=cosine))")
    assert found.beta == Anneal(0, 1, steps=100, shape="cosine")
    assert not follows_progress(found)
    assert parse_objective(repr(found)) == found


def test_an_older_run_s_anneal_is_told_as_it_was():
    told = inference.objectives.options.identity(inference.ELBO(beta=Anneal(0, 1)))["beta"]
    assert set(told) == {"class", "first", "last", "start", "end"}


def reads(progress):
    return progress > 0


def ignores(progress):
    return 1


class Owner:
    def reads(self, progress):
        return 2 * progress

    def ignores(self, progress):
        return self


NET = torch.nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("change", "follows"),
    [
        (reads, True),
        (ignores, False),
        (Owner().reads, True),
        (Owner().ignores, False),
        (lambda progress: progress, True),
        (lambda _: 0, False),
        (functools.partial(lambda at, progress: at(progress), Anneal(0, 1)), True),
        (inference.moving_average(inference.target_of(NET), NET, 0.9), False),
        (inference.moving_average(inference.target_of(NET), NET, Anneal(0.9, 1)), True),
        (inference.moving_average(inference.target_of(NET), NET, Anneal(0.9, 1, steps=9)), False),
    ],
)
def test_what_comes_after_a_step_may_follow_the_share(change, follows):
    assert change_follows_progress(change) is follows
