"""Objectives by name, as the command line takes them."""

from __future__ import annotations

import pytest

from ppl_models.inference import Anneal, EnumeratedELBO, WakeSleep
from ppl_models.inference.objectives.by_name import BOUNDS, parse_objective


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("renyi(alpha=-0.5)", "Renyi(alpha=-0.5)"),
        ("wake_sleep(particles=3, sleep=0.5)", "WakeSleep(particles=3, sleep=0.5)"),
        (
            "self_normalised(logq=jensen, alpha=0.1)",
            "SelfNormalisedELBO(logq='jensen', alpha=0.1)",
        ),
        (
            "score(particles=4, inside=True)",
            "ScoreELBO(particles=4, inside=True)",
        ),
        (
            "relaxed(temperature=0.5, hard=True)",
            "RelaxedELBO(temperature=0.5, hard=True)",
        ),
        (
            "wake_sleep(wake=anneal(1, 0.5, 0.2, 0.8))",
            repr(WakeSleep(wake=Anneal(1, 0.5, 0.2, 0.8))),
        ),
        (
            "enumerated(beta={z: 4, 'w': anneal(0, 1)})",
            repr(EnumeratedELBO(beta={"z": 4, "w": Anneal(0, 1)})),
        ),
    ],
)
def test_a_name_with_options_is_the_objective_it_says(text, written):
    assert repr(parse_objective(text)) == written


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("score(particles=1)", "particles is 1, expected at least 2"),
        ("renyi(order=2)", "order.*option of renyi|option of renyi.*order"),
        ("wake_slep", "wake_sleep"),
    ],
)
def test_mistakes_are_answered_by_name(text, words):
    with pytest.raises(ValueError, match=words):
        parse_objective(text)


@pytest.mark.parametrize("name", BOUNDS)
def test_every_formula_names_what_it_is_made_of(name):
    formula = parse_objective(name).formula
    assert "log" in formula and "p(x" in formula and "q(" in formula
