"""What cannot be compiled: named in one warning, after which training goes on as it was."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from worlds.compiled_steps import build, fit

from ppl_models import data, inference
from ppl_models.inference import EnumeratedELBO
from ppl_models.inference.training import compiled_step
from ppl_models.inference.training.compiled_step import NotCompiled


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", train=200, validation=50, test=50, labelled=30)


class Branching(EnumeratedELBO):
    def rows(self, run):
        loss = super().rows(run)
        return loss * 2 if loss.mean() > 0 else loss


class Counting(EnumeratedELBO):
    steps = 0

    def rows(self, run):
        self.steps = self.steps + 1
        return super().rows(run) / self.steps


class Freezing(EnumeratedELBO):
    def rows(self, run):
        return super().rows(run) * float(self.progress)


class Shaped(EnumeratedELBO):
    def rows(self, run):
        loss = super().rows(run)
        return loss + loss[loss > 0].sum()


class Elsewhere(EnumeratedELBO):
    def __init__(self, pair):
        super().__init__()
        self.weight = pair.decoder.rest[-1].bias

    def rows(self, run):
        return super().rows(run) + self.weight.square().sum()


class Checkpointed(EnumeratedELBO):
    def rows(self, run):
        def again():  # on traces of its own, which the second time are made anew
            fresh = inference.Evaluation(run.model, run.guide, run.batch)
            return super(Checkpointed, self).rows(fresh)

        return checkpoint(again, use_reentrant=False)


def chunked():
    return EnumeratedELBO(chunk=4)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Branching, r"test_not_compiled.py:\d+"),
        (Counting, "Counting.steps changes in each step"),
        (Freezing, "would freeze it"),
        (Shaped, "nonzero"),
        (chunked, "chunk=4 runs slices again in the backward pass"),
        (Checkpointed, "run twice with the same random numbers"),
        (Elsewhere, r"parameter of shape \(64,\) is read past the modules"),
    ],
)
def test_what_stops_a_trace_is_named_once_and_training_goes_on(digits, make, reason):
    plain, fast = build("m2", digits), build("m2", digits)
    rows = digits.train.only("x")
    fit(plain, rows, objective=make(plain) if make is Elsewhere else make())
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        fit(fast, rows, objective=make(fast) if make is Elsewhere else make(), compile=True)
    (warning,) = [w for w in seen if w.category is NotCompiled]
    assert "training is not compiled" in str(warning.message)
    assert "\n" not in str(warning.message)
    assert re.search(reason, str(warning.message)), str(warning.message)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, fast.state_dict()[name]), name


def test_a_compiler_that_fails_is_named(digits, monkeypatch):
    def no_compiler(graph, inputs):
        raise RuntimeError("No working C++ compiler found\nand a long tail")

    monkeypatch.setattr(compiled_step, "inductor", no_compiler)
    with pytest.warns(NotCompiled, match="No working C.. compiler found$"):
        fit(build("m2", digits), digits, compile=True)
