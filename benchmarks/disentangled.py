"""Steps of the disentanglement papers beside hand-written PyTorch and beside the plain VAE.

    python benchmarks/disentangled.py [--repeats 30] [--only hfs nashae]

A step is what a fit takes: loss, gradient and move of every side of a game. Interleaved in one
process, on one thread: each step of a fit is followed by one of the hand-written loss and one of
each kind of the plain VAE, on the same images. Medians of the ratios turn by turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import disentangled_by_hand as by_hand
import torch
from interleaved import Step, Times, adam, ratio, stepping
from torch import Tensor

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference.training.steps import Steps

WARM = 5


def beside(
    run: Callable[..., inference.Run], peers: dict[str, Step], repeats: int, compiled: bool
) -> Times:
    """Milliseconds of every step of a fit, and of the peers' steps, which follow each of them."""
    times: Times = {name: [] for name in ("ours", *peers)}
    take = Steps.take

    def timed(self: Steps, step: int, batches: Any) -> Any:
        began = time.perf_counter()
        taken = take(self, step, batches)
        spent = {"ours": time.perf_counter() - began}
        for name, peer in peers.items():
            began = time.perf_counter()
            peer()
            spent[name] = time.perf_counter() - began
        if step >= WARM:
            for name, seconds in spent.items():
                times[name].append(1e3 * seconds)
        return taken

    with patch.object(Steps, "take", timed):
        run(steps=WARM + repeats, progress=False, compile=compiled)
    return times
