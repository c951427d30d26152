"""Numbers near 0 do not slow a training down, and the caller's processor is left as it was."""

from __future__ import annotations

import pytest
import torch

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference.training.denormals import flushed_denormals

SMALL = {torch.float32: 1e-40, torch.float64: 1e-310}


def flushes(dtype: torch.dtype = torch.float32) -> bool:
    return not (torch.tensor(SMALL[dtype], dtype=dtype) * 1).item()


@pytest.fixture(autouse=True)
def able():
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor keeps denormal numbers")
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("before", [False, True])
def test_they_are_zero_meanwhile_and_as_before_afterwards(before, dtype):
    torch.set_flush_denormal(before)
    with flushed_denormals():
        assert flushes(dtype)
    assert flushes(dtype) == before
    with pytest.raises(RuntimeError), flushed_denormals():
        raise RuntimeError
    assert flushes(dtype) == before


def test_a_training_runs_so():
    rows = data.load("digits")
    pair = zoo.build("m2", rows, hidden=(4,), latent=2)
    seen = []
    inference.fit(
        pair, rows, steps=2, progress=False, callbacks=(lambda *_: seen.append(flushes()),)
    )
    assert seen
    assert all(seen)
    assert not flushes()
