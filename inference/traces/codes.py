"""What terms read of a latent site in the run of a step: its distribution, draws and weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppl_models.inference.traces.nesting import without_plates
from ppl_models.inference.traces.sites import UnhandledSite, latent_sites
from ppl_models.inference.traces.weights import Weights
from ppl_models.sample_sites import is_local


@dataclass(frozen=True)
class Codes:
    """A latent site of the guide in a run: all ways in which its rows were drawn.

    A row has S draws: K particles for each value of the missing labels that the code is given.
    S is 1 where there is one particle and no such label. A draw counts as much as its labels
    are probable, and the weights of a row add up to one.

    Attributes:
        site: Name of the site.
        q: The guide's distribution, batch shape ``(E..., K, B)``, any of the first of size 1;
            plates within the rows have dimensions of size 1 before B.
        values: Its draws ``(S, B, *event)``, with their gradient.
        log_weights: Log of how much each draw counts ``(S, B)``: log q(labels) - log K.
        given_draws: Whether the distribution is another for each particle.
        labels: Dimensions of ``shape``, from the right, of labels that the code is given.
        shape: ``(E..., K, B)`` of the draws; S is the product of all but B.
        nesting: Number of plate dimensions, the data plate included.
    """

    site: str
    q: Any
    values: Tensor
    log_weights: Tensor
    given_draws: bool
    labels: tuple[int, ...]
    shape: tuple[int, ...]
    nesting: int

    def mean(self, values: Tensor) -> Tensor:
        """The mean over a row's draws of ``(S, B, ...)``, as much as each counts: ``(B, ...)``."""
        if len(values) == 1:
            return values[0]
        weights = self.log_weights.exp()
        return (weights.reshape(weights.shape + (1,) * (values.dim() - 2)) * values).sum(0)

    def by_draw(self, value: Tensor) -> Tensor:
        """A tensor ``(E..., K, B)`` of the run, such as a log density, as ``(S, B)``.

        Raises:
            UnhandledSite: If it depends on a missing label that the code is not given.
        """
        shape, value = self.shape, without_plates(value, self.nesting)
        value = value.reshape((1,) * (len(shape) - value.dim()) + value.shape)
        if torch.broadcast_shapes(value.shape, shape) != torch.Size(shape):
            raise UnhandledSite(
                f"a density of site {self.site!r} has shape {tuple(value.shape)}, expected one "
                f"value for each draw, {tuple(shape)}: it depends on a missing label that the "
                "code is not given"
            )
        return value.expand(shape).reshape(-1, shape[-1])

    def only(self, whose: str) -> Tensor:
        """The draws of rows that have one each, ``(B, *event)``.

        Args:
            whose: Who needs it, for the message.

        Raises:
            UnhandledSite: If rows have more.
        """
        if len(self.values) > 1:
            raise UnhandledSite(
                f"site {self.site!r} has {len(self.values)} draws per row, expected one: {whose} "
                "takes one particle, and no site given a missing label"
            )
        return self.values[0]


def codes_of(w: Weights, name: str, rows: int) -> Codes:
    """A site's codes in a run.

    Args:
        w: The run.
        name: The site.
        rows: Number of rows B.

    Raises:
        UnhandledSite: If the guide does not sample it in these rows, one value for each.
    """
    local = {n: site for n, site in latent_sites(w.guide) if is_local(site)}
    if name not in local:
        raise UnhandledSite(
            f"codes are asked of site {name!r}, which the guide does not sample inside the "
            f"data plate in these rows; it samples {list(local)}"
        )
    site = local[name]
    fn, value = site["fn"], site["value"]
    event = fn.event_dim
    shape = (1,) * (w.nesting + 1 - value.dim() + event) + value.shape[: value.dim() - event]
    inner = range(len(shape) - w.nesting, len(shape) - 1)
    if any(shape[dim] > 1 for dim in inner):
        raise UnhandledSite(
            f"site {name!r} stands in a plate within the rows, its draws have shape "
            f"{tuple(value.shape)}; expected one code per row"
        )
    batch = (*shape[: len(shape) - w.nesting], rows)
    value = value.reshape((*batch[:-1], shape[-1], *value.shape[value.dim() - event :]))
    value = value.expand((*batch, *value.shape[len(batch) :]))
    labels = tuple(
        dim + w.nesting - 1
        for dim, label in w.labels.items()
        if label.in_guide and len(shape) >= -dim and shape[dim] > 1
    )
    weights = _log_weights(w, batch, labels, value)
    return Codes(
        name,
        fn,
        value.reshape(-1, *value.shape[len(batch) - 1 :]),
        weights.expand(batch).reshape(-1, rows),
        bool(site["infer"].get("_given_draws")),
        labels,
        batch,
        w.nesting,
    )


def _log_weights(
    w: Weights, batch: tuple[int, ...], labels: tuple[int, ...], like: Tensor
) -> Tensor:
    draws = batch[-2]
    if not labels:
        dtype = like.dtype if like.is_floating_point() else None
        return like.new_full((1,) * len(batch), -math.log(draws), dtype=dtype)
    log_q = w.log_q_given
    assert log_q is not None  # there are labels
    others = [d for d in range(-log_q.dim(), -2) if d not in labels]
    if others:
        log_q = torch.logsumexp(log_q, others, keepdim=True)
    if log_q.shape[-2] > draws:
        log_q = torch.logsumexp(log_q, -2, keepdim=True) - math.log(log_q.shape[-2])
    return log_q.reshape(log_q.shape[-len(batch) :]) - math.log(draws)
