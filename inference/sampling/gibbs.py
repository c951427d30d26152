"""Labels by a Gibbs chain over label and codes, for each draw of what all rows share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyro.distributions as dist
import torch
import xarray as xr
from pyro import poutine
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import at_least
from ppl_models.data.tables.table import Table
from ppl_models.inference.posterior.draws import score
from ppl_models.inference.posterior.groups import as_inference_data
from ppl_models.inference.posterior.prediction import by_rows, guide_probabilities
from ppl_models.inference.posterior.rows import undisturbed
from ppl_models.inference.posterior.shared_sites import draw_outside
from ppl_models.inference.posterior.support import as_fitted
from ppl_models.inference.sampling.acquisitions import scorer
from ppl_models.inference.traces.sites import Program, latent_sites
from ppl_models.pair import Pair

ROWS = 2000  # rows of a chain at a time: small networks, many steps

if TYPE_CHECKING:
    import arviz as az


def gibbs_predict(
    pair: Pair,
    table: Table,
    site: str = "y",
    *,
    weights: int = 10,
    steps: int = 20,
    draw: bool = True,
    seed: int = 0,
) -> Tensor:
    """Probabilities of a label along Gibbs chains, one chain per draw of the shared sites.

    A chain starts at q(y | x). Each step draws the codes from the guide given the label,
    q(z | x, y), then takes p(y | x, z, w) from the model, from which the next label comes
    (Gordon and Hernandez-Lobato 2017, arXiv 1706.09751). Averaged over steps and chains the
    codes and the weights w are summed out; averaged over steps alone, what is left of the
    spread between chains is what more labels could tell. Serves any pair whose guide has a
    factor for the label; without shared sites the chains differ in their codes alone.

    Args:
        pair: The pair.
        table: The rows; their labels are not looked at.
        site: The label site.
        weights: Draws S of the sites outside the data plate; one chain each.
        steps: Steps T of a chain.
        draw: Draw each label from its probabilities; False takes the most probable one, as the
            authors' code does.
        seed: Seed of all draws.

    Returns:
        ``(S, T, N, C)``, rows in the table's order.

    Raises:
        ValueError: If an option is out of range, or the guide has no factor for the site.
    """
    weights, steps = at_least(weights=(weights, 1), steps=(steps, 1))
    seen = as_fitted(pair, table).only(*pair.card.given)
    like = pair.like()
    (first, *_) = seen.batches(limit=2)
    with undisturbed(pair, seed), torch.no_grad():
        shared = draw_outside(pair, first.unscaled().to(like.device, like.dtype), weights)
    given = [shared.at(s) for s in range(weights)]

    def of(batch: Batch) -> Tensor:
        batch = batch.unscaled()
        start = guide_probabilities(pair, batch, site)
        chains = [_chain(one, batch, site, start, steps, draw) for one in given]
        return torch.stack(chains).movedim(2, 0)

    return by_rows(pair, seen, of, seed, ROWS).movedim(0, 2)


def gibbs_posterior(
    pair: Pair, table: Table, site: str = "y", acquisition: str = "bald", **options: Any
) -> az.InferenceData:
    """Those probabilities as InferenceData, for R-hat and effective sample size over the chains.

    Args:
        pair: The pair.
        table: The rows.
        site: The label site.
        acquisition: ``"bald"`` or ``"entropy"``.
        options: As of :func:`gibbs_predict`.

    Returns:
        ``posterior`` with ``y_probs`` over ``(chain, draw, datum, y_class)``: chains are draws
        of the weights, draws are steps; ``sample_stats`` with ``acquisition`` per row, nats.

    Raises:
        ValueError: As :func:`gibbs_predict`, or if the acquisition is unknown.
    """
    score_of = scorer(acquisition)
    probs = gibbs_predict(pair, table, site, **options)
    chains, draws, _, classes = probs.shape
    names = as_fitted(pair, table).classes.get(site, tuple(map(str, range(classes))))
    rows = {"datum": table.numbers.cpu().numpy()}
    posterior = xr.Dataset(
        {f"{site}_probs": (("chain", "draw", "datum", f"{site}_class"), probs.cpu().numpy())},
        {
            **rows,
            "chain": np.arange(chains),
            "draw": np.arange(draws),
            f"{site}_class": list(names),
        },
    )
    values = score_of(probs.mean(1)).cpu().numpy()
    stats = xr.Dataset({"acquisition": (("datum",), values)}, rows)
    groups = {"posterior": posterior, "sample_stats": stats}
    return as_inference_data(groups, {"acquisition": acquisition})


def _chain(
    program: Program, batch: Batch, site: str, probs: Tensor, steps: int, draw: bool
) -> Tensor:
    """Label probabilities after each step ``(T, B, C)``."""
    found = []
    for _ in range(steps):
        y = dist.Categorical(probs).sample() if draw else probs.argmax(-1)
        trace = poutine.trace(program.guide).get_trace(batch.replace({**batch, site: y}))
        codes = {name: node["value"].unsqueeze(0) for name, node in latent_sites(trace)}
        probs = score(program.model, batch, codes, [site], 1).probs(site)[0]
        found.append(probs)
    return torch.stack(found)
