"""Sets: which elements there are, and padding that nothing stumbles over."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.testing import assert_close

import ppl_models as zoo
from ppl_models import Batch, data, elements, inference

THERE = torch.tensor([[True, True, False], [False, True, False], [False, False, False]])


def test_which_elements_there_are() -> None:
    x = torch.zeros(3, 3, 2)
    both = Batch({"x": x, "x_there": THERE.double()})
    assert torch.equal(elements.present(both, "x", 5, 3), THERE)
    assert elements.present(Batch({"x": x}), "x", 5, 3).sum() == 9
    assert elements.present(Batch({}, torch.arange(3)), "x", 5, 3).shape == (3, 5)


@pytest.mark.parametrize("padding", [0.0, math.nan, math.inf, -1.0])
@pytest.mark.parametrize("event", [(), (2,), (2, 3)])
def test_padding_takes_the_first_element(padding: float, event: tuple[int, ...]) -> None:
    x = torch.full((3, 3, *event), padding)
    x[0, 0], x[0, 1], x[1, 1] = 4.0, 5.0, 6.0
    full = elements.filled(x, THERE)
    wanted = torch.tensor([[4.0, 5.0, 4.0], [6.0, 6.0, 6.0], [1.0, 1.0, 1.0]])
    wanted = wanted.reshape(3, 3, *[1] * len(event)).expand_as(x)
    assert_close(full, wanted)
    seen = elements.observed({"x": x}, "x", THERE)
    assert_close(seen, wanted.transpose(0, 1))  # elements, then rows, as in their plate
    assert elements.observed({}, "x", THERE) is None


def test_the_mean_is_over_the_elements_there_are() -> None:
    codes = torch.arange(18.0).reshape(3, 3, 2)
    found = elements.mean(codes, THERE)
    expected = torch.stack([codes[0, :2].mean(0), codes[1, 1], torch.zeros(2)])
    assert_close(found, expected)


def test_a_plate_of_elements_does_not_count_padding() -> None:
    x = torch.tensor([[1.0, 2.0, math.nan], [math.nan, 3.0, math.nan], [0.0, 0.0, 0.0]])
    loc = torch.tensor(0.5, requires_grad=True)
    batch = Batch({"x": x}, size=30)

    def model() -> None:
        with batch.plate(), elements.plate("element", THERE):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=elements.observed(batch, "x", THERE))

    log_p = poutine.trace(model).get_trace().log_prob_sum()
    kept = torch.tensor([1.0, 2.0, 3.0])
    assert_close(log_p, 10 * dist.Normal(loc, 1.0).log_prob(kept).sum())
    assert_close(torch.autograd.grad(log_p, loc)[0], 10 * (kept - loc).sum().detach())


@pytest.mark.parametrize("rows", [[[1.0, 2.0], [3.0]] * 9, [np.ones((n, 2)) for n in range(1, 9)]])
def test_sets_are_no_vectors_of_a_pair_without_them(rows: Any) -> None:
    table = data.from_arrays(x=rows, splits=None).test
    with pytest.raises(ValueError, match="sets of different sizes, but vae takes no 'x_there'"):
        inference.fit(zoo.build("vae", data_dim=2, hidden=(3,), latent=1), table, progress=False)
