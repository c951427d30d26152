"""Looking at a model without leaving a trace of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch

from ppl_models.batch import Batch


@contextmanager
def quietly(batch: Batch) -> Iterator[None]:
    """Run a model without gradient, without Pyro's checks, and with the random state restored."""
    device = batch.rows.device
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        torch.no_grad(),
        pyro.validation_enabled(False),
    ):
        yield


def is_local(site: Any) -> bool:
    """Whether a site stands in the data plate."""
    return any(frame.name == "data" for frame in site["cond_indep_stack"])
