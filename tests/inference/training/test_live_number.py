"""Numbers that stand for the progress of training in a trace."""

from __future__ import annotations

import pytest
import torch

from ppl_models.inference import Anneal
from ppl_models.inference.training.live_number import Live

EXPRESSIONS = [
    lambda p: p + 2,
    lambda p: 2 + p,
    lambda p: p - 3,
    lambda p: 3 - p,
    lambda p: p * 4,
    lambda p: 4 * p,
    lambda p: p / 5,
    lambda p: 5 / p,
    lambda p: p**2,
    lambda p: 2**p,
    lambda p: -p,
    lambda p: p * p + (1 - p) / p,
    lambda p: max(0.0, 1.0 - p),
    lambda p: min(p, 1),
    lambda p: Anneal(2, 1, 0.1, 0.9)(p),
]


def live(value, outcomes):
    return Live(value, torch.tensor(value, dtype=torch.float64), outcomes)


@pytest.mark.parametrize("f", EXPRESSIONS)
def test_arithmetic_is_that_of_numbers(f):
    found = f(live(0.3, []))
    assert found.value == f(0.3) == found.tensor.item()
    assert found.at(0.7) == f(0.7)  # the same expression at another moment


def test_arithmetic_with_tensors_gives_tensors_of_their_type():
    p, x = live(0.3, []), torch.tensor([1.0, 2.0])
    for f in (
        lambda p, x: p * x, lambda p, x: x * p, lambda p, x: p - x, lambda p, x: x - p,
        lambda p, x: x / p, lambda p, x: p / x, lambda p, x: x.clamp(max=p),
        lambda p, x: torch.where(x > p, x, p), lambda p, x: x**p,
    ):  # fmt: skip
        torch.testing.assert_close(f(p, x), f(0.3, x))


def test_comparisons_are_answered_and_noted():
    outcomes = []
    p = live(0.3, outcomes)
    answers = [p < 0.5, p <= 0.2, 1 - p > 0.5, p >= 0.3, p == 0.3, p != 0.3, bool(p)]
    assert answers == [True, False, True, True, True, False, True]
    assert [outcome for _, outcome in outcomes] == answers
    at = {moment: [test(moment) for test, _ in outcomes] for moment in (0.3, 0.0, 0.6)}
    assert at[0.3] == answers
    assert at[0.0] == [True, True, True, False, False, True, False]
    assert at[0.6] == [False, False, False, True, False, True, True]


def test_a_schedule_has_three_phases():
    outcomes = []
    Anneal(1, 0, 0.25, 0.5)(live(0.3, outcomes))
    moments = (0.0, 0.25, 0.26, 0.49, 0.5, 0.9)
    alike = [all(test(m) == outcome for test, outcome in outcomes) for m in moments]
    assert alike == [False, False, True, True, False, False]


def test_a_plain_number_is_refused():
    with pytest.raises(TypeError, match="would freeze it"):
        float(live(0.3, []))
