"""What objectives read off the traces of a run: per-row log densities of single sites."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.sites import UnhandledSite, is_enumerated, latent_sites
from ppl_models.inference.traces.weights import Weights
from ppl_models.sample_sites import is_local


def row_density(run: Evaluation, site: Any, value: Tensor) -> Tensor:
    """A log density as ``(E..., K, B)``: masked, without N / B, plates within a row summed.

    Args:
        run: The run whose trace holds the site.
        site: The site.
        value: Log density or divergence of the batch shape of the site.
    """
    scale = 1.0 if site["scale"] is run.batch.scale else site["scale"] / run.batch.scale
    value = scale_and_mask(value, scale, site["mask"])
    nesting = run.plate_nesting
    value = value.reshape((1,) * (nesting + 1 - value.dim()) + value.shape)
    return value.sum(tuple(range(-nesting, -1))) if nesting > 1 else value


def observed_site(run: Evaluation, site: str, objective: str) -> Any:
    """A site of the data in a run's model, at all draws and labels of which a mean can be taken.

    Args:
        run: The run.
        site: The site.
        objective: Who weighs it, for the message.

    Raises:
        UnhandledSite: If it is none of the model's sites in the rows, or depends on a label that
            the guide does not have.
    """
    w = run.lead
    terms = {term.name: term for term in w.terms["p"]}
    if site not in terms:
        raise UnhandledSite(
            f"{objective} names site {site!r}, which is not one of the model's sites in "
            f"plate 'data', {sorted(terms)}"
        )
    alone = [w.labels[d].name for d in terms[site].labels if not w.labels[d].in_guide]
    if alone:
        raise UnhandledSite(
            f"{objective} weighs site {site!r}, which depends on {alone} that the model "
            "alone samples; give the guide a factor for it"
        )
    return w.model.nodes[site]


def log_q_labels(run: Evaluation, w: Weights) -> Tensor | None:
    """Log q of the enumerated sites for each draw, ``(E..., K or 1, B)``; None without any.

    ``Weights.log_q_labels`` is the average of it over the draws.
    """
    if w.log_q_labels_by_draw is None:  # which also objects to labels that have no joint tensor
        return None
    parts = [
        row_density(run, site, site["fn"].log_prob(site["value"]))
        for _, site in latent_sites(w.guide)
        if is_enumerated(site)
    ]
    return sum(parts[1:], parts[0])


def mean_of_draws(w: Weights, value: Tensor) -> Tensor:
    """The mean over a row's draws, and over missing labels by their probability, ``(B,)``.

    Args:
        w: The run.
        value: ``(E..., K, B)``, any of the first of size 1 or missing.
    """
    if value.dim() < 3:  # alike for all labels, whose probabilities add up to one
        return value.reshape(-1, value.shape[-1]).mean(0)
    if (log_q := w.log_q_given) is not None:
        value = log_q.exp() * value
    return value.mean(-2, keepdim=True).sum((*label_dims(value), -2))


def label_dims(*tensors: Tensor) -> tuple[int, ...]:
    """Dimensions left of ``(K, B)``, counted from the right so that they fit every tensor."""
    return tuple(range(-max(t.dim() for t in tensors), -2))


def check_inside_plate(w: Weights, objective: str, discrete: bool = False) -> None:
    """Raise where the guide draws a site outside the data plate.

    Args:
        w: The run.
        objective: Name of the objective, for the message.
        discrete: Object to sites without a reparameterisation only.

    Raises:
        UnhandledSite: Naming the site.
    """
    for name, site in latent_sites(w.guide):
        if not is_local(site) and not (discrete and site["fn"].has_rsample):
            raise UnhandledSite(
                f"site {name!r} stands outside the data plate, and {objective} gives its guide "
                "no correct gradient; expected it inside plate 'data'"
                + (", or a reparameterised distribution" if discrete else "")
            )


def at_every_label(value: Tensor, *others: Tensor) -> Tensor:
    """A view of a tensor at the full shape that it and others broadcast to."""
    return value.expand(torch.broadcast_shapes(value.shape, *(o.shape for o in others)))
