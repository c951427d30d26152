"""Labels, bounds and errors of rows, from a fitted pair."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import torch
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.data import Table
from ppl_models.inference.bounds import label_posterior, log_mean_weight
from ppl_models.inference.evaluation import Evaluation
from ppl_models.inference.objectives import Objective
from ppl_models.pair import Pair

ROWS = 500  # rows evaluated at a time


def label_probabilities(
    pair: Pair, table: Table, site: str = "y", particles: int = 0, seed: int = 0
) -> Tensor:
    """Probabilities of a label given the data sites, for every row.

    Args:
        pair: The pair.
        table: The rows; their labels are not looked at.
        site: The label site.
        particles: 0 asks the guide, q(y | x), whose continuous inputs take their mean. A
            number K asks the model instead: softmax over y of log 1/K sum_k w_{y,k}, the
            posterior that K weighted draws per label imply (for a fully labelled M2 the
            paper's own prediction).
        seed: Seed of those draws.

    Returns:
        ``(N, C)``, in the order of the table's rows.
    """
    seen = table.only(*pair.card.data)

    def of(batch: Batch) -> Tensor:
        if not particles:
            q = pair.guide.factor(site, pair.guide.upstream(site, batch))
            probs: Tensor = q.probs
            return probs
        w = Evaluation(pair.model, pair.guide, batch).weights(particles)
        if w.log_q_labels is None or w.log_q_labels.dim() != 3:
            raise ValueError(f"expected {site!r} to be the only missing label of {pair.card.name}")
        return label_posterior(log_mean_weight(w.log_w), (-3,)).exp().squeeze(-2).T

    return _by_rows(pair, seen, of, seed)


def error(pair: Pair, table: Table, site: str = "y", particles: int = 0, seed: int = 0) -> float:
    """Share of rows whose most probable label is not the table's.

    Raises:
        ValueError: If a row of the table has no label.
    """
    if site not in table.sites or site in table.observed:
        raise ValueError(f"{table.name} has no complete labels {site!r} to compare with")
    probs = label_probabilities(pair, table, site, particles, seed)
    return float((probs.argmax(-1) != table.sites[site].to(probs.device)).double().mean())


def loss_per_row(pair: Pair, table: Table, objective: Objective, seed: int = 0) -> Tensor:
    """An objective's loss of every row ``(N,)``, nats, with what the table observes."""
    return _by_rows(pair, table, lambda b: objective.per_datum(pair.model, pair.guide, b), seed)


def _by_rows(pair: Pair, table: Table, of: Callable[[Batch], Tensor], seed: int) -> Tensor:
    like = pair.like()
    blocks: list[Tensor] = []
    order: list[Tensor] = []
    training = pair.training
    pair.eval()
    try:
        with (
            torch.no_grad(),
            torch.random.fork_rng(devices=[like.device] if like.is_cuda else []),
            pyro.validation_enabled(False),
        ):
            torch.manual_seed(seed)
            for regime in table.regimes():
                for start in range(0, len(regime.index), ROWS):
                    index = regime.index[start : start + ROWS]
                    (batch,) = table.batches(index)
                    blocks.append(of(batch.to(like.device, like.dtype)))
                    order.append(index)
    finally:
        pair.train(training)
    values = torch.cat(blocks)
    out = torch.empty_like(values)
    out[torch.cat(order).to(values.device)] = values
    return out
