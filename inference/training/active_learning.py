"""Active learning: which row to label next, and the loop that asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ppl_models.data.tables.seeds import ORDER, generator
from ppl_models.data.tables.table import Table
from ppl_models.inference.sampling.acquisitions import Acquisition, scorer
from ppl_models.inference.sampling.gibbs import gibbs_predict
from ppl_models.inference.training.fit import fit
from ppl_models.inference.training.run import Run
from ppl_models.pair import Pair


@dataclass(frozen=True)
class Round:
    """One round of :func:`active_learning`.

    Attributes:
        run: The pair, trained from scratch on this round's labels.
        table: The rows with this round's labels.
        scores: Acquisition of every row ``(N,)``, -inf where the label is known; None in the
            last round.
        query: Position of the row that is asked for next; None in the last round.
        labels: Number of labels that the pair was trained on.
    """

    run: Run
    table: Table
    scores: Tensor | None
    query: int | None
    labels: int


def active_learning(
    build: Callable[[], Pair],
    table: Table,
    oracle: Callable[[int], int],
    until: int,
    *,
    site: str = "y",
    acquisition: str | Acquisition = "bald",
    predict: Callable[[Pair, Table], Tensor] | None = None,
    seed: int = 0,
    **training: Any,
) -> Iterator[Round]:
    """Ask for one label after another, each time training a new pair from scratch.

    Rounds come as they are finished. The same arguments give the same queries. Rows are asked
    for one at a time: the best few rows of a round tend to tell the same.

    Args:
        build: Makes an untrained pair, the same one at each call.
        table: The rows, some of which observe the label; the others are the pool.
        oracle: From a position in the table to its label.
        until: Number of labels to stop at.
        site: The label site.
        acquisition: ``"bald"``, ``"entropy"`` or ``"random"``, or a function from label
            probabilities ``(S, N, C)`` to the scores ``(N,)``, of which the largest is asked for.
        predict: Label probabilities ``(S, N, C)`` of a table's rows under S draws of the weights;
            the mean over the steps of :func:`gibbs_predict` when left out.
        seed: Seed of training and draws.
        training: Options of :func:`fit`.

    Raises:
        ValueError: If an option is unknown, no row or every row is labelled, or there are fewer
            rows than labels asked for.
    """
    if not callable(acquisition) and acquisition != "random":
        acquisition = scorer(acquisition, "random")
    if site not in table.observed or not table.counts[site]:
        raise ValueError(f"expected {site!r} to be known in some rows of {table.name}, not in all")
    if not table.counts[site] <= until <= len(table):
        raise ValueError(
            f"until is {until}, expected between the {table.counts[site]} labels there are and "
            f"the {len(table)} rows"
        )
    ask = predict or partial(_by_gibbs, site=site, seed=seed)

    def rate(pair: Pair, rows: Table) -> Tensor:
        if callable(acquisition):
            return acquisition(ask(pair, rows)).cpu()
        return torch.rand(len(rows), generator=generator(seed, ORDER, rows.counts[site]))

    def train(rows: Table) -> Run:
        return fit(build(), rows, seed=seed, **training)

    return _rounds(table, train, rate, oracle, until, site)


def reveal(table: Table, site: str, row: int, label: int) -> Table:
    """The table with one more label.

    Args:
        table: The rows.
        site: The label site.
        row: Position of the row.
        label: Its label.

    Raises:
        ValueError: If it is no class of the site.
    """
    values, mask = table.sites[site][:].clone(), table.observed[site].clone()
    values[row], mask[row] = label, True
    observed = {**table.observed, site: mask}
    sites = {**table.sites, site: values}
    return table.replace(sites=sites, observed=observed)


def _rounds(
    table: Table,
    train: Callable[[Table], Run],
    rate: Callable[[Pair, Table], Tensor],
    oracle: Callable[[int], int],
    until: int,
    site: str,
) -> Iterator[Round]:
    while True:
        run, count = train(table), table.counts[site]
        if count >= until:
            yield Round(run, table, None, None, count)
            return
        known = table.observed[site].cpu()
        scores = rate(run.pair, table).masked_fill(known, -torch.inf)
        query = int(scores.argmax())
        yield Round(run, table, scores, query, count)
        table = reveal(table, site, query, oracle(query))


def _by_gibbs(pair: Pair, table: Table, site: str, seed: int) -> Tensor:
    return gibbs_predict(pair, table, site, seed=seed).mean(1)
