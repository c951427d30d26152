"""Chains of one target, one after another or each in a process of its own: the same numbers."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from pyro.infer import HMC, MCMC, NUTS
from torch import Tensor
from tqdm.auto import tqdm

from ppl_models.inference.posterior.groups import Array, host
from ppl_models.inference.posterior.target import Target
from ppl_models.inference.sampling.starts import Begin, start
from ppl_models.quiet import quiet

Kernel = Callable[..., HMC]
Chain = tuple[dict[str, Tensor], dict[str, Array]]

log = logging.getLogger(__name__)


def run_chains(
    found: Target,
    kernel: Kernel,
    draws: int,
    warmup: int,
    seeds: Sequence[int],
    begin: Begin = "uniform",
    progress: bool = False,
    processes: int | None = 1,
) -> list[Chain]:
    """Run chains, of which each has its share of torch's threads.

    Args:
        found: What they sample.
        kernel: Makes Pyro's kernel from ``potential_fn`` and ``transforms``.
        draws: Draws of each.
        warmup: Steps of each before.
        seeds: The seed of each.
        begin: Where they begin.
        progress: Show a bar for each chain, or one of the chains where they run side by side.
        processes: How many run at a time; by default as many as torch has threads. Those on
            another device than the CPU, and of a pair that no other process can be sent, run one
            after another.
    """
    threads = torch.get_num_threads()
    at_a_time = min(len(seeds), threads if processes is None else processes)
    share = max(1, threads // len(seeds))
    options = (kernel, draws, warmup)
    if at_a_time > 1 and found.pair.like().device.type == "cpu":
        try:
            return _side_by_side(found, options, seeds, begin, progress, at_a_time, share)
        except _CannotBeSent as error:
            log.warning(
                "%s cannot be sent to another process (%s); its chains run one after another",
                found.pair.card.name,
                error,
            )
    with _alone(found, share):
        return [chain(found, *options, seed, begin, progress) for seed in seeds]


def chain(
    found: Target,
    kernel: Kernel,
    draws: int,
    warmup: int,
    seed: int,
    begin: Begin = "uniform",
    progress: bool = False,
) -> Chain:
    """One chain: draws ``(S, ...)`` by site, and statistics ``(S,)`` of each draw."""
    torch.manual_seed(seed)
    first = start(found, begin)
    steps = 0

    def potential(free: dict[str, Tensor]) -> Tensor:
        nonlocal steps
        steps += 1
        return -found.joint(free)

    sampler = kernel(potential_fn=potential, transforms={})
    names = ["lp", "acceptance_rate", "step_size", "diverging", "n_steps"]
    names += ["tree_depth"] if isinstance(sampler, NUTS) else []
    stats: dict[str, list[Any]] = {name: [] for name in names}

    def note(kernel: Any, params: Any, stage: str, step: int) -> None:
        nonlocal steps
        taken, steps = steps, 0
        if not stage.startswith("Sample"):
            return
        # Pyro keeps the running mean of the acceptance rate: undo the averaging.
        done = len(stats["lp"])
        stats["acceptance_rate"].append(
            (done + 1) * kernel._mean_accept_prob - sum(stats["acceptance_rate"])
        )
        stats["lp"].append(-float(kernel._potential_energy_last))
        stats["step_size"].append(float(kernel.step_size))
        stats["diverging"].append(done in kernel._divergences)
        stats["n_steps"].append(taken)
        if "tree_depth" in stats:  # d doublings take 2^(d-1) to 2^d - 1 steps
            stats["tree_depth"].append(taken.bit_length())

    run = MCMC(
        sampler,
        draws,
        warmup,
        initial_params=first,
        disable_progbar=not progress,
        hook_fn=note,
        transforms={},
    )
    run.run()
    free = {name: value.detach() for name, value in run.get_samples().items()}
    return found.constrained(free), {name: np.asarray(value) for name, value in stats.items()}


class _CannotBeSent(Exception):
    """A pair that another process cannot read."""


def _side_by_side(
    found: Target,
    options: tuple[Kernel, int, int],
    seeds: Sequence[int],
    begin: Begin,
    progress: bool,
    processes: int,
    threads: int,
) -> list[Chain]:
    # Unlike those of multiprocessing, these processes do not run the user's script once more.
    import cloudpickle
    from joblib import Parallel, delayed

    try:
        sent = cloudpickle.dumps((found, options, begin, torch.get_default_dtype()))
    except Exception as error:  # what cannot be pickled raises whatever it likes
        raise _CannotBeSent(_first_line(error)) from None
    work = Parallel(processes, backend="loky", return_as="generator", max_nbytes=None)
    ends = work(delayed(_in_process)(sent, seed, threads) for seed in seeds)
    shown = tqdm(ends, "chains", len(seeds), disable=not progress)
    runs = []
    for end in shown:
        if isinstance(end, str):
            raise _CannotBeSent(end)
        runs.append(end)
    like = found.pair.like()
    return [({n: torch.from_numpy(v).to(like) for n, v in run[0].items()}, run[1]) for run in runs]


def _in_process(
    sent: bytes, seed: int, threads: int
) -> str | tuple[dict[str, Array], dict[str, Array]]:
    """A chain as arrays, or why what was sent cannot be read."""
    try:
        found, (kernel, draws, warmup), begin, dtype = pickle.loads(sent)
    except Exception as error:
        return _first_line(error)
    torch.set_default_dtype(dtype)
    with _alone(found, threads):
        values, stats = chain(found, kernel, draws, warmup, seed, begin)
    return {name: host(value) for name, value in values.items()}, stats


@contextmanager
def _alone(found: Target, threads: int) -> Iterator[None]:
    """Run with so many threads, and leave the random state as though chains ran elsewhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with quiet(found.pair.like().device):
            yield
    finally:
        torch.set_num_threads(before)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
