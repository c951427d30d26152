"""Tensor Monte Carlo: every latent site has draws of its own, and all combinations count."""

from __future__ import annotations

import dataclasses
import math
from typing import Any
from weakref import WeakKeyDictionary

import torch
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from torch import Tensor

from ppl_models.config import at_least
from ppl_models.inference.objectives.arithmetic import lambda_bound
from ppl_models.inference.objectives.base import Bound, check_unscaled
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.traces.contraction import Label, Torch
from ppl_models.inference.traces.dry_run import run_within
from ppl_models.inference.traces.evaluation import COMBINATIONS, Ask, Draw, Evaluation, Weights
from ppl_models.inference.traces.sites import (
    check_differentiable,
    enumerated,
    is_local,
    latent_sites,
    model_only,
    random_sites,
)
from ppl_models.inference.traces.weights import Collector, plates_within


class TMC(Bound):
    r"""The bound of Tensor Monte Carlo (Aitchison 2018, arXiv 1806.08593).

    Each of the n continuous sites of the guide is drawn K times per row, and

    .. math:: D_K = \log \sum_y \frac{1}{K^n} \sum_{k_1..k_n}
        \frac{p(x, y, z_1^{k_1}, .., z_n^{k_n})}{\prod_i q_i(z_i^{k_i})}

    averages over all :math:`K^n` combinations, contracted site by site where the model allows.
    Where :math:`q(z_i | z_{pa})` depends on earlier draws, draw k is made given draw k of
    those, and :math:`q_i(z) = \frac1K \sum_k q(z | z_{pa}^k)`: the average inside the log is
    then an unbiased estimate of p(x). Labels are summed out exactly; :math:`\lambda` and the
    distillation are those of :class:`IWELBO`, with these weights.

    Args:
        particles: Draws K per site, row and label.
        lam: :math:`\lambda`, a number or an :class:`Anneal`; above 0 the labels' joint grid
            is formed.
        distil: Weight of the distillation.
        plate_nesting: Number of plate dimensions, the data plate included.
        combinations: Most combinations of labels that are formed jointly.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        particles: int = 8,
        lam: float | Anneal = 1.0,
        distil: float = 1.0,
        plate_nesting: int = 1,
        combinations: int = COMBINATIONS,
    ) -> None:
        super().__init__(plate_nesting)
        at_least(particles=(particles, 1))
        check_range("lam", lam, 0)
        check_range("distil", distil, 0)
        at_least(combinations=(combinations, 1))
        self.particles, self.lam, self.distil = particles, lam, distil
        self.combinations = combinations
        self._weights: WeakKeyDictionary[Evaluation, Weights] = WeakKeyDictionary()

    @property
    def formula(self) -> str:
        """With K and lambda filled in."""
        text = f"log sum_y mean over {self.particles}^n (k1..kn) of p(x,y,z_k1..z_kn) / prod q_i"
        if self.lam != 0:
            text += f" - ({written(self.lam)}) KL(q(y|x) || pi)"
        if self.lam != 1 and self.distil:
            text += f" - {self.distil:g} (1 - lambda) CE(sg(pi), q(y|x))"
        return text

    def weights(self, run: Evaluation) -> Weights:
        """The draws of this bound, a dimension for each site."""
        if run not in self._weights:
            ask = Ask(self.particles, cap=self.combinations)
            key = (frozenset(run.batch), run.plate_nesting, ask, "tensor")
            device = run.batch.rows.device
            self._weights[run] = run_within(
                run.guide, key, ask.cap, device, lambda limit: _tensor_weights(run, ask, limit)
            )
        return self._weights[run]

    def rows(self, run: Evaluation) -> Tensor:
        """Minus the bound per row, plus the distillation of the classifier."""
        w, lam = self.weights(run), value_at(self.lam, self.progress)
        check_unscaled(w)
        labelled = not w.terms["labels"]
        if lam == 0 or labelled:
            loss = -w.log_evidence(Torch())
        else:
            loss = -lambda_bound(w.log_w_labels(Torch()), w.log_q_labels, lam)
        share = self.distil * max(0.0, 1.0 - lam)
        return loss + share * w.distillation() if share > 0 and not labelled else loss


def _tensor_weights(run: Evaluation, ask: Ask, limit: float) -> Weights:
    nesting = run.plate_nesting
    draw_dim = -1 - nesting
    draw = Draw(ask, draw_dim, limit)
    guide = poutine.trace(
        EnumMessenger(first_available_dim=draw_dim - 1)(draw(run.guide))
    ).get_trace(run.batch)
    sampled = dict(latent_sites(guide))
    for name, site in sampled.items():
        check_differentiable(name, site, True, ask.cap)
    labels = {name: site for name, site in sampled.items() if enumerated(site)}
    drawn = [n for n, site in sampled.items() if n not in labels and is_local(site)]
    first = draw_dim - 1 - len(labels)
    dims = {name: first - place for place, name in enumerate(drawn)}

    replayed = guide.copy()
    for name, dim in dims.items():
        site = sampled[name]
        value = _moved(site["value"], draw_dim, dim, site["fn"].event_dim)
        replayed.nodes[name] = {**site, "value": value}
    mark = Draw(dataclasses.replace(ask, particles=1), draw_dim, limit)
    enumeration = EnumMessenger(first_available_dim=first - len(drawn))
    model = poutine.trace(enumeration(poutine.replay(mark(run.model), trace=replayed))).get_trace(
        run.batch
    )

    terms = Collector(run.batch.scale, nesting, labels, model_only(model, sampled))
    for name, dim in dims.items():
        plates = plates_within(sampled[name], nesting)
        terms.sum_over(Label(name, dim, ask.particles, plates, in_guide=False))
    for name, site in sampled.items():
        if name in labels:
            terms.add("labels", name, site, site["fn"].log_prob(site["value"]))
        elif name in dims:
            log_q = _log_mixture(site, replayed.nodes[name]["value"], draw_dim, dims[name])
            terms.add("q", name, site, log_q + math.log(ask.particles))
        else:
            terms.add("q", name, site, site["fn"].log_prob(site["value"]))
    for name, site in random_sites(model):
        terms.add("p", name, site, site["fn"].log_prob(site["value"]))
    return terms.weights(ask.cap, guide, model)


def _log_mixture(site: Any, moved: Tensor, draw_dim: int, dim: int) -> Tensor:
    # The density from which a draw came when the draws before it are summed out.
    fn = site["fn"]
    if not site["infer"]["_given_draws"]:
        log_q: Tensor = fn.log_prob(site["value"])
        return _moved(log_q, draw_dim, dim, 0)
    log_q = fn.log_prob(moved)
    return torch.logsumexp(log_q, draw_dim, keepdim=True) - math.log(log_q.shape[draw_dim])


def _moved(value: Tensor, old: int, new: int, event_dim: int) -> Tensor:
    # From the common dimension of the draws to one of the site's own.
    value = value.reshape((1,) * (event_dim - new - value.dim()) + tuple(value.shape))
    return value.transpose(old - event_dim, new - event_dim)
