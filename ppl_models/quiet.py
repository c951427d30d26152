"""Looking at a pair without leaving a trace of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import torch

from ppl_models.config import whole
from ppl_models.devices import check_device


@contextmanager
def quiet(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Run without Pyro's checks; the random state is afterwards what it was.

    Args:
        device: Where random numbers are drawn, besides the CPU.
        seed: Seed to begin with; by default the random state goes on from where it is.

    Raises:
        ValueError: If the device is not supported.
    """
    check_device("the pair", device)
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        pyro.validation_enabled(False),
    ):
        if seed is not None:
            torch.manual_seed(whole("seed", seed))
        yield
