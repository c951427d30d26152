"""The bound for guides in which observed sites hang on latent ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ppl_models.config import at_least
from ppl_models.guides.protocol import offering
from ppl_models.inference.objectives.arithmetic import check_unscaled
from ppl_models.inference.objectives.base import Bound, check_choice
from ppl_models.inference.objectives.loss_parts import BOUND, CLASSIFICATION, weighted
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.per_row import (
    at_every_label,
    check_inside_plate,
    label_dims,
    log_q_labels,
)
from ppl_models.inference.traces.sites import UnhandledSite, latent_sites
from ppl_models.inference.traces.weights import Weights


class SelfNormalisedELBO(Bound):
    r"""The semi-supervised bound of Siddharth et al. 2017 (arXiv 1706.00400, Section 3).

    Serves every guide whose factors can be scored: :math:`q(y|x) q(z|x,y)` as well as
    :math:`q(z|x) q(y|x,z)`, where q(z | x, y) has no closed form. With draws :math:`z_s` of the
    sampled factors :math:`\tilde q`, :math:`v_s` the product of the observed sites' factors at
    them and :math:`V_s = v_s / \sum_s v_s`, the bound of log p(x, y) is

    :math:`\sum_s V_s [\log p(x,y,z_s) - \log \tilde q(z_s|x) - \log v_s]
    + (1 + \alpha) \log \hat q(y|x)`.

    Discrete sites that are missing are summed out, and the weights then run over their values
    too. Where no site of the guide is observed all weights are equal, the last term is zero,
    and the bound is the :class:`EnumeratedELBO` (of K draws, averaged outside the log).
    Gradients flow through the weights.

    At any number of draws, and :math:`\gamma = 1`, it is a lower bound of log p(x, y) in
    expectation: with ``"lme"`` it is :math:`\sum_s V_s \log (w_s / (S V_s))` at the weights
    :math:`w_s = p(x,y,z_s) / \tilde q(z_s|x)`, which Jensen's inequality puts below
    :math:`\log \frac1S \sum_s w_s`. It is low at few draws: see :meth:`effective_draws`.

    Args:
        particles: Draws S per row.
        logq: ``"lme"`` takes :math:`\log \frac1S \sum_s v_s`, which is consistent,
            ``"jensen"`` the published :math:`\frac1S \sum_s \log v_s`, a lower bound of it.
        alpha: Extra weight of log q(y | x) per row, a number or an :class:`Anneal`; not
            multiplied by N / N_lab.
        gamma: Weight of rows that observe a site of the guide; see :func:`supervision`.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        particles: int = 8,
        logq: Literal["lme", "jensen"] = "lme",
        alpha: float | Anneal = 0.0,
        gamma: float | Anneal = 1.0,
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(plate_nesting)
        at_least(particles=(particles, 1))
        check_choice("logq", logq, ("lme", "jensen"))
        check_range("alpha", alpha, 0)
        check_range("gamma", gamma, 0)
        self.particles, self.logq, self.alpha, self.gamma = particles, logq, alpha, gamma

    @property
    def formula(self) -> str:
        """For a row with labels."""
        gamma = "" if self.gamma == 1 else f"{written(self.gamma)} "
        bound = "sum_s V_s [log p(x,y,z_s) - log q(y,z_s|x)]"
        return f"{gamma}{{{bound} + (1 + {written(self.alpha)}) log q(y|x)}}"

    def weights(self, run: Evaluation) -> Weights:
        """The draws of this bound."""
        return run.weights(self.particles)

    def effective_draws(self, run: Evaluation) -> Tensor:
        r"""How many equal draws the weights are worth per row ``(B,)``, between 1 and S.

        :math:`1 / \sum_s V_s^2`; its mean over missing labels.
        """
        log_v, prior = self._observed(run)
        joint = prior if log_v is None else log_v + prior
        every = (*label_dims(joint), -2)
        of_label = torch.logsumexp(joint, -2, keepdim=True)
        squares = torch.logsumexp(2 * torch.log_softmax(joint, -2), -2, keepdim=True)
        share = (of_label - torch.logsumexp(joint, every, keepdim=True)).exp()
        return (share * (-squares).exp()).sum(every)

    @property
    def part_names(self) -> tuple[str, ...]:
        """The bound, and the extra weight of log q(y | x)."""
        return names_with_classification(BOUND, self.alpha, self.gamma)

    def rows_by_part(self, run: Evaluation) -> dict[str, Tensor]:
        """Minus the bound per row, and the extra weight of log q(y | x)."""
        alpha, gamma = (value_at(n, self.progress) for n in (self.alpha, self.gamma))
        bound, log_q = self._bound(run)
        if log_q is None:
            losses = (-bound, bound.new_zeros(bound.shape))
        else:
            losses = (-gamma * (bound + log_q), -gamma * alpha * log_q)
        return dict(zip(self.part_names, losses, strict=False))

    def _bound(self, run: Evaluation) -> tuple[Tensor, Tensor | None]:
        # Without log q(y | x); and that, where a site of the guide is observed.
        w = self.weights(run)
        labels = log_q_labels(run, w)
        log_v, prior = self._observed(run)
        log_w = w.log_w if labels is None else w.log_w - labels
        if log_v is None:
            return (prior.exp() * log_w).sum((*label_dims(prior, log_w), -2)), None
        check_unscaled(w)
        check_inside_plate(w, type(self).__name__)  # a draw that rows share has no weights by row
        joint = at_every_label(log_v + prior, log_w)
        every = (*label_dims(joint), -2)
        log_mean = torch.logsumexp(joint, every, keepdim=True)
        bound = ((joint - log_mean).exp() * (log_w - log_v)).sum(every)
        if self.logq == "lme":
            return bound, log_mean.reshape(bound.shape)
        return bound, (prior.exp() * log_v).sum((*label_dims(prior, log_v), -2))

    def _observed(self, run: Evaluation) -> tuple[Tensor | None, Tensor]:
        # log v, None without observed sites of the guide; and the log probability with which
        # a (label, draw) comes up before it is weighted. Both broadcast to (E..., S, B).
        w = self.weights(run)
        labels = log_q_labels(run, w)
        prior = torch.full_like(w.log_p[..., :1, :], -math.log(self.particles))
        prior = prior.expand(*prior.shape[:-2], self.particles, prior.shape[-1])
        # Without labels the dimensions of w hold sites of the model alone, already summed.
        return observed_log_q(run, w), prior if labels is None else prior + labels


