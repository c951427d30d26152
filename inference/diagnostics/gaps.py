r"""How far bounds are below log p(x), and whose fault it is.

For a row, with q the guide's posterior and q* the best of its family,

.. math:: \log p(x) - ELBO(q) = [\log p(x) - ELBO(q^*)] + [ELBO(q^*) - ELBO(q)]:

the family's gap and the networks' (Cremer, Li and Duvenaud 2018, arXiv 1801.03558). q* is a guide
with parameters of each row's own, :mod:`ppl_models.inference.sampling.row_guide`; log p(x)
comes from annealing that starts there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import arviz as az
import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ppl_models.config import at_least
from ppl_models.data.tables.table import Table
from ppl_models.inference.posterior.draws import draw_guide, score
from ppl_models.inference.posterior.groups import Array, entry_name, host
from ppl_models.inference.posterior.importance_weights import log_mean
from ppl_models.inference.posterior.rows import Sites, chosen, positions, undisturbed, weighed
from ppl_models.inference.posterior.target import rows_at_a_time, rows_of, sites_of_rows
from ppl_models.inference.sampling.evidence import log_evidence
from ppl_models.inference.sampling.importance import LEAST
from ppl_models.inference.sampling.mcmc import nuts
from ppl_models.inference.sampling.refine import log_weights
from ppl_models.inference.sampling.row_guide import rowwise
from ppl_models.pair import Pair

MCMC_OPTIONS = ("warmup", "chains", "progress")


def amortisation_gap(
    pair: Pair,
    table: Table,
    rows: Sequence[int] | Tensor | None = None,
    *,
    given: Sequence[str] | None = None,
    draws: int = 200,
    steps: int = 200,
    temperatures: int = 30,
    seed: int = 0,
) -> xr.Dataset:
    """What the guide loses per row, and how much of it its networks do.

    Args:
        pair: The pair; its mode and parameters stay as they were.
        table: Where the rows are from.
        rows: Positions in the table; all by default. Refining takes about 10 ms a step for
            each block of rows.
        given: Sites to condition on; the card's data sites by default.
        draws: Draws per row for every bound, and chains of annealing.
        steps: Steps of the refinement.
        temperatures: Of the annealing.
        seed: Seed; the global random state stays as it was.

    Returns:
        Over ``datum``, nats, each with its Monte Carlo standard error in ``..._error``:

        - ``elbo`` and ``iw_bound`` of the guide, labels drawn with the codes; ``refined_elbo``
          of the guide refined for the row; ``log_evidence``.
        - ``amortisation_gap`` = refined_elbo - elbo, what the networks lose. Below 0 by more
          than its error where the guide's family is richer than independent Normals given the
          labels, or the refinement stopped early.
        - ``family_gap`` = log_evidence - refined_elbo, what no network could mend.
        - ``iw_gap`` = log_evidence - iw_bound.

    Raises:
        ValueError: If an option is out of range, a site stands outside the data plate, or the
            rows do not fit the model.
        UnhandledSite: If a label is of a family for which rows get no table.
    """
    draws, steps, temperatures = at_least(
        draws=(draws, LEAST), steps=(steps, 1), temperatures=(temperatures, 1)
    )
    table, index = chosen(pair, table, rows)
    refined = rowwise(pair, table, index, given=given, steps=steps, seed=seed)
    bounds: dict[str, tuple[Array, Array]] = {}
    for name, which in (("", pair), ("refined_", refined)):
        with undisturbed(pair, seed), torch.no_grad():
            seen = weighed(which, table, given, index)
            weights = log_weights(which, seen, sites_of_rows(which, seen), draws).astype(float)
        error = weights.std(0, ddof=1) / math.sqrt(draws)
        bounds[f"{name}elbo"] = (weights.mean(0), error)
        if not name:
            bounds["iw_bound"] = log_mean(weights)
    exact = log_evidence(
        refined, table, index, given=given, draws=draws, temperatures=temperatures, seed=seed
    )
    bounds["log_evidence"] = (exact["log_evidence"].values, exact["log_evidence_error"].values)
    for name, above, below in (
        ("amortisation_gap", "refined_elbo", "elbo"),
        ("family_gap", "log_evidence", "refined_elbo"),
        ("iw_gap", "log_evidence", "iw_bound"),
    ):
        (high, high_error), (low, low_error) = bounds[above], bounds[below]
        bounds[name] = (high - low, np.hypot(high_error, low_error))
    data = {name: ("datum", value) for name, (value, _) in bounds.items()}
    data |= {f"{name}_error": ("datum", error) for name, (_, error) in bounds.items()}
    return xr.Dataset(data, {"datum": table.rows(index).numbers.cpu().numpy()},
                      {"draws": draws, "steps": steps, "seed": seed})  # fmt: skip


def against_nuts(
    pair: Pair,
    table: Table,
    rows: Sequence[int] | Tensor | None = None,
    *,
    given: Sequence[str] | None = None,
    draws: int = 500,
    seed: int = 0,
    **options: Any,
) -> xr.Dataset:
    """The guide's posterior of rows against that of NUTS.

    Args:
        pair: The pair; its mode and parameters stay as they were.
        table: Where the rows are from.
        rows: Positions in the table; the first 10 by default.
        given: Sites to condition on; the card's data sites by default.
        draws: Draws of the guide per row, and of each chain.
        seed: Seed; the global random state stays as it was.
        options: ``warmup``, ``chains``, ``progress`` (False) of
            :func:`ppl_models.inference.nuts`.

    Returns:
        - Over ``(datum, unit)`` (numbers of codes, ``z[0]``): ``shift``, the difference of the
          means, guide minus NUTS, in NUTS's standard deviations, with ``shift_error``; and
          ``ratio``, the guide's standard deviation over that of NUTS, with ``ratio_error``.
        - Over ``(datum, label)``: ``label_distance``, the total variation between the guide's
          and NUTS's label probabilities.

        Attributes: ``rhat``, the largest of NUTS; above 1.05 it is NUTS that is not settled.

    Raises:
        ValueError: If an option is out of range, a site stands outside the data plate, or the
            rows do not fit the model.
    """
    for name in options:
        if name not in MCMC_OPTIONS:
            raise ValueError(f"got option {name!r}, expected one of {', '.join(MCMC_OPTIONS)}")
    (draws,) = at_least(draws=(draws, LEAST))
    options = {"progress": False, **options}
    table, index = chosen(pair, table, range(min(10, len(table))) if rows is None else rows)
    with undisturbed(pair, seed), torch.no_grad():
        seen = weighed(pair, table, given, index)
        sites = sites_of_rows(pair, seen)
        codes = {n: site.event for n, site in sites.latents.items() if site.support is None}
        if not codes:
            raise ValueError(f"{pair.card.name} has no unbounded code to compare with NUTS")
        ours = _by_guide(pair, seen, sites, draws)
    theirs = nuts(pair, table, index, given=given, draws=draws, seed=seed, **options).posterior
    columns = [_apart(np.concatenate(ours[n], 1), theirs[n].values, len(index)) for n in codes]
    data: dict[str, Any] = {
        name: (("datum", "unit"), np.concatenate([column[name] for column in columns], -1))
        for name in columns[0]
    }
    names = [
        entry_name(name, event, entry)
        for (name, event), column in zip(codes.items(), columns, strict=True)
        for entry in range(column["ratio"].shape[-1])
    ]
    labels = {}
    for label in sites.labels:
        told = theirs[f"{label}_probs"].mean(("chain", "draw")).values
        labels[label] = 0.5 * abs(np.concatenate(ours[f"{label}_probs"]) - told).sum(-1)
    if labels:
        data["label_distance"] = (("datum", "label"), np.stack(list(labels.values()), -1))
    numbers = table.rows(index).numbers.cpu().numpy()
    coords = {"datum": numbers, "unit": names, **({"label": list(labels)} if labels else {})}
    return xr.Dataset(data, coords, {"rhat": float(np.nanmax(data["rhat"][1])), "draws": draws})


def _by_guide(pair: Pair, seen: Table, sites: Sites, draws: int) -> dict[str, list[Array]]:
    """The guide's draws ``(draws, row, ...)`` and label probabilities, block by block."""
    parts: dict[str, list[Array]] = {}
    for block in torch.arange(len(seen)).split(rows_at_a_time(pair, sites, (), draws)):
        batch = rows_of(seen.rows(block), pair)
        q = draw_guide(pair.guide, batch, sites, draws)
        own = [name for name in sites.labels if name not in sites.guided]
        scores = score(pair.model, batch, q.values, own, draws)
        probs = {**q.probs, **{name: scores.probs(name).mean(0) for name in own}}
        for name, value in (*q.values.items(), *((f"{n}_probs", p) for n, p in probs.items())):
            parts.setdefault(name, []).append(host(value))
    return parts


