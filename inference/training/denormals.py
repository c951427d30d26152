"""Denormal numbers, which processors multiply many times more slowly than others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """Take numbers below the smallest normal one (1e-38 in single precision) as 0 meanwhile.

    A weight that only its prior moves, such as one into a code that is not used, goes to 0 by
    ever smaller steps, and stays among these numbers: a step of M1+M2 with ``weight_prior=1``
    then takes several times as long. It holds for the calling thread and for threads that start
    meanwhile; processors that cannot do it go on as before.
    """
    before = _flushes()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _flushes() -> bool:
    """Whether such numbers are taken as 0 now; torch does not tell."""
    return not (torch.tensor(1e-40) * torch.tensor(1.0)).item()
