"""NUTS and HMC on the same pair: every continuous latent site, labels summed out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import arviz as az
import numpy as np
import torch
from pyro.infer import HMC, NUTS
from torch import Tensor

from ppl_models.config import at_least, whole
from ppl_models.data.tables.table import Table
from ppl_models.inference.posterior.groups import (
    SAMPLE,
    Groups,
    provenance,
)
from ppl_models.inference.posterior.known_rows import add_known
from ppl_models.inference.posterior.rows import chosen, positions, undisturbed, weighed
from ppl_models.inference.posterior.target import (
    check_continuous,
    fixed,
    rows_of,
    target,
)
from ppl_models.inference.sampling.chains import Kernel, run_chains
from ppl_models.inference.sampling.starts import Init, beginning, check_init
from ppl_models.pair import Pair

ROWS = 10  # sampled by default where rows are independent


def nuts(
    pair: Pair,
    table: Table,
    rows: Sequence[int] | Tensor | None = None,
    *,
    given: Sequence[str] | None = None,
    draws: int = 500,
    warmup: int = 500,
    chains: int = 2,
    target_accept: float = 0.8,
    max_tree_depth: int = 10,
    init: Init = "uniform",
    seed: int = 0,
    progress: bool = True,
    processes: int | None = None,
) -> az.InferenceData:
    """Sample the continuous latent sites from the model's own posterior, by NUTS.

    Sites of the rows (codes) and sites outside the data plate (weights or other parameters
    with a prior) are sampled together. Labels are summed out while sampling and then drawn
    from p(y | x, z) at each draw. The guide plays no part (but for ``init="guide"``, where it says
    where chains begin), so the result is what a guide is to be compared with. The rows are sampled
    together, with one step size. The networks' parameters are held fixed.

    Args:
        pair: The pair; its parameters are left as they were.
        table: Where the rows are from.
        rows: Positions in the table. By default the first 10, or the whole table where there
            are sites outside the plate: their posterior is the one given these rows alone.
        given: Sites to condition on; the card's data sites by default.
        draws: Draws per chain.
        warmup: Steps before, in which step size and mass matrix adapt.
        chains: Number of chains.
        target_accept: Mean acceptance rate that the step size is adapted to. Closer to 1 it takes
            smaller steps, and diverges less.
        max_tree_depth: Most doublings of a trajectory, of which d take at most 2^d - 1 steps.
        init: Where a chain begins. ``"uniform"``: between -2 and 2 on the real line, whatever the
            site's support. ``"guide"``, ``"prior"``: a draw of it, another one for each chain.
            Or values by site, in the site's own support and in the shape of one draw of
            ``posterior`` (rows first; one number for all will do), the same for all chains; sites
            without begin uniformly.
        seed: Seed; the global random state stays as it was.
        progress: Show a progress bar for each chain, or one of all where they run side by side.
        processes: Chains that run at a time, each in a process of its own; by default as many as
            torch has threads, which are divided among the chains. The draws are the same, bit for
            bit. On a GPU, or where a pair cannot be sent to another process (the logger
            ``ppl_models`` says so), chains run one after another.

    Returns:
        ``posterior``: codes over ``(chain, draw, datum, ...)``, sites outside the plate over
        ``(chain, draw, ...)``, labels as integers, and the labels' probabilities at each draw
        (``y_probs``, whose mean over the draws is p(y | x)); ``sample_stats``: ``lp`` (log
        density, labels summed out, of everything together), ``diverging``,
        ``acceptance_rate``, ``step_size``, ``n_steps`` (leapfrog steps), and of NUTS
        ``tree_depth``; ``log_likelihood`` with labels summed out, as in an export;
        ``observed_data``; ``constant_data``.

    Raises:
        ValueError: If an option is out of range, ``init`` does not fit the sites, the pair has no
            continuous latent site, a site counts more than once per row or is discrete outside the
            plate, or the rows do not fit the model.
    """
    (max_tree_depth,) = at_least(max_tree_depth=(max_tree_depth, 1))
    kernel = partial(NUTS, target_accept_prob=_rate(target_accept), max_tree_depth=max_tree_depth)
    told = {"target_accept": target_accept, "max_tree_depth": max_tree_depth}
    lengths = (draws, warmup, chains)
    return _sample(
        pair, table, rows, "nuts", kernel, given, lengths, init, seed, progress, processes, told
    )


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
    target_accept: float = 0.8,
    init: Init = "uniform",
    seed: int = 0,
    progress: bool = True,
    processes: int | None = None,
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
        target_accept: As for :func:`nuts`.
        init: As for :func:`nuts`.
        seed: As for :func:`nuts`.
        progress: As for :func:`nuts`.
        processes: As for :func:`nuts`.

    Returns:
        As :func:`nuts`.

    Raises:
        ValueError: As :func:`nuts`.
    """
    if not 0 < trajectory < math.inf:
        raise ValueError(f"trajectory is {trajectory}, expected a positive length")

    kernel = partial(HMC, trajectory_length=trajectory, target_accept_prob=_rate(target_accept))
    told = {"target_accept": target_accept, "trajectory": trajectory}
    lengths = (draws, warmup, chains)
    return _sample(
        pair, table, rows, "hmc", kernel, given, lengths, init, seed, progress, processes, told
    )


def _rate(target_accept: Any) -> float:
    if not isinstance(target_accept, int | float) or not 0 < target_accept < 1:
        raise ValueError(f"target_accept is {target_accept!r}, expected a number between 0 and 1")
    return float(target_accept)


def _sample(
    pair: Pair,
    table: Table,
    rows: Sequence[int] | Tensor | None,
    method: str,
    kernel: Kernel,
    given: Sequence[str] | None,
    lengths: tuple[int, int, int],
    init: Init,
    seed: int,
    progress: bool,
    processes: int | None,
    told: Mapping[str, Any],
) -> az.InferenceData:
    draws, warmup, count = lengths
    draws, warmup, count = at_least(draws=(draws, 1), warmup=(warmup, 1), chains=(count, 1))
    processes = None if processes is None else whole("processes", processes, 1)
    check_init(init)
    table, index = chosen(pair, table, range(min(ROWS, len(table))) if rows is None else rows)
    with undisturbed(pair, seed), fixed(pair):
        seen = weighed(pair, table, given, index)
        found = target(pair, rows_of(seen, pair), plates_within=True)
        if rows is None and found.outside and len(table) > len(index):
            index = positions(table, None)
            seen = weighed(pair, table, given, index)
            found = target(pair, rows_of(seen, pair), plates_within=True)
        check_continuous(found, f"for {method.upper()} to sample")
        seeds = torch.randint(2**62, (count,)).tolist()
        begin = beginning(found, init)
        runs = run_chains(found, kernel, draws, warmup, seeds, begin, progress, processes)
        values = {name: torch.cat([run[0][name] for run in runs]) for name in runs[0][0]}
        with torch.no_grad():
            variables, _ = found.posterior(values, count)
    groups = Groups(table.rows(index), found.sites)
    for name, part in variables.items():
        groups.add(name, part)
    stats = {name: np.stack([run[1][name] for run in runs]) for name in runs[0][1]}
    groups.add("sample_stats", {name: (SAMPLE, value) for name, value in stats.items()})
    add_known(groups, pair, seen, table.rows(index), found.sites)
    more = {
        "objective": "none",
        "warmup": warmup,
        "tuning_steps": warmup,
        "init": init if isinstance(init, str) else f"values of {', '.join(init)}",
        **told,
        "sampled_variables": [*found.outside, *found.sites.latents],
    }
    return groups.finish(provenance(pair, seen, found.sites, method, seed, more))