def _apart(guide: Array, chains: Array, rows: int) -> dict[str, Array]:
    """How far draws ``(draw, row, ...)`` are from ``(chain, draw, row, ...)``, each number."""
    mine = guide.reshape(len(guide), rows, -1).astype(float)
    other = chains.reshape(*chains.shape[:2], rows, -1).astype(float)
    whole = other.reshape(-1, rows, other.shape[-1])
    mean_ess, sd_ess, rhat = (_each(other, how) for how in ("mean", "sd", "rhat"))
    sd = whole.std(0, ddof=1)
    ratio = mine.std(0, ddof=1) / sd
    return {
        "shift": (mine.mean(0) - whole.mean(0)) / sd,
        "shift_error": np.sqrt(ratio**2 / len(mine) + 1 / mean_ess),
        "ratio": ratio,
        "ratio_error": ratio * np.sqrt(0.5 / len(mine) + 0.5 / sd_ess),
        "rhat": rhat,
    }


def _each(values: Array, how: str) -> Array:
    """ESS or R-hat of every number of ``(chain, draw, row, number)``, ``(row, number)``."""
    dataset = xr.Dataset({"x": (("chain", "draw", "row", "number"), values)})
    measure = az.rhat(dataset) if how == "rhat" else az.ess(dataset, method=how)
    array: Array = measure["x"].values
    return array


