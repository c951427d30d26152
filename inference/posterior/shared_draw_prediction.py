"""Labels by importance sampling with draws that all labels share."""

from __future__ import annotations

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import unknown
from ppl_models.inference.posterior.draws import Many, Scores, score
from ppl_models.inference.posterior.rows import find_sites
from ppl_models.inference.traces.evaluation import is_local, latent_sites
from ppl_models.pair import Pair


def from_shared_draws(pair: Pair, batch: Batch, site: str, particles: int) -> Tensor:
    r"""Probabilities of a label from draws of the whole guide, its label included.

    :math:`p(y|x) \propto \sum_s p(x, y, z_s) / q(z_s | x, y_s)` with :math:`y_s \sim q(y|x)`: each
    :math:`z_s` is weighed for every y, whichever label it was drawn for. Right in the limit, as
    :math:`E\,p(x, y, z_s) / q(z_s | x, y_s) = p(x, y)` for any :math:`y_s`. The guide and what of
    the model does not depend on y run K times per row, not C K times. Thoreau et al. 2022
    (arXiv 2210.10418), who weigh by p(x | y, z) to a power.

    Args:
        pair: The pair.
        batch: The rows; the label must not be in it.
        site: The label.
        particles: Draws K.

    Returns:
        ``(B, C)``.

    Raises:
        ValueError: If the guide samples no such site, or the site is no label.
    """
    batch = Batch(dict(batch), batch.rows)  # each row counts once
    sites = find_sites(pair, batch)
    if site not in sites.labels:
        raise ValueError(unknown("missing label", site, sites.labels))
    with Many(particles):
        trace = poutine.trace(pair.guide).get_trace(batch)
    drawn = {name: node for name, node in latent_sites(trace) if name != site}
    log_q = torch.stack(
        [
            scale_and_mask(node["fn"].log_prob(node["value"]), mask=node["mask"])
            for node in drawn.values()
            if is_local(node)
        ]
        or [batch.rows.new_zeros(particles, batch.count, dtype=pair.like().dtype)]
    ).sum(0)
    labels = [name for name in sites.labels if name == site or name not in sites.guided]
    values = {name: node["value"] for name, node in drawn.items()}
    scores = score(pair.model, batch, values, labels, particles)
    joint = torch.logsumexp(scores.log_joint - log_q, -2, keepdim=True)
    return Scores(joint, scores.labels, {}, ()).probs(site)[0]
