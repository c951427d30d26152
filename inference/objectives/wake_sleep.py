"""Reweighted wake-sleep: the guide learns from weighted draws or from the model's dreams."""

from __future__ import annotations

import math

import torch
from pyro import poutine
from torch import Tensor

from ppl_models.config import at_least
from ppl_models.inference.objectives.arithmetic import check_unscaled
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.formulas import mean_weight
from ppl_models.inference.objectives.loss_parts import BOUND
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.per_row import (
    at_every_label,
    check_inside_plate,
    label_dims,
    log_q_labels,
    row_density,
)
from ppl_models.inference.traces.sites import UnhandledSite, latent_sites, random_sites
from ppl_models.inference.traces.weights import Weights


class WakeSleep(Objective):
    r"""Reweighted wake-sleep, for discrete and continuous sites alike, enumerable or not.

    Bornschein and Bengio 2015 (arXiv 1406.2751), Le et al. 2019 (arXiv 1805.10469). Draws
    carry no gradient. With :math:`w_{y,k} = p(x, y, z_k) / q(z_k|x, y)` summed over the labels
    y that can be enumerated, and :math:`W = w / \sum_{y,k} w`:

    - the model climbs :math:`D_K = \log \sum_y \frac1K \sum_k w_{y,k}`;
    - wake: the guide climbs :math:`\sum_{y,k} W_{y,k} \log q(y, z_k | x)`, which tends to
      :math:`-KL(p(y, z|x) \| q)` up to a constant as K grows;
    - sleep: the guide climbs :math:`E_{p(x,y,z)} \log q(y, z | x)` over dreams, one per row, in
      which the sites that the batch observes are observed. Labelled rows therefore dream of
      q(z | x, y) only.

    The value is :math:`-D_K`, minus a lower bound; the guide's two terms add their gradients,
    not their values, as cross-entropies to a posterior that moves would hide what D_K does.

    Args:
        particles: Draws K per row and label.
        wake: Weight of the guide's wake gradient, a number or an :class:`Anneal`.
        sleep: Weight of the guide's sleep gradient, likewise.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Raises:
        ValueError: If an option is out of range, or the guide would not learn at all.
    """

    def __init__(
        self,
        particles: int = 8,
        wake: float | Anneal = 1.0,
        sleep: float | Anneal = 0.0,
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(plate_nesting)
        at_least(particles=(particles, 1))
        check_range("wake", wake, 0)
        check_range("sleep", sleep, 0)
        if wake == 0 and sleep == 0:
            raise ValueError("wake and sleep are both 0, expected one above 0: the guide learns")
        self.particles, self.wake, self.sleep = particles, wake, sleep

    @property
    def formula(self) -> str:
        """The model's side, then the guide's."""
        guide = []
        if self.wake != 0:
            guide.append(f"{written(self.wake)} sum_yk W_yk log q(y,z_k|x)")
        if self.sleep != 0:
            guide.append(f"{written(self.sleep)} E_p(x,y,z) log q(y,z|x)")
        model = f"log sum_y {mean_weight(self.particles)}"
        return f"model: {model}; guide: {' + '.join(guide)}"

    @property
    def part_names(self) -> tuple[str, ...]:
        """The model's bound, which is all of its value."""
        return (BOUND,)

    def weights(self, run: Evaluation) -> Weights:
        """The draws, cut from the gradient."""
        w = run.weights(self.particles, cut="all")
        check_inside_plate(w, "WakeSleep")
        check_unscaled(w)
        return w

    def rows(self, run: Evaluation) -> Tensor:
        """Minus D_K per row, with the gradients of model and guide."""
        w = self.weights(run)
        held = w.log_q.detach() if isinstance(w.log_q, Tensor) else w.log_q
        log_w = w.log_p - held
        labels = log_q_labels(run, w)
        parts = [part for part in (w.log_q, labels) if isinstance(part, Tensor)]
        log_w = at_every_label(log_w, *parts)
        every = (*label_dims(log_w), -2)
        loss = math.log(log_w.shape[-2]) - torch.logsumexp(log_w, every)
        if not parts:
            return loss
        wake, sleep = value_at(self.wake, self.progress), value_at(self.sleep, self.progress)
        if wake > 0:
            held = log_w.detach()
            share = (held - torch.logsumexp(held, every, keepdim=True)).exp()
            loss = loss + wake * _gradient_only(-(share * sum(parts[1:], parts[0])).sum(every))
        if sleep > 0:
            loss = loss + sleep * _gradient_only(dream_loss(run))
        return loss


def dream_loss(run: Evaluation) -> Tensor:
    """Minus log q of the latent sites at dreams of the model, one per row.

    What the model samples is drawn, also where the batch observes it; other values of the
    batch, which the model only reads, stay.

    Returns:
        ``(B,)``, nats.

    Raises:
        UnhandledSite: If the guide samples a site that the model lacks.
    """
    with torch.no_grad():
        dream = poutine.trace(poutine.uncondition(run.model)).get_trace(run.batch)
    values = {name: site["value"] for name, site in random_sites(dream)}
    seen = run.batch.replace({name: values.get(name, v) for name, v in run.batch.items()})
    guide = poutine.trace(poutine.replay(run.guide, trace=dream)).get_trace(seen)
    total: Tensor | None = None
    for name, site in latent_sites(guide):
        if name not in values:
            raise UnhandledSite(f"the guide samples site {name!r}, which the model lacks")
        log_q = row_density(run, site, site["fn"].log_prob(site["value"]))
        total = log_q if total is None else total + log_q
    assert total is not None  # asked for only where the guide samples something
    return -total.reshape(run.batch.count)


def _gradient_only(loss: Tensor) -> Tensor:
    return loss - loss.detach()
