"""New elements of sets: of none, or of what a few elements of each show.

Shapes: B rows, n new elements. A pair has one set on its card, the elements' values in the plate
within the rows, and beside it a covariate that says which elements there are.
"""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import at_least
from ppl_models.elements import THERE, set_of
from ppl_models.inference.traces.sites import latent_sites
from ppl_models.pair import Pair
from ppl_models.quiet import evaluating
from ppl_models.sample_sites import plates_within


def sample_sets(
    pair: Pair, context: Batch | int, n: int, rounds: int = 0, mean: bool = True
) -> Tensor:
    """New elements of each set, by the story itself with some of its sites as the guide has them.

    Contexts, which are the latent sites outside the plate of the elements, are the guide's given
    the elements that are shown; the elements' codes are drawn from their prior. Each round
    of refinement then encodes what was drawn, to take the guide's codes of it, while contexts
    stay (Giannone and Winther 2022, arXiv 2110.12279; ten rounds in their code).

    Args:
        pair: A pair with elements in a plate within the rows.
        context: A batch of the sets that are shown, with which elements there are; or a number of
            sets B of which nothing is shown: contexts come from the prior then.
        n: New elements of each set.
        rounds: Rounds of refinement.
        mean: Give the last elements as their mean, not as a draw.

    Returns:
        ``(B, n, ...)``.

    Raises:
        ValueError: If a number is out of range, the pair has no set of elements, or refinement is
            asked of sets of which nothing is shown.
    """
    n, rounds = at_least(n=(n, 1), rounds=(rounds, 0))
    site = set_of(pair.card)
    if isinstance(context, Batch):
        if site not in context:
            raise ValueError(
                f"the batch lacks site {site!r} of {pair.card.name}, whose elements it shows"
            )
        count = context.count
    else:
        (count,) = at_least(context=(context, 1))
        if rounds:
            raise ValueError(f"rounds is {rounds}, but nothing is shown of the sets, expected 0")
    like = pair.like()
    there = {site + THERE: like.new_ones(count, n)}
    empty = Batch(there, torch.arange(count, device=like.device))
    with torch.no_grad(), evaluating(pair), poutine.block():
        held: dict[str, Tensor] = {}
        if isinstance(context, Batch):
            held = _latents(pair.guide, context.unscaled(), within=False)
        drawn = _run(pair.model, empty, held)
        for _ in range(rounds):
            again = Batch({site: drawn.nodes[site]["value"].transpose(0, 1), **there})
            codes = _latents(pyro.condition(pair.guide, data=held), again, within=True)
            drawn = _run(pair.model, empty, {**held, **codes})
        found = drawn.nodes[site]
        value: Tensor = found["fn"].mean if mean else found["value"]
        return value.expand(found["value"].shape).transpose(0, 1)


def _run(model: Any, batch: Batch, held: dict[str, Tensor]) -> poutine.Trace:
    return poutine.trace(pyro.condition(model, data=held)).get_trace(batch)


def _latents(guide: Any, batch: Batch, within: bool) -> dict[str, Tensor]:
    """Values of the latent sites in a plate within the rows, or of those in none."""
    sites = latent_sites(poutine.trace(guide).get_trace(batch))
    return {name: site["value"] for name, site in sites if bool(plates_within(site)) == within}
