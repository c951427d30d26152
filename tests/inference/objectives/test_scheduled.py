"""Buffers that follow schedules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ppl_models.inference import Anneal, Progress, scheduled

NUMBERS = (Anneal(0, 1, start=0.5, steps=8), Anneal(3, 1, steps=4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_after_a_step_the_buffer_has_the_values_of_the_next(dtype):
    holder = nn.Module()
    holder.register_buffer("share", torch.tensor([7.0, 7.0]))
    follow = scheduled(holder, "share", NUMBERS)
    assert holder.share.tolist() == [7, 7]
    holder.to(dtype)
    for step, wanted in enumerate([(0, 2.5), (0, 2), (0, 1.5), (0, 1), (0.25, 1), (0.5, 1)]):
        follow(Progress(step / 100, step))
        assert holder.share.tolist() == list(wanted)
        assert holder.share.dtype == dtype


@pytest.mark.parametrize(
    ("name", "numbers", "words"),
    [
        ("shares", NUMBERS, r"buffer 'shares' of Module has shape \(\), expected a vector of 2"),
        ("share", NUMBERS[:1], r"has shape \(2,\), expected a vector of 1"),
        ("share", (NUMBERS[0], Anneal(0, 1)), "goes by shares, expected one with steps="),
    ],
)
def test_what_does_not_fit(name, numbers, words):
    holder = nn.Module()
    holder.register_buffer("share", torch.zeros(2))
    with pytest.raises(ValueError, match=words):
        scheduled(holder, name, numbers)
