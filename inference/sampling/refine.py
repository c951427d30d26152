"""Repair of the rows that an amortised guide got wrong, and the export that says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import arviz as az
import numpy as np
import torch
import xarray as xr
from pyro.infer import NUTS
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import at_least, unknown
from ppl_models.data.tables.table import Table
from ppl_models.inference.posterior import importance_weights, pareto
from ppl_models.inference.posterior.draws import draw_data, log_likelihoods, score
from ppl_models.inference.posterior.export import posterior
from ppl_models.inference.posterior.groups import (
    SAMPLE,
    Array,
    Groups,
    Variables,
    as_inference_data,
    event_dims,
    groups_of,
    host,
    provenance,
    with_groups,
)
from ppl_models.inference.posterior.importance_weights import log_mean
from ppl_models.inference.posterior.known_rows import add_known
from ppl_models.inference.posterior.rows import Sites, chosen, undisturbed, weighed
from ppl_models.inference.posterior.target import (
    fixed,
    rows_at_a_time,
    rows_of,
    sites_of_rows,
    target,
)
from ppl_models.inference.sampling.chains import run_chains
from ppl_models.inference.sampling.importance import LEAST, propose
from ppl_models.inference.sampling.row_guide import rowwise
from ppl_models.pair import Pair

OPTIONS = {
    "svi": ("steps", "learning_rate", "particles"),
    "sir": ("proposals",),
    "nuts": ("warmup", "chains", "progress"),
}
UNREFINED = "no"


def bad_rows(
    pair: Pair,
    table: Table,
    rows: Sequence[int] | Tensor | None = None,
    *,
    given: Sequence[str] | None = None,
    draws: int = 200,
    seed: int = 0,
) -> Tensor:
    """Rows whose guide is not to be trusted: k-hat above its threshold.

    The weights are those of draws of codes and labels alike, so that wrong label probabilities
    count. k-hat looks at the shape of the tail and not at its size: rows in which at least
    95 % of the draws count are not bad.

    Args:
        pair: The pair; its mode and parameters stay as they were.
        table: Where the rows are from.
        rows: Positions in the table; all by default.
        given: Sites to condition on; the card's data sites by default.
        draws: Draws per row, at least 25.
        seed: Seed; the global random state stays as it was.

    Returns:
        Their positions in the table, in the order of the rows; there may be none.

    Raises:
        ValueError: If an option is out of range, a site stands outside the data plate, or the
            rows do not fit the model.
    """
    (draws,) = at_least(draws=(draws, pareto.LEAST_DRAWS))
    table, index = chosen(pair, table, rows)
    with undisturbed(pair, seed), torch.no_grad():
        seen = weighed(pair, table, given, index)
        weights = log_weights(pair, seen, sites_of_rows(pair, seen), draws)
    limit = importance_weights.khat_threshold(draws)
    even = importance_weights.importance_ess(weights) >= importance_weights.EVEN * draws
    return index[torch.from_numpy((pareto.khat(weights) > limit) & ~even)]


def refine(
    pair: Pair,
    table: Table,
    rows: Sequence[int] | Tensor | None = None,
    *,
    method: str = "svi",
    given: Sequence[str] | None = None,
    draws: int = 200,
    seed: int = 0,
    **options: Any,
) -> az.InferenceData:
    """Draws of rows that the guide got wrong, from a better approximation of their posterior.

    Args:
        pair: The pair; its mode and parameters stay as they were.
        table: Where the rows are from.
        rows: Positions in the table; by default the :func:`bad_rows` of the table.
        method: ``"svi"``: variational parameters of each row's own, climbing its ELBO from
            where the guide stands (:func:`ppl_models.inference.sampling.row_guide.rowwise`).
            ``"sir"``: draws of the guide, picked by their weights; worth its name only where
            some of them hit the posterior. ``"nuts"``: chains of the model itself that start
            at draws of the guide, labels summed out; exact if they mix, and slow.
        given: Sites to condition on; the card's data sites by default.
        draws: Draws per row (and chain), at least 25.
        seed: Seed; the global random state stays as it was.
        options: ``steps``, ``learning_rate``, ``particles`` of svi; ``proposals`` (2000) of
            sir; ``warmup`` (300), ``chains`` (2), ``progress`` (False) of nuts.

    Returns:
        As :func:`ppl_models.inference.posterior.export.posterior` for these rows: ``posterior``,
        ``sample_stats``, ``log_likelihood``, ``posterior_predictive``, ``observed_data``,
        ``constant_data``, ``diagnostics``. The last has per row ``refined`` (the method) and
        ``khat``, ``ess_is``, ``elbo``, ``iw_bound`` with ``..._before``, of the pair's own
        guide. After svi they are the new guide's; after sir those of the proposals, which tell
        whether picking among them worked; after nuts, whose draws have no weights, k-hat and
        ESS are NaN and the bounds stay those of the guide. Draws of sir and nuts count as
        draws of the posterior itself: ``log_weight`` is log p(x), estimated from the guide.
        :func:`replaced` puts the rows into the export of the whole table.

    Raises:
        ValueError: If a name or option is unknown or out of range, no row is bad, a site stands
            outside the data plate, or the rows do not fit the model.
        UnhandledSite: If svi has no table of probabilities for a label.
    """
    if method not in OPTIONS:
        raise ValueError(unknown("method", method, OPTIONS))
    for name in options:
        if name not in OPTIONS[method]:
            raise ValueError(f"method={method!r}: {unknown('option', name, OPTIONS[method])}")
    (draws,) = at_least(draws=(draws, pareto.LEAST_DRAWS))
    if rows is None:
        rows = bad_rows(pair, table, given=given, draws=draws, seed=seed)
        if not len(rows):
            raise ValueError(
                f"no row of {table.name} has a k-hat above "
                f"{importance_weights.khat_threshold(draws):.2f}: nothing to refine; choose rows="
            )
    table, index = chosen(pair, table, rows)
    with undisturbed(pair, seed), torch.no_grad():
        seen = weighed(pair, table, given, index)
        sites = sites_of_rows(pair, seen)
        before = importance_weights.per_row(log_weights(pair, seen, sites, draws))
    if method == "svi":
        new = rowwise(pair, table, index, given=given, seed=seed, **options)
        idata = posterior(
            new, table, rows=index, given=given, draws=draws, prior_draws=0, seed=seed
        )
        after = {name: idata.diagnostics[name].values for name in before}
    else:
        sample = _sir if method == "sir" else _nuts
        with undisturbed(pair, seed), fixed(pair):
            found = sample(pair, seen, sites, draws, before, **options)
            idata = _export(pair, table.rows(index), seen, sites, method, seed, found)
        after = found.after
    told = {**after, **{f"{name}_before": value for name, value in before.items()}}
    told["refined"] = np.full(len(index), method)
    judged = groups_of(idata)["diagnostics"]
    judged = judged.assign({name: ("datum", value) for name, value in told.items()})
    idata.attrs["refined_method"] = method
    return with_groups(idata, diagnostics=judged)


def replaced(idata: az.InferenceData, refined: az.InferenceData) -> az.InferenceData:
    """The export of a table in which refined rows take the place of the guide's.

    Args:
        idata: From ``export.posterior``, with all the rows that were refined.
        refined: From :func:`refine`. It may hold more draws, of which evenly spaced ones are
            taken (those of several chains one after another), but not fewer.

    Returns:
        A copy. Of the refined rows, draws, densities and k-hat are new; ``diagnostics`` says
        in ``refined`` how each row was refined (``"no"`` for the others), and the attributes
        ``refined_rows`` and ``refined_method`` how many and how. ``variational`` keeps the
        parameters of the pair's own guide.

    Raises:
        ValueError: If a refined row is not in the export, or draws are missing.
    """
    numbers = idata.diagnostics["datum"].values
    new = refined.diagnostics["datum"].values
    missing = ~np.isin(new, numbers)
    if missing.any():
        raise ValueError(f"row number {new[missing][0]} was refined, but is not in the export")
    order = np.argsort(numbers)
    place = order[np.searchsorted(numbers, new, sorter=order)]
    groups: dict[str, xr.Dataset] = {}
    better = groups_of(refined)
    for name, old in groups_of(idata).items():
        dataset = old.load().copy(deep=True)
        if name in better and name not in ("observed_data", "constant_data"):
            for variable in dataset.data_vars:
                if "datum" in dataset[variable].dims and variable in better[name]:
                    _put(dataset[variable], better[name][variable], place)
        groups[name] = dataset
    how = groups["diagnostics"].get("refined")
    told = np.full(len(numbers), UNREFINED, dtype=object) if how is None else how.values.copy()
    told = told.astype(object)
    told[place] = refined.diagnostics["refined"].values
    groups["diagnostics"]["refined"] = ("datum", told.astype(str))
    methods = sorted(set(told.tolist()) - {UNREFINED})
    attrs = {
        **idata.attrs,
        "refined_method": ", ".join(methods),
        "refined_rows": int((told != UNREFINED).sum()),
    }
    if "posterior" in groups:
        groups["posterior"].attrs = {**groups["posterior"].attrs, **attrs}
    return as_inference_data(groups, attrs)


def log_weights(pair: Pair, seen: Table, sites: Sites, draws: int) -> Array:
    """Log weights ``(draws, datum)`` of draws of the guide, its labels drawn like the codes."""
    summed = any(name not in sites.guided for name in sites.labels)
    parts = [host(part.log_weight) for part in propose(pair, seen, sites, draws, summed)]
    return np.concatenate(parts, 1)


def _put(old: xr.DataArray, new: xr.DataArray, place: Array) -> None:
    """Write new rows into an array in which they have places."""
    if "draw" not in old.dims:
        old[{"datum": place}] = new.transpose(*old.dims).values
        return
    chains, draws = old.sizes["chain"], old.sizes["draw"]
    flat = new.stack(sample=("chain", "draw"))
    if flat.sizes["sample"] < chains * draws:
        raise ValueError(
            f"the export holds {chains * draws} draws of {old.name!r}, but {flat.sizes['sample']} "
            f"were refined; refine with draws={chains * draws} or more"
        )
    pick = np.linspace(0, flat.sizes["sample"] - 1, chains * draws).round().astype(int)
    rest = [dim for dim in old.dims if dim not in SAMPLE]
    values = flat.isel(sample=pick).transpose("sample", *rest).values
    whole = old.transpose(*SAMPLE, *rest)
    whole.values[:, :, place] = values.reshape(chains, draws, *values.shape[1:])


# ---- draws that have no guide -------------------------------------------------------------


@dataclass(frozen=True)
class _Drawn:
    """Draws of the posterior.

    Attributes:
        values: ``(S, B, *event)`` by site, labels as places.
        chains: S is a multiple of it.
        evidence: Log p(x), estimated ``(B,)``.
        after: Diagnostics of each row.
        stats: More statistics, over ``(chain, draw)``.
    """

    values: dict[str, Tensor]
    chains: int
    evidence: Array
    after: dict[str, Array]
    stats: Variables


@torch.no_grad()
def _sir(
    pair: Pair, seen: Table, sites: Sites, draws: int, before: dict[str, Array],
    proposals: int = 2000,
) -> _Drawn:  # fmt: skip
    (proposals,) = at_least(proposals=(proposals, max(LEAST, pareto.LEAST_DRAWS)))
    parts: list[dict[str, Tensor]] = []
    weights: list[Array] = []
    for part in propose(pair, seen, sites, proposals):
        parts.append(part.picked(draws))
        weights.append(host(part.log_weight))
    values = {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}
    whole = np.concatenate(weights, 1)
    after = importance_weights.per_row(whole)
    return _Drawn(values, 1, log_mean(whole)[0], after, {})


def _nuts(
    pair: Pair, seen: Table, sites: Sites, draws: int, before: dict[str, Array],
    warmup: int = 300, chains: int = 2, progress: bool = False,
) -> _Drawn:  # fmt: skip
    warmup, chains = at_least(warmup=(warmup, 1), chains=(chains, 1))
    found = target(pair, rows_of(seen, pair), guide=True, rows_alone=True)
    seeds = torch.randint(2**62, (chains,)).tolist()
    runs = run_chains(found, NUTS, draws, warmup, seeds, "guide", progress)
    values = {name: torch.cat([run[0][name] for run in runs]) for name in found.transforms}
    with torch.no_grad():
        groups, _ = found.posterior(values, chains)
    for label in sites.labels:
        values[label] = torch.from_numpy(groups["posterior"][label][1]).reshape(-1, len(seen))
    stats: Variables = {
        name: (SAMPLE, np.stack([run[1][name] for run in runs])) for name in runs[0][1]
    }
    nothing = np.full(len(seen), np.nan)
    after = {**before, "khat": nothing, "ess_is": nothing}
    return _Drawn(values, chains, before["iw_bound"], after, stats)


@torch.no_grad()
def _export(
    pair: Pair, table: Table, seen: Table, sites: Sites, method: str, seed: int, found: _Drawn
) -> az.InferenceData:
    draws = len(next(iter(found.values.values())))
    blocks: list[dict[str, Variables]] = []
    step = rows_at_a_time(pair, sites, sites.labels, draws)
    for block in torch.arange(len(seen)).split(step):
        batch = rows_of(seen.rows(block), pair)
        values = {name: value[:, block] for name, value in found.values.items()}
        evidence = torch.from_numpy(found.evidence[block.numpy()])
        blocks.append(_block(pair, batch, sites, values, evidence, found.chains))
    groups = Groups(table, sites)
    for name in blocks[0]:
        parts = [block[name] for block in blocks]
        groups.add(name, {v: (dims, np.concatenate([part[v][1] for part in parts], 2))
                          for v, (dims, _) in parts[0].items()})  # fmt: skip
    if found.stats:
        groups.add("sample_stats", found.stats)
    groups.add("diagnostics", {name: (("datum",), value) for name, value in found.after.items()})
    add_known(groups, pair, seen, table, sites)
    return groups.finish(provenance(pair, seen, sites, method, seed, {"objective": "none"}))


def _block(
    pair: Pair, batch: Batch, sites: Sites, values: dict[str, Tensor], evidence: Tensor,
    chains: int,
) -> dict[str, Variables]:  # fmt: skip
    labels = {name: values[name] for name in sites.labels}
    codes = {name: value for name, value in values.items() if name not in labels}
    draws = len(next(iter(values.values())))
    scores = score(pair.model, batch, codes, sites.labels, draws)
    guided = {name: place for name, place in labels.items() if name in sites.guided}
    log_p = scores.at(guided).marginal()
    log_weight = evidence.to(log_p).expand(log_p.shape)
    full = {**codes, **{name: sites.latents[name].values()[p] for name, p in labels.items()}}
    new = draw_data(pair.model, batch.without(*pair.card.data), full, draws)

    def split(value: Tensor, event: tuple[str, ...] = ()) -> tuple[tuple[str, ...], Array]:
        return (*SAMPLE, "datum", *event), host(value.reshape(chains, -1, *value.shape[1:]))

    stats = {"log_p": log_p, "log_q": log_p - log_weight, "log_weight": log_weight}
    return {
        "posterior": {n: split(v, event_dims(sites.latents[n])) for n, v in values.items()},
        "sample_stats": {name: split(value) for name, value in stats.items()},
        **{
            group: {name: split(value) for name, value in found.items()}
            for group, found in log_likelihoods(scores).items()
        },
        "posterior_predictive": {
            n: split(sites.data[n].stored(new[n]), event_dims(sites.data[n]))
            for n in sites.data
            if n in new
        },
    }
