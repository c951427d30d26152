"""Two objectives of opposite sign over one value."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from worlds.linear import draw, linear

from ppl_models import inference
from ppl_models.batch import Batch
from ppl_models.data import Table
from ppl_models.inference import EnumeratedELBO, Stage, max_min


@pytest.mark.parametrize("weight", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_their_gradients_are_opposite(weight, dtype) -> None:
    pair = linear(dtype=dtype)
    term, player = max_min(EnumeratedELBO(), weight, parameters=("means",), steps=2)
    batch, gradients = Batch({"x": draw(pair, 5)[0]}), []
    for objective in (term, player.objective):
        torch.manual_seed(1)
        loss = objective.differentiable_loss(pair.model, pair.guide, batch)
        gradients.append(torch.autograd.grad(loss, list(pair.parameters())))
    for small, large in zip(*gradients, strict=True):
        assert_close(small, -weight * large)
    assert (player.steps, player.parameters) == (2, ("means",))


def test_each_side_moves_its_own_way() -> None:
    """The value after a move of one side alone, at the same draws."""
    moved = []
    for sides in ("pair", "adversary"):
        pair = linear()
        x = draw(pair, 8)[0]
        rates = {"learning_rate": 0.01 if sides == "pair" else 0.0}
        term, player = max_min(
            EnumeratedELBO(), parameters=("means",), learning_rate=0.01 - rates["learning_rate"]
        )
        values = []
        for _ in range(2):
            torch.manual_seed(1)
            loss = EnumeratedELBO().differentiable_loss(pair.model, pair.guide, Batch({"x": x}))
            values.append(float(loss.detach()))
            inference.fit(
                pair, Table("rows", {"x": x}), stages=(Stage(term, players=(player,)),),
                epochs=20, batch_size=8, progress=False, **rates,
            )  # fmt: skip
        moved.append(values[1] - values[0])
    assert moved[0] < 0 < moved[1]
