"""NUTS on the same pair: codes of a few rows, labels summed out, networks fixed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import arviz as az
import numpy as np
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from pyro.infer.mcmc.util import initialize_model
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.data import Table
from ppl_models.inference.export_draws import score
from ppl_models.inference.export_groups import (
    SAMPLE,
    Array,
    Groups,
    Variables,
    constants,
    event_dims,
    host,
    observations,
    provenance,
)
from ppl_models.inference.export_sites import (
    Sites,
    conditioned,
    find_sites,
    positions,
    undisturbed,
)
from ppl_models.pair import Pair

ROWS = 10  # sampled by default


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
    """Sample the continuous latent sites of some rows from the model's own posterior.

    Labels are summed out while sampling and then drawn from p(y | x, z) at each draw. The
    guide plays no part, so the result is what a guide is to be compared with. The rows are
    sampled together, with one step size; chains run one after another.

    Args:
        pair: The pair; its parameters are held fixed and left as they were.
        table: Where the rows are from.
        rows: Positions in the table; the first 10 by default.
        given: Sites to condition on; the card's data sites by default.
        draws: Draws per chain.
        warmup: Steps before, in which step size and mass matrix adapt.
        chains: Number of chains.
        seed: Seed; the global random state stays as it was.
        progress: Show a progress bar.

    Returns:
        ``posterior``: codes, labels as integers, and the labels' probabilities at each draw
        (``y_probs``, whose mean over the draws is p(y | x)); ``sample_stats``: ``lp`` (log
        density, labels summed out, of all rows together), ``diverging``, ``acceptance_rate``,
        ``step_size``; ``log_likelihood`` with labels summed out; ``observed_data``;
        ``constant_data``.

    Raises:
        ValueError: If an option is out of range, the pair has no continuous latent site, a site
            counts more than once per row, or the rows do not fit the model.
    """
    for name, value in (("draws", draws), ("warmup", warmup), ("chains", chains)):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    index = positions(table, range(min(ROWS, len(table))) if rows is None else rows)
    with undisturbed(pair, seed), _fixed(pair):
        seen = conditioned(pair, table, given, index)
        like = pair.like()
        (part,) = seen.batches()
        # NUTS takes every row of the batch once: the plate is as large as the batch.
        batch = Batch(part, part.rows).to(like.device, like.dtype)
        sites = find_sites(pair, batch, guide=False)
        _check_continuous(pair, sites)
        seeds = torch.randint(2**62, (chains,)).tolist()
        runs = [_chain(pair, batch, sites, draws, warmup, s, progress) for s in seeds]
        values = {name: torch.cat([run[0][name] for run in runs]) for name in runs[0][0]}
        with torch.no_grad():
            scored = _scores(pair, batch, sites, values)
    groups = Groups(table.rows(index), sites)
    dims = (*SAMPLE, "datum")

    def split(value: Tensor) -> Array:
        return host(value.reshape(chains, draws, *value.shape[1:]))

    posterior: Variables = {
        name: ((*dims, *event_dims(sites.latents[name])), split(value))
        for name, value in values.items()
    }
    for label in sites.labels:
        posterior[label] = (dims, split(scored[label]))
        posterior[f"{label}_probs"] = ((*dims, f"{label}_class"), split(scored[f"{label}_probs"]))
    groups.add("posterior", posterior)
    stats = {name: np.stack([run[1][name] for run in runs]) for name in runs[0][1]}
    groups.add("sample_stats", {name: (SAMPLE, value) for name, value in stats.items()})
    groups.add("log_likelihood", {n: (dims, split(scored[f"log {n}"])) for n in sites.data})
    groups.add("observed_data", observations(seen))
    groups.add("constant_data", constants(table.rows(index), list(seen.sites)))
    more = {"objective": "none", "warmup": warmup, "tuning_steps": warmup}
    return groups.finish(provenance(pair, seen, sites, "nuts", seed, more))


def _check_continuous(pair: Pair, sites: Sites) -> None:
    codes = set(sites.latents) - set(sites.labels)
    if not codes:
        raise ValueError(f"{pair.card.name} has no continuous latent site for NUTS to sample")


@contextmanager
def _fixed(pair: Pair) -> Iterator[None]:
    wanted = {parameter: parameter.requires_grad for parameter in pair.parameters()}
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, requires_grad in wanted.items():
            parameter.requires_grad_(requires_grad)


def potential_energy(
    pair: Pair, batch: Batch, sites: Sites
) -> tuple[Callable[[dict[str, Tensor]], Tensor], dict[str, Tensor], dict[str, Any]]:
    """Minus the log density of the codes, labels summed out, on the real line.

    Pyro's own potential for the model has the same values; its general contraction of plates
    and labels costs two to ten times as much as this sum per row.

    Args:
        pair: The pair.
        batch: The rows.
        sites: Its sites, from ``find_sites(pair, batch, guide=False)``.

    Returns:
        The function of unconstrained codes by site name, a random start, and the transforms
        that lead from the codes to the real line.
    """

    def mark(site: Any) -> dict[str, Any]:
        return {"enumerate": "parallel"} if site["name"] in sites.labels else {}

    start, _, transforms, _ = initialize_model(
        poutine.infer_config(pair.model, mark), (batch,), max_plate_nesting=1
    )

    def potential(codes: dict[str, Tensor]) -> Tensor:
        values = {name: transforms[name].inv(code) for name, code in codes.items()}
        one = {name: value.unsqueeze(0) for name, value in values.items()}
        energy = -score(pair.model, batch, one, sites.labels, 1).marginal().sum()
        for name, code in codes.items():
            energy = energy + transforms[name].log_abs_det_jacobian(values[name], code).sum()
        return energy

    return potential, start, transforms


def _chain(
    pair: Pair,
    batch: Batch,
    sites: Sites,
    draws: int,
    warmup: int,
    seed: int,
    progress: bool,
) -> tuple[dict[str, Tensor], dict[str, Array]]:
    """One chain: draws ``(S, B, *event)`` by site, and statistics ``(S,)`` of each draw."""
    torch.manual_seed(seed)
    potential, start, transforms = potential_energy(pair, batch, sites)
    kernel = NUTS(potential_fn=potential, transforms=transforms)
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
        kernel,
        draws,
        warmup,
        initial_params=start,
        disable_progbar=not progress,
        hook_fn=note,
        transforms=transforms,
    )
    run.run()
    found = {name: value.detach() for name, value in run.get_samples().items()}
    return found, {name: np.asarray(value) for name, value in stats.items()}


def _scores(
    pair: Pair, batch: Batch, sites: Sites, values: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Labels, their probabilities and the log-likelihoods at draws ``(S, B, *event)``."""
    total = len(next(iter(values.values())))
    step = sites.draws_at_a_time(pair, batch.count, sites.labels)
    found: dict[str, list[Tensor]] = {}
    for start in range(0, total, step):
        part = {name: value[start : start + step] for name, value in values.items()}
        count = min(step, total - start)
        scores = score(pair.model, batch, part, sites.labels, count)
        for label, places in scores.draw().items():
            found.setdefault(label, []).append(places)
            found.setdefault(f"{label}_probs", []).append(scores.probs(label))
        for name, value in scores.log_likelihood().items():
            found.setdefault(f"log {name}", []).append(value)
    return {name: torch.cat(parts) for name, parts in found.items()}
