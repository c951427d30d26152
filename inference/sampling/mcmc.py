"""NUTS and HMC on the same pair: every continuous latent site, labels summed out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import arviz as az
import numpy as np
import torch
from pyro.infer import HMC, MCMC, NUTS
from torch import Tensor

from ppl_models.config import at_least
from ppl_models.data.tables.table import Table
from ppl_models.inference.posterior.groups import (
    SAMPLE,
    Array,
    Groups,
    provenance,
)
from ppl_models.inference.posterior.known_rows import add_known
from ppl_models.inference.posterior.rows import chosen, positions, undisturbed, weighed
from ppl_models.inference.posterior.target import (
    Target,
    check_continuous,
    fixed,
    rows_of,
    target,
)
from ppl_models.pair import Pair

ROWS = 10  # sampled by default where rows are independent

Kernel = Callable[..., HMC]


def nuts(
    pair: Pair,
    table: Table,
    rows: Sequence[int] | Tensor | None = None,
    *,
    given: Sequence[str] | None = None,
    draws: int = 500,
    warmup: int = 500,
    chains: int = 2,
    seed: int = 0,
    progress: bool = True,
) -> az.InferenceData:
    """Sample the continuous latent sites from the model's own posterior, by NUTS.

    Sites of the rows (codes) and sites outside the data plate (weights or other parameters
    with a prior) are sampled together. Labels are summed out while sampling and then drawn
    from p(y | x, z) at each draw. The guide plays no part, so the result is what a guide is to
    be compared with. The rows are sampled together, with one step size; chains run one after
    another. The networks' parameters are held fixed.

    Args:
        pair: The pair; its parameters are left as they were.
        table: Where the rows are from.
        rows: Positions in the table. By default the first 10, or the whole table where there
            are sites outside the plate: their posterior is the one given these rows alone.
        given: Sites to condition on; the card's data sites by default.
        draws: Draws per chain.
        warmup: Steps before, in which step size and mass matrix adapt.
        chains: Number of chains.
        seed: Seed; the global random state stays as it was.
        progress: Show a progress bar for each chain.

    Returns:
        ``posterior``: codes over ``(chain, draw, datum, ...)``, sites outside the plate over
        ``(chain, draw, ...)``, labels as integers, and the labels' probabilities at each draw
        (``y_probs``, whose mean over the draws is p(y | x)); ``sample_stats``: ``lp`` (log
        density, labels summed out, of everything together), ``diverging``,
        ``acceptance_rate``, ``step_size``; ``log_likelihood`` with labels summed out;
        ``observed_data``; ``constant_data``.

    Raises:
        ValueError: If an option is out of range, the pair has no continuous latent site, a site
            counts more than once per row or is discrete outside the plate, or the rows do not
            fit the model.
    """
    return _sample(pair, table, rows, "nuts", NUTS, given, (draws, warmup, chains), seed, progress)


def hmc(
    pair: Pair,
    table: Table,
    rows: Sequence[int] | Tensor | None = None,
    *,
    trajectory: float = 2.0,
    given: Sequence[str] | None = None,
    draws: int = 500,
    warmup: int = 500,
    chains: int = 2,
    seed: int = 0,
    progress: bool = True,
) -> az.InferenceData:
    """The same by Hamiltonian Monte Carlo with trajectories of one length.

    Args:
        pair: As for :func:`nuts`.
        table: As for :func:`nuts`.
        rows: As for :func:`nuts`.
        trajectory: Length of a trajectory in posterior standard deviations; as many whole steps
            as fit are taken. A quarter of a Normal's period (1.6) leads to independent draws, a
            whole one (6.3) back to where it started.
        given: As for :func:`nuts`.
        draws: As for :func:`nuts`.
        warmup: As for :func:`nuts`.
        chains: As for :func:`nuts`.
        seed: As for :func:`nuts`.
        progress: As for :func:`nuts`.

    Returns:
        As :func:`nuts`.

    Raises:
        ValueError: As :func:`nuts`.
    """
    if not 0 < trajectory < math.inf:
        raise ValueError(f"trajectory is {trajectory}, expected a positive length")

    def kernel(**options: Any) -> HMC:
        return HMC(trajectory_length=trajectory, **options)

    return _sample(
        pair, table, rows, "hmc", kernel, given, (draws, warmup, chains), seed, progress
    )


def _sample(
    pair: Pair,
    table: Table,
    rows: Sequence[int] | Tensor | None,
    method: str,
    kernel: Kernel,
    given: Sequence[str] | None,
    lengths: tuple[int, int, int],
    seed: int,
    progress: bool,
) -> az.InferenceData:
    draws, warmup, chains = lengths
    draws, warmup, chains = at_least(draws=(draws, 1), warmup=(warmup, 1), chains=(chains, 1))
    table, index = chosen(pair, table, range(min(ROWS, len(table))) if rows is None else rows)
    with undisturbed(pair, seed), fixed(pair):
        seen = weighed(pair, table, given, index)
        found = target(pair, rows_of(seen, pair), plates_within=True)
        if rows is None and found.outside and len(table) > len(index):
            index = positions(table, None)
            seen = weighed(pair, table, given, index)
            found = target(pair, rows_of(seen, pair), plates_within=True)
        check_continuous(found, f"for {method.upper()} to sample")
        seeds = torch.randint(2**62, (chains,)).tolist()
        runs = [chain(found, kernel, draws, warmup, s, progress) for s in seeds]
        values = {name: torch.cat([run[0][name] for run in runs]) for name in runs[0][0]}
        with torch.no_grad():
            posterior, likelihood, _ = found.posterior(values, chains)
    groups = Groups(table.rows(index), found.sites)
    groups.add("posterior", posterior)
    stats = {name: np.stack([run[1][name] for run in runs]) for name in runs[0][1]}
    groups.add("sample_stats", {name: (SAMPLE, value) for name, value in stats.items()})
    groups.add("log_likelihood", likelihood)
    add_known(groups, pair, seen, table.rows(index), found.sites)
    more = {
        "objective": "none",
        "warmup": warmup,
        "tuning_steps": warmup,
        "sampled_variables": [*found.outside, *found.sites.latents],
    }
    return groups.finish(provenance(pair, seen, found.sites, method, seed, more))


def chain(
    found: Target, kernel: Kernel, draws: int, warmup: int, seed: int, progress: bool
) -> tuple[dict[str, Tensor], dict[str, Array]]:
    """One chain: draws ``(S, ...)`` by site, and statistics ``(S,)`` of each draw."""
    torch.manual_seed(seed)
    start = found.start()
    sampler = kernel(potential_fn=lambda free: -found.joint(free), transforms={})
    stats: dict[str, list[Any]] = {
        name: [] for name in ("lp", "acceptance_rate", "step_size", "diverging")
    }

    def note(kernel: Any, params: Any, stage: str, step: int) -> None:
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

    run = MCMC(
        sampler,
        draws,
        warmup,
        initial_params=start,
        disable_progbar=not progress,
        hook_fn=note,
        transforms={},
    )
    run.run()
    free = {name: value.detach() for name, value in run.get_samples().items()}
    return found.constrained(free), {name: np.asarray(value) for name, value in stats.items()}
