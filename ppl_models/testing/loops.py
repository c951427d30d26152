"""Sums over labels as loops, which those of the objectives are compared with."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from pyro import poutine
from torch import Tensor

from ppl_models.pair import Pair
from ppl_models.testing.cases import (
    Case,
    enumerated,
    latent,
    log_density,
    pick,
    plate_sizes,
    sampled,
)
from ppl_models.testing.fixed_draws import FixedDraws

MOST = 1000  # combinations


def bound_by_loop(case: Case, trace: poutine.Trace) -> Tensor:
    """The enumerated bound as a loop over labels, each put into the batch in its turn.

    A label of a plate within the rows takes all combinations of values of its entries.

    Args:
        case: A pair and a batch with missing labels.
        trace: Its guide's trace, whose draws for the label at hand are used.

    Returns:
        ``(B,)``: the sum of q(y | x) [log p(x, y, z) - log q(z | x, y) - log q(y | x)].
    """
    pair, batch, sites = case.pair, case.batch, enumerated(trace)
    assert isinstance(pair, Pair), "its card says which labels are ever data"
    supports = {n: s["value"].reshape(-1, *s["fn"].event_shape) for n, s in sites.items()}
    plates = {n: plate_sizes(s) for n, s in sites.items()}
    each = [
        itertools.product(range(len(v)), repeat=math.prod(plates[n])) for n, v in supports.items()
    ]
    if math.prod(len(supports[n]) ** math.prod(plates[n]) for n in sites) > MOST:
        pytest.skip(f"more than {MOST} combinations of labels, which no loop goes through")
    total = torch.zeros(batch.count, dtype=pair.like().dtype)
    for places in itertools.product(*each):
        at = dict(zip(sites, places, strict=True))
        label = {}
        for name, values in supports.items():
            chosen = values[list(at[name])].unsqueeze(1)  # entries x 1 x event
            wide = chosen.expand(-1, batch.count, *values.shape[1:])
            label[name] = wide.reshape(*plates[name], batch.count, *values.shape[1:])
        fixed = FixedDraws(pair.guide, {**pick(trace, labels=at), **label})
        hidden = poutine.trace(fixed).get_trace(batch)
        log_q = log_density({name: hidden.nodes[name] for name in sites})
        # Discrete sites that are never data stay latent, at the same value.
        put = {n: v for n, v in label.items() if n in pair.card.labels}
        seen = batch.replace({**batch, **put})
        guide = poutine.trace(fixed).get_trace(seen)
        model = poutine.trace(poutine.replay(pair.model, trace=guide)).get_trace(seen)
        drawn = {n: s for n, s in latent(guide).items() if n not in sites}
        log_w = log_density(sampled(model)) - log_density(drawn)
        total = total + log_q.exp() * (log_w - log_q)
    return total
