"""Whether what is generated from one modality shows what the row is, to somebody who can tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import unknown, whole
from ppl_models.data.tables.table import Table
from ppl_models.inference.posterior.prediction import by_rows
from ppl_models.inference.posterior.rows import chosen
from ppl_models.interventions import intervene
from ppl_models.pair import Pair

Oracle = Callable[[Tensor], Any]  # of generated rows (n, ...), their classes (n,) or scores (n, C)


def cross_coherence(
    pair: Pair,
    table: Table,
    oracle: Oracle,
    given: str | Sequence[str],
    made: str,
    label: str = "y",
    rows: Sequence[int] | Tensor | None = None,
    draws: int = 1,
    mean: bool = True,
    seed: int = 0,
) -> float:
    """Share of generated rows in which an oracle sees the class of the rows they come from.

    Codes are draws of the guide at the ``given`` sites alone, not their means (Shi et al. 2019,
    arXiv 1911.03393; Joy et al. 2022, arXiv 2106.12570), and ``made`` is generated from them.

    Args:
        pair: Any pair whose guide takes rows with just these sites.
        table: The rows; those whose label is hidden are left out.
        oracle: Tells classes of values ``(n, ...)`` of ``made``, such as a classifier that was
            trained on real ones: ``(n,)``, or scores ``(n, C)`` of which the largest counts. It
            is asked at the pair's device, with columns and classes as in the data of the fit.
        given: One site or several that the codes are drawn from.
        made: The site of the data that is generated. Where it is given, it is its reconstruction.
        label: The label site.
        rows: Positions in the table; all by default.
        draws: Codes drawn of each row.
        mean: Whether the site is its mean given the codes; else a draw.
        seed: Of the draws.

    Raises:
        ValueError: If there is no such site, a given one is hidden in some of the rows, the
            oracle gives another number of classes, or no row has a label.
    """
    table, index = chosen(pair, table, rows)
    whole("draws", draws, 1)
    if label not in table.sites:
        raise ValueError(f"{table.name}: {unknown('label site', label, table.sites)}")
    if made not in pair.card.data:
        raise ValueError(f"{pair.card.name}: {unknown('site of the data', made, pair.card.data)}")
    if label in table.observed:
        index = index[table.observed[label][index]]
    if not len(index):
        raise ValueError(f"site {label!r} of {table.name} is hidden in all rows that are asked of")
    seen = _given(pair, table.rows(index), (given,) if isinstance(given, str) else tuple(given))

    def of(batch: Batch) -> Tensor:
        found = intervene(pair, batch, {}, mean=mean, draws=draws)
        if made in batch:
            # What hangs on the codes is made anew where they are set to what they are.
            codes = {n: v for n, v in found.items() if n in pair.card.latents and n not in batch}
            found = intervene(pair, batch, codes, mean=mean, draws=draws)
        values = found[made]
        if values.shape[:2] != (draws, batch.count):
            raise ValueError(
                f"site {made!r} has shape {tuple(values.shape[1:])}, expected a value for each of "
                f"{batch.count} rows"
            )
        return _classes(oracle, values.flatten(0, 1)).reshape(draws, batch.count).T

    told = by_rows(pair, seen, of, seed).cpu()
    truth = table.sites[label][index].cpu()
    return float((told == truth.unsqueeze(1)).double().mean())


def _given(pair: Pair, table: Table, given: Sequence[str]) -> Table:
    """Rows in which these sites alone are observed, and the covariates."""
    for name in given:
        if name not in table.sites:
            raise ValueError(f"{table.name}: {unknown('site', name, table.sites)}")
        if name in table.observed:
            hidden = (~table.observed[name]).nonzero()
            raise ValueError(
                f"site {name!r} of {table.name} is hidden in row {int(table.numbers[hidden[0]])}; "
                f"choose rows in which it is observed (table.where_observed({name!r}))"
            )
    seen = {*given, *pair.card.covariates}
    sites = [name for name in table.sites if name in seen or name in pair.card.data]
    none = torch.zeros(len(table), dtype=torch.bool)
    return table.only(*sites).hide({name: none for name in sites if name not in seen})


def _classes(oracle: Oracle, values: Tensor) -> Tensor:
    """What the oracle says of values ``(n, ...)``, as classes ``(n,)``."""
    told = torch.as_tensor(oracle(values))
    if told.dim() == 2:
        told = told.argmax(1)
    if told.shape != values.shape[:1]:
        raise ValueError(
            f"the oracle gives shape {tuple(told.shape)} for {len(values)} rows, expected "
            f"({len(values)},) or ({len(values)}, C)"
        )
    return told.to(values.device, torch.int64)
