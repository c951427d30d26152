"""A bound summed a few label values at a time against the same bound in one pass."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from worlds.enumerated import Bits, Chain, batch_of, same, world
from worlds.linear import draw, linear

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.inference import EnumeratedELBO, Evaluation, StopGradient

B = 8  # with a code of 2 numbers: 16 normal draws per label, which torch fills block by block,
# so that slices of the labels draw what one pass draws


def pair_and_batch(kind: str, scale: int = 1, classes: int = 7):
    pair = linear(classes=classes)
    if kind == "shared":  # one draw for all labels
        pair.guide = guides.Factored(
            y=guides.Categorical(classes, {"x": 3}, (4,)), z=guides.Normal(2, {"x": 3}, (4,))
        ).double()
    if kind == "downstream":  # the label depends on the draw
        pair.guide = guides.Factored(
            z=guides.Normal(2, {"x": 3}, (4,)),
            y=guides.Categorical(classes, {"x": 3, "z": 2}, (4,)),
        ).double()
    x, y = draw(pair, B)
    sites = {"x": x, "y": y} if kind == "labelled" else {"x": x}
    return pair, Batch(sites, size=scale * B)


@pytest.mark.parametrize(("chunk", "scale"), [(1, 1), (3, 10), (7, 1)])
@pytest.mark.parametrize("kind", ["free", "shared", "downstream", "labelled"])
@pytest.mark.parametrize(
    "options",
    [{}, {"particles": 2}, {"kl": "analytic"}, {"grad": "stl"}, {"beta": {"y": 0.4}}],
    ids=str,
)
def test_value_and_gradient_are_those_of_one_pass(options, kind, chunk, scale):
    pair, batch = pair_and_batch(kind, scale)
    losses = []
    for objective in (EnumeratedELBO(**options), EnumeratedELBO(**options, chunk=chunk)):
        torch.manual_seed(0)
        losses.append(objective.differentiable_loss(pair.model, pair.guide, batch))
    same(losses[1], losses[0], pair, tol=1e-9)


def test_one_of_several_labels_is_sliced():
    pair = world(Chain)
    losses = []
    for chunk in (0, 2):
        torch.manual_seed(0)
        objective = EnumeratedELBO(chunk=chunk)
        losses.append(objective.differentiable_loss(pair.model, pair.guide, batch_of(pair, 10)))
    same(losses[1], losses[0], pair, tol=1e-9)


def test_a_label_over_a_plate_of_labels_is_sliced():
    """Codes of one draw for all labels, so that slices have the draws of one pass."""
    pair = world(Bits)

    def guide(batch: Batch) -> None:
        with batch.plate():
            own = batch["x"].T
            zero = torch.zeros_like(own)
            bits = pyro.plate("bits", 3, dim=-2)
            with bits:
                loc, log_scale = pair.q_w(own=own, y=zero.long(), b=zero).unbind(-1)
                pyro.sample("w", dist.Normal(loc, log_scale.exp()))
            y = pyro.sample("y", dist.Categorical(logits=pair.q_y(x=batch["x"])))
            with bits:
                pyro.sample("b", dist.Bernoulli(logits=pair.q_b(own=own, y=y).squeeze(-1)))

    losses = []
    for chunk in (0, 1):
        torch.manual_seed(0)
        objective = EnumeratedELBO(chunk=chunk, plate_nesting=2)
        losses.append(objective.differentiable_loss(pair.model, guide, batch_of(pair, 10)))
    same(losses[1], losses[0], pair, tol=1e-9)


def test_sites_outside_the_plate_count_once():
    pair, batch = pair_and_batch("free", 10)

    def with_global(fn, loc):
        def run(batch: Batch) -> None:
            pyro.sample("w", dist.Normal(loc, 0.5))
            fn(batch)

        return run

    loc = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    model, guide = with_global(pair.model, 0 * loc), with_global(pair.guide, loc)
    for chunk in (0, 3):
        torch.manual_seed(0)
        run = Evaluation(model, guide, batch)
        w = torch.randn((), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        drawn = loc + 0.5 * w
        hand = dist.Normal(loc, 0.5).log_prob(drawn) - dist.Normal(0.0, 0.5).log_prob(drawn)
        torch.testing.assert_close(EnumeratedELBO(chunk=chunk).outside(run), hand)


def test_a_gradient_stop_holds_in_the_second_pass():
    pair, batch = pair_and_batch("free")
    grads = []
    for chunk in (0, 2):
        torch.manual_seed(0)
        objective = StopGradient(EnumeratedELBO(chunk=chunk), pair.guide.factors["z"])
        loss = objective.differentiable_loss(pair.model, pair.guide, batch)
        parameters = list(pair.parameters())
        grads.append(torch.autograd.grad(loss, parameters, allow_unused=True))
    assert any(g is None for g in grads[0])
    for a, b in zip(*grads, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_memory_is_that_of_a_slice():
    """Peak of a process of its own, M2-like, 400 values: slices of 10 against all at once."""
    script = Path(__file__).parents[3] / "benchmarks" / "memory.py"
    # A fixed threshold gives freed tensors back at once: no gaps between them are counted.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}

    def peak(values: int, chunk: int) -> float:
        command = [sys.executable, str(script), "--one", str(values), str(chunk)]
        out = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
        return float(json.loads(out))

    assert peak(400, 10) < 0.25 * peak(400, 0)


@pytest.mark.parametrize(
    ("option", "words"), [("chunk", "chunk is -1"), ("combinations", "is -1")]
)
def test_options_out_of_range(option, words):
    with pytest.raises(ValueError, match=words):
        EnumeratedELBO(**{option: -1})