def names_with_classification(
    name: str, alpha: float | Anneal, gamma: float | Anneal
) -> tuple[str, ...]:
    """Names of the parts of a bound that weighs log q(y | x) more, and rows with labels."""
    name = weighted(name, gamma)
    return (name, CLASSIFICATION) if alpha != 0 else (name,)


def observed_log_q(run: Evaluation, w: Weights) -> Tensor | None:
    """Log density of the observed sites under their factors at the guide's draws.

    Returns:
        ``(E..., K, B)``, any of the first of size 1; None if the batch observes none of them.

    Raises:
        TypeError: If the guide does not list its factors.
        UnhandledSite: If a factor has more dimensions than the rows' own.
    """
    draws = {name: site["value"] for name, site in latent_sites(w.guide)}
    found = list(observed_factors(run, draws).values())
    return sum(found[1:], found[0]) if found else None


def observed_factors(run: Evaluation, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Log density of each observed site of the guide under its factor.

    Args:
        run: The run.
        draws: Values of the guide's latent sites.

    Returns:
        By site ``(E..., K, B)``, any of the first of size 1.

    Raises:
        TypeError: If the guide does not list its factors.
        UnhandledSite: If a factor has more dimensions than the rows' own.
    """
    values, nesting = {**run.batch, **draws}, run.plate_nesting
    found: dict[str, Tensor] = {}
    for name in observed_sites(run):
        log_q = offering(run.guide, name).factor(name, values).log_prob(run.batch[name])
        log_q = log_q.reshape((1,) * (nesting + 1 - log_q.dim()) + log_q.shape)
        if nesting > 1:
            if any(size > 1 for size in log_q.shape[-nesting:-1]):
                raise UnhandledSite(
                    f"the factor of site {name!r} has shape {tuple(log_q.shape)}, expected one "
                    "value per row"
                )
            log_q = log_q.sum(tuple(range(-nesting, -1)))
        found[name] = log_q
    return found


def observed_sites(run: Evaluation) -> list[str]:
    """Sites of the guide that the batch observes.

    Raises:
        TypeError: If the guide does not list its factors.
    """
    guide = offering(run.guide, *run.batch, needs=("given", "factor"))
    return [name for name in guide.given if name in run.batch]


def supervision(rate: float, labelled: int, unlabelled: int) -> float:
    r"""The weight gamma at which labelled rows make up a share of the objective.

    :math:`\rho = \gamma M / (N + \gamma M)` solved for :math:`\gamma`; a rate of M / (N + M)
    gives 1.

    Args:
        rate: The share rho, in (0, 1).
        labelled: Number of labelled rows M.
        unlabelled: Number of unlabelled rows N.

    Raises:
        ValueError: If the rate is not inside (0, 1) or a number of rows is below 1.
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate is {rate}, expected a number between 0 and 1")
    if labelled < 1 or unlabelled < 1:
        raise ValueError(
            f"got {labelled} labelled and {unlabelled} unlabelled rows, expected >= 1"
        )
    return rate * unlabelled / ((1 - rate) * labelled)
