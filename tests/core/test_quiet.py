"""Surroundings that leave the random state and Pyro's checks as they were."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.util import is_validation_enabled

from ppl_models.quiet import quiet


@pytest.mark.parametrize("seed", [None, 3])
def test_the_random_state_is_restored(seed):
    torch.manual_seed(0)
    first, second = torch.rand(2), torch.rand(2)
    torch.manual_seed(0)
    with quiet(torch.device("cpu"), seed):
        inside = torch.rand(2)
    torch.testing.assert_close(torch.rand(2), first, rtol=0, atol=0)
    torch.testing.assert_close(torch.rand(2), second, rtol=0, atol=0)
    if seed is None:
        torch.testing.assert_close(inside, first, rtol=0, atol=0)
    else:
        torch.manual_seed(seed)
        torch.testing.assert_close(inside, torch.rand(2), rtol=0, atol=0)


def test_checks_are_off_meanwhile_and_on_again_after_an_error():
    def fails() -> None:
        with quiet(torch.device("cpu")):
            assert not is_validation_enabled()
            dist.Normal(0.0, -1.0)
            raise ZeroDivisionError

    before = is_validation_enabled()
    with pytest.raises(ZeroDivisionError):
        fails()
    assert is_validation_enabled() is before
