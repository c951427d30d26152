"""Schedules of the learning rate, against closed forms and torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim import lr_scheduler as torch_s

from ppl_models.inference import Training
from ppl_models.inference.objectives.learning_rate import (
    learning_rate_factor,
    rates_follow_share,
)

TOTAL = 30


def by_hand(kind, t, warmup, last=0.0, length=TOTAL, every=0, at=(), factor=0.1):
    ramp = min(1.0, (t + 1) / warmup) if warmup else 1.0
    s = min(1.0, max(0.0, (t - warmup) / (length - warmup))) if length > warmup else 1.0
    return (
        ramp
        * {
            "constant": lambda: 1.0,
            "linear": lambda: 1 + s * (last - 1),
            "cosine": lambda: last + (1 - last) * (1 + math.cos(math.pi * s)) / 2,
            "step": lambda: factor ** (t // every if every else sum(t >= moment for moment in at)),
        }[kind]()
    )


@pytest.mark.parametrize("warmup", [0, 1, 7, TOTAL, 2 * TOTAL])
@pytest.mark.parametrize(
    ("schedule", "kind", "told"),
    [
        ("constant", "constant", {}),
        ("linear", "linear", {}),
        ("linear(last=0.2)", "linear", {"last": 0.2}),
        ("linear(last=0, steps=20)", "linear", {"length": 20}),
        ("cosine", "cosine", {}),
        ("cosine(last=0.01)", "cosine", {"last": 0.01}),
        ("cosine(steps=45)", "cosine", {"length": 45}),
        ("step(every=4)", "step", {"every": 4}),
        ("step(every=9, factor=0.5)", "step", {"every": 9, "factor": 0.5}),
        ("step(at=(5, 20), factor=0.3)", "step", {"at": (5, 20), "factor": 0.3}),
        ("step(at=(0.6, 0.8))", "step", {"at": (18, 24)}),
        ("step(at=11)", "step", {"at": (11,)}),
    ],
)
def test_rates_are_those_of_the_formula(schedule, kind, told, warmup):
    factor = learning_rate_factor(schedule, warmup)
    for t in range(TOTAL):
        expected = by_hand(kind, t, warmup, **told)
        assert factor(t, TOTAL) == pytest.approx(expected, rel=1e-14, abs=1e-16)


@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [
        ("cosine", lambda o: torch_s.CosineAnnealingLR(o, TOTAL)),
        ("linear(last=0.25)", lambda o: torch_s.LinearLR(o, 1.0, 0.25, TOTAL)),
        ("step(every=7, factor=0.5)", lambda o: torch_s.StepLR(o, 7, 0.5)),
        ("step(at=(3, 11))", lambda o: torch_s.MultiStepLR(o, [3, 11], 0.1)),
    ],
)
def test_torch_goes_the_same_way(schedule, theirs):
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    scheduler = theirs(optimiser)
    factor = learning_rate_factor(schedule)
    for t in range(TOTAL):
        assert factor(t, TOTAL) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-12)
        optimiser.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("schedule", "follows"),
    [
        ("constant", False), ("cosine", True), ("linear(last=0.1)", True),
        ("cosine(steps=100)", False), ("linear(steps=100)", False), ("step(every=9)", False),
        ("step(at=(3, 9))", False), ("step(at=(3, 0.9))", True),
    ],
)  # fmt: skip
def test_whether_rates_follow_the_share(schedule, follows):
    assert rates_follow_share(schedule) is follows


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("cosin", "unknown schedule 'cosin': did you mean 'cosine'?"),
        ("cosine(lst=0)", "option of schedule 'cosine' 'lst': did you mean 'last'?"),
        ("constant(last=0)", "'constant' takes no options, got 'last'"),
        ("cosine(last=-1)", "last of schedule .* is -1, expected a finite number >= 0"),
        ("cosine(last='a')", "is 'a', expected a finite number"),
        ("cosine(steps=0.5)", "is 0.5, expected a whole number"),
        ("step", "expected one of every= and at="),
        ("step(every=3, at=4)", "expected one of every= and at="),
        ("step(every=0)", "is 0, expected at least 1"),
        ("step(at=(0.5, 1.5))", "has 1.5, expected whole steps, or shares below 1"),
        ("cosine(0.1)", r"is not of the form name or name\(option=value"),
        ("cosine(**{'last': 1})", "is not of the form"),
        ("cosine(last=__import__('os'))", "is not of the form"),
        ("cosine(last=1, last=2)", "twice|not of the form"),
        ("", "is not of the form"),
    ],
)
def test_schedules_that_are_none(schedule, words):
    with pytest.raises(ValueError, match=words):
        Training(schedule=schedule)
