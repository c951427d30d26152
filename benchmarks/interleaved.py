"""Steps of several codes, timed turn by turn in one process, and the ratios of the turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ppl_models.batch import Batch
from ppl_models.inference import Objective
from ppl_models.inference.training.compiled_step import Compiled, inductor

WARM = 5  # turns that are not counted
Step = Callable[[], object]
Times = dict[str, list[float]]


def adam(module: nn.Module, rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), rate, fused=True)


def stepping(module: nn.Module, loss: Callable[[], Any], rate: float = 1e-3) -> Step:
    """Loss, gradient and one step of Adam."""
    optimiser = adam(module, rate)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss().backward()
        optimiser.step()

    return step


def compiled(pair: nn.Module, objective: Objective, batch: Batch, rate: float = 1e-3) -> Step:
    """The same of a pair, whose loss and gradient are compiled as a fit compiles them."""
    graph = Compiled(objective, pair, list(pair.parameters()), (), inductor)
    optimiser = adam(pair, rate)

    def step() -> None:
        if batch.rows.is_cuda:
            torch.compiler.cudagraph_mark_step_begin()
        optimiser.zero_grad(set_to_none=True)
        if graph.gradient((batch,), batch.size) is None:
            raise RuntimeError("the step is not compiled")
        optimiser.step()

    return step


def measure(steps: Mapping[str, Step], repeats: int, device: str = "cpu") -> Times:
    """Milliseconds of every turn."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times: Times = {name: [] for name in steps}
    for turn in range(WARM + repeats):
        for name, step in steps.items():
            wait()
            began = time.perf_counter()
            step()
            wait()
            if turn >= WARM:
                times[name].append(1e3 * (time.perf_counter() - began))
    return times


def ratio(times: Times, one: str, other: str) -> float:
    """Median of the ratios turn by turn."""
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))
