"""Scenes: only digits that are there count, in the story and in the guide."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.testing import assert_close

import ppl_models as zoo
from ppl_models import Batch
from ppl_models.inference import EnumeratedELBO
from ppl_models.parts.scenes import stamp

SMALL = {"data_dim": 36, "counts": 3, "glyph": 3, "latent": 2, "hidden": (4,), "channels": 2}
ROWS = 5


@pytest.fixture
def pair():
    torch.manual_seed(0)
    found = zoo.build("multi_digits", **SMALL).double()
    assert list(found.card.latents) == ["count", "where_0", "style_0", "where_1", "style_1"]
    return found


@pytest.fixture
def x():
    return torch.rand(ROWS, 36, generator=torch.Generator().manual_seed(1)).double()


def by_hand(pair, x, draws, count: int) -> torch.Tensor:
    """log p(x, codes, count) - log q(codes) of the digits that are there, per row."""
    total = torch.full((ROWS,), -math.log(3)).double()
    empty = torch.ones(ROWS, 36).double()
    for k in range(count):
        for name in (f"where_{k}", f"style_{k}"):
            q = pair.guide.factor(name, {"x": x, "count": torch.tensor(count), **draws})
            prior = dist.Normal(torch.zeros_like(draws[name]), 1).to_event(1)
            total = total + prior.log_prob(draws[name]) - q.log_prob(draws[name])
        glyph = pair.decoder(style=draws[f"style_{k}"]).sigmoid().reshape(ROWS, 3, 3)
        empty = empty * (1 - stamp(glyph, draws[f"where_{k}"], 6).flatten(1))
    return total + dist.Normal(1 - empty, pair.log_sigma.exp()).log_prob(x).sum(-1)


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("scale", [1, 10])
def test_a_labelled_scene(pair, x, count, scale):
    batch = Batch({"x": x, "count": torch.full((ROWS,), count)}, size=ROWS * scale)
    torch.manual_seed(2)
    loss = EnumeratedELBO().differentiable_loss(pair.model, pair.guide, batch)
    torch.manual_seed(2)
    draws = {n: v for n, v in pair.guide(batch).items() if n[:5] in ("where", "style")}
    assert_close(loss, -scale * by_hand(pair, x, draws, count).sum())


@pytest.mark.parametrize("scale", [1, 10])
def test_a_scene_without_its_count(pair, x, scale):
    """All counts share the draws; each is weighed by q(count | x)."""
    batch = Batch({"x": x}, size=ROWS * scale)
    torch.manual_seed(3)
    loss = EnumeratedELBO().differentiable_loss(pair.model, pair.guide, batch)
    torch.manual_seed(3)
    trace = poutine.trace(poutine.enum(pair.guide, first_available_dim=-2)).get_trace(batch)
    draws = {n: trace.nodes[n]["value"].detach() for n in pair.card.latents if n != "count"}
    assert all(value.shape[0] == ROWS for value in draws.values())  # not one per count
    q = pair.guide.factor("count", batch).probs
    expected = torch.zeros(ROWS).double()
    for count in range(3):
        share = q[:, count]
        expected = expected + share * (by_hand(pair, x, draws, count) - share.log())
    assert_close(loss, -scale * expected.sum())


def test_an_intervention_takes_digits_away(pair, x):
    batch = Batch({"x": x})
    with torch.no_grad():
        found = pair.intervene(batch, count=0)["x"]
    assert_close(found, torch.zeros_like(found))


def test_canvases_are_square():
    with pytest.raises(ValueError, match="data_dim is 37, expected a square number of pixels"):
        zoo.build("multi_digits", **{**SMALL, "data_dim": 37})
