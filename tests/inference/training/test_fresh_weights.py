"""What a second fit of a pair begins with."""

from __future__ import annotations

import logging

import pytest
import torch

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.semisupervised.m2 import M2

SMALL = {"hidden": (8,), "latent": 2}
GOES_ON = "the pair was fitted before: training goes on from its weights (fresh=True)"


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", train=200, validation=50, test=50, labelled=30)


def fit(pair, digits, **options):
    options = {"steps": 3, "batch_size": 50, "seed": 3, "device": "cpu", **options}
    inference.fit(pair, digits, progress=False, **options)
    return {name: value.clone() for name, value in pair.state_dict().items()}


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_second_fit_goes_on_and_says_so_and_a_fresh_one_does_not(digits, caplog, tmp_path):
    caplog.set_level(logging.INFO, logger="ppl_models")
    pair = zoo.build("m2", digits, seed=3, **SMALL)
    first = fit(pair, digits, out=tmp_path)
    assert GOES_ON not in caplog.messages
    parameters = list(pair.parameters())
    second = fit(pair, digits)
    assert caplog.messages.count(GOES_ON) == 1
    loaded = inference.load(tmp_path).pair
    assert same(fit(loaded, digits), second) and not same(first, second)
    assert caplog.messages.count(GOES_ON) == 2
    # Whoever holds its parts goes on holding them.
    assert same(fit(pair, digits, fresh=True), first)
    assert all(a is b for a, b in zip(parameters, pair.parameters(), strict=True))
    other = zoo.build("m2", digits, seed=9, **SMALL)
    assert same(fit(other, digits, seed=9, fresh=True), fit(pair, digits, seed=9, fresh=True))
    assert caplog.messages.count(GOES_ON) == 2


def test_buffers_and_precision(digits):
    """Whether codes are alive is found by a stage, and kept in a buffer of the pair."""
    small = {**SMALL, "hidden_top": (4,), "code": 3, "dead": 0.0}
    pair = zoo.build("m1m2", digits, seed=3, **small).double()
    first = fit(pair, digits, steps=(3, 3))
    with torch.no_grad():
        pair.active.zero_()
    again = fit(pair, digits, steps=(3, 3), fresh=True)
    assert same(again, first) and pair.like().dtype == torch.float64


class ByHand(M2):
    def __init__(self, config, more):
        super().__init__(config)
        self.more = more


def test_what_cannot_be_made_anew_is_refused_before_any_work(digits, tmp_path):
    built = zoo.build("m2", digits, **SMALL)
    for pair, why in (
        (ByHand(built.config, 1), r"ByHand\(config\), which fails \(.*'more'\)"),
        (built, r"M2\(config\), whose 'extra.weight' has the shape None, not \(2, 3\)"),
    ):
        if pair is built:
            pair.extra = torch.nn.Linear(3, 2)
        before = {name: value.clone() for name, value in pair.state_dict().items()}
        with pytest.raises(ValueError, match=f"^fresh=True makes the pair anew as {why}"):
            fit(pair, digits, fresh=True, out=tmp_path / "r")
        assert same(before, pair.state_dict()) and not (tmp_path / "r").exists()
    with pytest.raises(ValueError, match=r"^resume and fresh are both on"):
        fit(built, digits, fresh=True, resume=True)
