"""Checks before training, and what went wrong when a loss is not finite."""

from __future__ import annotations

from typing import Any

from pyro import poutine
from torch import Tensor

from ppl_models.data.tables.table import Table
from ppl_models.devices import check_device
from ppl_models.pair import Pair
from ppl_models.quiet import quiet
from ppl_models.sample_sites import base_of, support_words

CHECKED_ROWS = 4096  # rows compared with the support at a time


def check_data(pair: Pair, table: Table) -> None:
    """Compare every observed value with the support of its site in the model.

    Args:
        pair: The pair.
        table: The rows.

    Raises:
        ValueError: Naming the site, row, value and what was expected.
    """
    missing = [site for site in pair.card.data if site not in table.sites]
    if missing:
        raise ValueError(
            f"{table.name} lacks the site {missing[0]!r} of {pair.card.name}; "
            f"it has {sorted(table.sites)}"
        )
    for site, values in table.sites.items():
        check_device(f"site {site!r} of {table.name}", values.device)
    check_device("the pair", pair.like().device)
    for regime in table.regimes():
        first = next(table.batches(regime.index[:2]))
        first = first.to(pair.like().device, pair.like().dtype)
        with poutine.block(), quiet(pair.like().device):
            trace = poutine.trace(pair.model).get_trace(first)
        for name in regime.sites:
            site = trace.nodes.get(name)
            if site is None or not site["is_observed"]:
                continue
            _check_shape(name, table, first[name], site["fn"])
            for start in range(0, len(regime.index), CHECKED_ROWS):
                index = regime.index[start : start + CHECKED_ROWS]
                _check_support(name, table, index, site["fn"])


def _check_shape(name: str, table: Table, value: Tensor, fn: Any) -> None:
    if value.shape[1:] != fn.event_shape:
        raise ValueError(
            f"site {name!r} of {table.name} has rows of shape {tuple(value.shape[1:])}, "
            f"expected {tuple(fn.event_shape)}; build the pair for these data"
        )


def _check_support(name: str, table: Table, index: Tensor, fn: Any) -> None:
    values = table.sites[name][index.to(table.sites[name].device)]
    base = base_of(fn)
    inside = base.support.check(values)
    inside = inside.reshape(inside.shape + (1,) * (values.dim() - inside.dim()))  # of vectors
    if values.is_floating_point():
        inside = inside & values.isfinite()
    inside = inside.reshape(len(values), -1)
    if bool(inside.all()):
        return
    row, column = (int(i) for i in (~inside).nonzero()[0])
    value = values.reshape(len(values), -1)[row, column].item()
    where = f"row {int(table.numbers[index[row]])} of {table.name}"
    if values.dim() > 1:
        where += f", column {column}"
    raise ValueError(
        f"site {name!r}, {where}: the value {value:g} is outside the support of "
        f"{type(base).__name__}, expected {support_words(base.support)}"
    )
