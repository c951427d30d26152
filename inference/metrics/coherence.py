"""Whether what is generated from one modality shows what the row is, to somebody who can tell."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import unknown, whole
from ppl_models.data.tables.table import Table
from ppl_models.inference.posterior.axioms import Oracle
from ppl_models.inference.posterior.prediction import by_rows
from ppl_models.inference.posterior.rows import chosen
from ppl_models.inference.posterior.told_alone import generated, told
from ppl_models.modalities import mark
from ppl_models.pair import Pair


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
        values = generated(pair, batch, made, draws, mean)
        return told(oracle, values.flatten(0, 1)).reshape(draws, batch.count).T

    classes = by_rows(pair, seen, of, seed).cpu()
    truth = table.sites[label][index].cpu()
    return float((classes == truth.unsqueeze(1)).double().mean())


def check_there(table: Table, name: str) -> None:
    """Refuse a site that some of the rows lack, naming the first of them.

    Raises:
        ValueError: In one line.
    """
    there = table.observed.get(name)
    if there is None and mark(name) in table.sites:
        there = table.sites[mark(name)][:] > 0
    if there is not None and not bool(there.all()):
        hidden = (~there).nonzero()
        raise ValueError(
            f"site {name!r} of {table.name} is hidden in row {int(table.numbers[hidden[0]])}; "
            f"choose rows in which it is observed (table.where_observed({name!r}))"
        )


def _given(pair: Pair, table: Table, given: Sequence[str]) -> Table:
    """Rows in which these sites alone are observed, and the covariates."""
    for name in given:
        if name not in table.sites:
            raise ValueError(f"{table.name}: {unknown('site', name, table.sites)}")
        check_there(table, name)
    seen = {*given, *pair.card.covariates}
    # What rows may lack is not there; what all rows have is hidden.
    others = pair.card.data.keys() - set(pair.may_lack)
    sites = [name for name in table.sites if name in seen or name in others]
    none = torch.zeros(len(table), dtype=torch.bool)
    return table.only(*sites).hide({name: none for name in sites if name not in seen})
