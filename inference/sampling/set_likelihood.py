r"""How likely elements of a set are, given others of it that are shown.

:math:`\log p(x_T | x_C) = \log p(x_C, x_T) - \log p(x_C)`, for context elements C and other
elements T of one set: each evidence by importance sampling with the guide as the proposal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ppl_models.config import at_least
from ppl_models.data.tables.table import Table
from ppl_models.elements import THERE, set_of
from ppl_models.inference.posterior.groups import host, plain_attrs, provenance
from ppl_models.inference.posterior.importance_weights import log_mean, per_row
from ppl_models.inference.posterior.rows import Sites, chosen, undisturbed, weighed
from ppl_models.inference.posterior.target import sites_of_rows
from ppl_models.inference.sampling.importance import LEAST, propose
from ppl_models.pair import Pair


def set_likelihood(
    pair: Pair,
    table: Table,
    rows: Sequence[int] | Tensor | None = None,
    *,
    context: int,
    draws: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """Few-shot prediction: log p of the elements of each set that are not its context.

    An evidence lower bound of a whole set sees the element that it scores; here context and
    targets are disjoint. Both evidences are estimated from draws of their own, so that errors
    add up; each is low by about half its squared error.

    Args:
        pair: A pair with one set, whose elements stand in a plate within the rows.
        table: Where the rows are from.
        rows: Positions in the table; all by default.
        context: The first so many elements of each row that there are; 0 for none.
        draws: Draws of the guide per row.
        seed: Seed; the global random state stays as it was.

    Returns:
        Over ``datum`` (row numbers), in nats: ``log_likelihood`` of the targets together,
        ``per_element``, their number ``targets``, the standard error ``log_likelihood_error``, and
        ``khat`` (PSIS), the greater of the two.

    Raises:
        ValueError: If an option is out of range, the pair has no set, or a row has no more
            elements than the context; naming the row.
    """
    draws, context = at_least(draws=(draws, LEAST), context=(context, 0))
    site = set_of(pair.card)
    table, index = chosen(pair, table, rows)
    with undisturbed(pair, seed), torch.no_grad():
        seen = weighed(pair, table, None, index)
        there = seen.sites[site + THERE][:] > 0
        place = there.cumsum(1)  # of an element among those that there are, from 1
        targets = (there & (place > context)).sum(1)
        if not bool((targets > 0).all()):
            row = int((targets == 0).nonzero()[0])
            raise ValueError(
                f"row {int(seen.numbers[row])} of {table.name} has {int(there[row].sum())} "
                f"elements in site {site!r}, expected more than context={context}"
            )
        sites = sites_of_rows(pair, seen, plates_within=True)
        value, error, khat = _evidence(pair, seen, sites, draws)
        if context:
            first = (there & (place <= context)).to(seen.sites[site + THERE].dtype)
            shown = seen.replace(sites={**seen.sites, site + THERE: first})
            known = _evidence(pair, shown, sites, draws)
            value = value - known[0]
            error, khat = np.hypot(error, known[1]), np.maximum(khat, known[2])
    count = targets.cpu().numpy()
    found = {
        "log_likelihood": value,
        "per_element": value / count,
        "targets": count,
        "log_likelihood_error": error,
        "khat": khat,
    }
    more = {"objective": "none", "draws": draws, "context": context}
    return xr.Dataset(
        {name: ("datum", values) for name, values in found.items()},
        {"datum": seen.numbers.cpu().numpy()},
        plain_attrs(provenance(pair, seen, sites, "set_likelihood", seed, more)),
    )


def _evidence(
    pair: Pair, seen: Table, sites: Sites, draws: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log evidence of each row, its standard error, and k-hat."""
    weights = [host(part.log_weight) for part in propose(pair, seen, sites, draws)]
    log_weight = np.concatenate(weights, 1)
    return *log_mean(log_weight), per_row(log_weight)["khat"]