# ---- held-out rows ------------------------------------------------------------------------


def held_out(
    pair: Pair,
    table: Table,
    rows: Sequence[int] | Tensor | None = None,
    *,
    method: str = "iw",
    **options: Any,
) -> xr.Dataset:
    """Log evidence of rows that training did not see, with standard errors.

    Args:
        pair: The pair; its mode and parameters stay as they were.
        table: The rows.
        rows: Positions in the table; all by default.
        method: ``"iw"``, ``"ais"`` or ``"smc"``.
        options: Further options of :func:`ppl_models.inference.log_evidence`.

    Returns:
        That of ``log_evidence`` over ``datum``, and the scalars ``mean`` (nats per row), its
        standard error ``error`` over rows, and the part of it that is Monte Carlo noise of
        the single rows' estimates, ``monte_carlo_error``.

    Raises:
        ValueError: As ``log_evidence``, and for fewer than 2 rows.
    """
    at_least(rows=(len(positions(table, rows)), LEAST))
    evidence = log_evidence(pair, table, rows, method=method, **options)
    values, noise = evidence["log_evidence"].values, evidence["log_evidence_error"].values
    count = len(values)
    return evidence.assign(
        mean=values.mean(),
        error=values.std(ddof=1) / math.sqrt(count),
        monte_carlo_error=math.sqrt(float((noise**2).sum())) / count,
    )


def difference(one: xr.Dataset, other: xr.Dataset) -> tuple[float, float]:
    """Mean difference of two runs' log evidences on the same rows, and its standard error.

    Args:
        one: From :func:`held_out`.
        other: From :func:`held_out`, on the same rows in any order.

    Returns:
        Nats per row, one minus other. Rows are paired, so the error is much smaller than those
        of the two means.

    Raises:
        ValueError: If the rows differ.
    """
    if set(one["datum"].values) != set(other["datum"].values):
        raise ValueError("the two hold different rows, expected the same row numbers in both")
    apart = (one["log_evidence"] - other["log_evidence"]).values
    return float(apart.mean()), float(apart.std(ddof=1) / math.sqrt(len(apart)))
