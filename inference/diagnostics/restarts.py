r"""Whether fits from several starts agree, on quantities that all of them define alike.

A code may come back mirrored, rotated or permuted, and a label that nobody ever observed with its
classes in another order: R-hat of raw codes says nothing. What a row's posterior says of its data
is identified, and so are labels once their classes are matched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import xarray as xr
from pyro import poutine
from scipy.optimize import linear_sum_assignment
from scipy.special import ndtri
from scipy.stats import rankdata
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import at_least, unknown
from ppl_models.data.tables.table import Table
from ppl_models.inference.posterior.draws import Many, draw_guide, score
from ppl_models.inference.posterior.groups import Array, entry_name, host
from ppl_models.inference.posterior.rows import Sites, chosen, conditioned, undisturbed
from ppl_models.inference.posterior.support import as_fitted, check_alike
from ppl_models.inference.posterior.target import rows_at_a_time, rows_of, sites_of_rows
from ppl_models.inference.traces.sites import random_sites
from ppl_models.pair import Pair

ENTRIES = 20  # most numbers of a data site that are looked at


class Fitted(Protocol):
    """What is asked of a run."""

    pair: Pair


def agreement(
    fits: Sequence[Fitted | Pair],
    table: Table,
    rows: Sequence[int] | Tensor | None = None,
    *,
    given: Sequence[str] | None = None,
    switched: Sequence[str] | None = None,
    draws: int = 200,
    seed: int = 0,
) -> xr.Dataset:
    """R-hat over restarts, row by row, of what all of them define alike.

    Args:
        fits: Runs, or pairs, of one model from different starts; at least 2.
        table: Where the rows are from.
        rows: Positions in the table; all by default.
        given: Sites to condition on; the card's data sites by default.
        switched: Labels whose classes may come in any order, which are matched with those of
            the first fit by how often rows have them together. By default those that the
            card does not list as ever observed.
        draws: Draws of each guide per row, at least 4.
        seed: Seed; the global random state stays as it was.

    Returns:
        - Over ``(quantity, datum)``: ``rhat``, rank-normalised and folded (Vehtari et al. 2021,
          arXiv 1903.08008; the draws are independent, so chains are not split), of
          ``log p(x)``, the log-likelihood; ``E[x][0]``, the mean of the data given a draw
          (up to 20 evenly spaced entries); and ``y=0``, whether a label takes a value. It
          compares the restarts' distance with the posterior's own width: 1.01 is agreement.
        - Over ``(restart, datum)``: ``elbo``, nats: a restart with a lower one got stuck.
        - For each label: ``y_classes`` ``(restart, y_class)``, the class of that restart that
          plays the part of the first's; and ``y_distance`` ``(datum,)``, the largest total
          variation between two restarts' label probabilities.

    Raises:
        ValueError: If an option is out of range, fits differ in sites, or the rows do not fit.
    """
    _, draws = at_least(fits=(len(fits), 2), draws=(draws, 4))
    pairs = [fit if isinstance(fit, Pair) else fit.pair for fit in fits]
    check_alike(pairs)
    table, index = chosen(pairs[0], table, rows)
    found = [_look(pair, table, index, given, draws, seed + place)
             for place, pair in enumerate(pairs)]  # fmt: skip
    first, card = found[0], pairs[0].card
    kinds = [sorted([*f.values, *(f"{n} of {p.shape[1]}" for n, p in f.probs.items())])
             for f in found]  # fmt: skip
    for place, kind in enumerate(kinds):
        if kind != kinds[0]:
            raise ValueError(
                f"fit {place} has the quantities {kind}, expected those of the first, {kinds[0]}"
            )
    labels = list(first.probs)
    free = [n for n in labels if n not in card.labels] if switched is None else list(switched)
    for name in free:
        if name not in labels:
            raise ValueError(unknown("label", name, labels))
    data: dict[str, Any] = {}
    values = {n: np.stack([f.values[n] for f in found]) for n in first.values}
    for name in labels:
        probs = np.stack([f.probs[name] for f in found])
        classes = np.tile(np.arange(probs.shape[-1]), (len(fits), 1))
        if name in free:
            classes = matched(probs)
        probs = np.stack([p[:, order] for p, order in zip(probs, classes, strict=True)])
        places = values.pop(name)
        for place in range(probs.shape[-1]):
            values[f"{name}={place}"] = (places == classes[:, place, None, None]).astype(float)
        apart = 0.5 * np.abs(probs[:, None] - probs[None]).sum(-1)
        data[f"{name}_classes"] = (("restart", f"{name}_class"), classes)
        data[f"{name}_distance"] = (("datum",), apart.max((0, 1)))
    data["rhat"] = (("quantity", "datum"), np.stack([rhat(value) for value in values.values()]))
    data["elbo"] = (("restart", "datum"), np.stack([f.elbo for f in found]))
    numbers = table.rows(index).numbers.cpu().numpy()
    return xr.Dataset(data, {"quantity": list(values), "datum": numbers})


def matched(probs: Array) -> Array:
    """Which class of each fit plays the part of which of the first fit's.

    Args:
        probs: Label probabilities ``(restart, row, C)``.

    Returns:
        ``(restart, C)``: the permutation under which a row has the same class in both fits
        most often (an assignment problem, solved exactly).
    """
    return np.stack([linear_sum_assignment(-(probs[0].T @ other))[1] for other in probs])


def rhat(draws: Array) -> Array:
    """Rank-normalised R-hat, of the values and of their distance from the median.

    Args:
        draws: Independent draws ``(chain, draw, ...)``.

    Returns:
        ``(...)``, at least about 1; 1 where all draws are equal, infinite where only those of
        each chain are.
    """
    chains, count = draws.shape[:2]
    flat = np.asarray(draws, dtype=np.float64).reshape(chains * count, -1)
    folded = np.abs(flat - np.median(flat, 0))
    both = np.maximum(_rhat(flat, chains), _rhat(folded, chains))
    return both.reshape(draws.shape[2:])


def _rhat(flat: Array, chains: int) -> Array:
    ranks = rankdata(flat, axis=0)
    normal = ndtri((ranks - 0.375) / (len(flat) + 0.25)).reshape(chains, -1, flat.shape[1])
    count = normal.shape[1]
    within = normal.var(1, ddof=1).mean(0)
    between = normal.mean(1).var(0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.sqrt((count - 1) / count + between / within)
    # Differences of the order of rounding are none.
    found[within < 1e-20] = np.where(between < 1e-20, 1.0, np.inf)[within < 1e-20]
    array: Array = found
    return array


@dataclass(frozen=True)
class _Look:
    """What one fit says of the rows.

    Attributes:
        values: Draws ``(S, B)`` of each quantity; of labels their places.
        probs: ``(B, C)`` by label.
        elbo: ``(B,)``.
    """

    values: dict[str, Array]
    probs: dict[str, Array]
    elbo: Array


def _look(
    pair: Pair,
    table: Table,
    index: Tensor,
    given: Sequence[str] | None,
    draws: int,
    seed: int,
) -> _Look:
    parts: list[tuple[dict[str, Tensor], dict[str, Tensor], Tensor]] = []
    with undisturbed(pair, seed), torch.no_grad():
        seen = conditioned(pair, as_fitted(pair, table), given, index)
        sites = sites_of_rows(pair, seen)
        step = rows_at_a_time(pair, sites, sites.labels, draws)
        for block in torch.arange(len(seen)).split(step):
            parts.append(_block(pair, rows_of(seen.rows(block), pair), sites, draws))
    return _Look(
        {n: host(torch.cat([part[0][n] for part in parts], 1)) for n in parts[0][0]},
        {n: host(torch.cat([part[1][n] for part in parts])) for n in parts[0][1]},
        host(torch.cat([part[2] for part in parts])),
    )


def _block(
    pair: Pair, batch: Batch, sites: Sites, draws: int
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    q = draw_guide(pair.guide, batch, sites, draws)
    own = [name for name in sites.labels if name not in sites.guided]
    values = dict(q.values)
    scores = score(pair.model, batch, values, own, draws)
    elbo = (scores.marginal() - q.log_q).mean(0)
    probs = {**q.probs, **{name: scores.probs(name).mean(0) for name in own}}
    values |= {n: sites.latents[n].values()[place] for n, place in scores.draw().items()}
    codes = {name: value for name, value in values.items() if name not in sites.labels}
    summed = score(pair.model, batch, codes, sites.labels, draws)
    told = {f"log p({name})": summed.log_likelihood((name,)) for name in summed.data}
    with Many(draws):
        trace = poutine.trace(poutine.condition(pair.model, data=values)).get_trace(batch)
    for name, node in random_sites(trace):
        if name not in sites.data:
            continue
        try:
            mean = node["fn"].mean
        except NotImplementedError:
            continue
        event = node["fn"].event_shape
        flat = mean.expand(draws, batch.count, *event).reshape(draws, batch.count, -1)
        for entry in np.unique(np.linspace(0, flat.shape[-1] - 1, ENTRIES).round().astype(int)):
            told[entry_name(f"E[{name}]", tuple(event), int(entry))] = flat[..., entry]
    for name in sites.labels:
        told[name] = sites.latents[name].places(values[name]).expand(draws, batch.count)
    return told, probs, elbo
