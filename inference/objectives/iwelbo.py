"""The importance-weighted bound with labels summed inside the log."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ppl_models.config import at_least
from ppl_models.inference.objectives.arithmetic import (
    check_unscaled,
    dreg_coefficients,
    label_posterior,
    lambda_bound,
    log_mean_weight,
    plain_coefficients,
)
from ppl_models.inference.objectives.base import Bound, check_choice
from ppl_models.inference.objectives.formulas import mean_weight
from ppl_models.inference.objectives.loss_parts import BOUND, DISTILLATION
from ppl_models.inference.objectives.schedule import Anneal, check_range, smallest, value_at
from ppl_models.inference.traces.backends import BACKENDS, backend
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.weights import Weights
from ppl_models.sample_sites import COMBINATIONS


class IWELBO(Bound):
    r"""The importance-weighted bound with missing labels summed inside the log, row by row.

    :math:`L_\lambda = D_K - \lambda KL(q(y|x) \| \pi)` with
    :math:`D_K = \log \sum_y \frac1K \sum_k w_{y,k}` and :math:`\pi` the label posterior that the
    weights imply: a lower bound of log p(x) for every :math:`\lambda \ge 0`. At
    :math:`\lambda = 1`, K = 1 it is M2's bound; at 0 it is tightest, but q(y|x) gets no
    gradient, so where :math:`\lambda < 1` the classifier is also distilled from :math:`\pi`:
    the loss gains :math:`(1 - \lambda)\, distil\, CE(\mathrm{sg}(\pi), q(y|x))` on rows whose
    label is missing. Without missing labels it is the bound of Burda et al. 2016
    (arXiv 1509.00519).

    Args:
        particles: Draws K per row and label, averaged inside the log.
        lam: :math:`\lambda`, a number or an :class:`Anneal`.
        grad: ``"plain"``; ``"dreg"``, doubly reparameterised for the guide (Tucker et al.
            2019, arXiv 1810.04152; weights normalised jointly over label and draw);
            ``"stl"``, allowed only at K = 1 and :math:`\lambda = 1`, where it is unbiased.
        distil: Weight of the distillation.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.
        backend: ``"torch"``, or ``"funsor"`` to contract by named dimensions; not for
            ``grad="dreg"``, nor for K > 1 at :math:`\lambda > 0`, which form the joint weights.
        combinations: Most combinations of labels that are formed jointly. Several labels, also
            in plates within the rows, are contracted one by one where K = 1 or
            :math:`\lambda = 0`, and summed over their joint grid otherwise.

    Raises:
        ValueError: If an option is out of range, or sticking-the-landing would be biased.
    """

    def __init__(
        self,
        particles: int = 8,
        lam: float | Anneal = 1.0,
        grad: Literal["plain", "dreg", "stl"] = "plain",
        distil: float = 1.0,
        plate_nesting: int | None = None,
        backend: Literal["torch", "funsor"] = "torch",
        combinations: int = COMBINATIONS,
    ) -> None:
        super().__init__(plate_nesting)
        at_least(particles=(particles, 1))
        check_choice("backend", backend, BACKENDS)
        at_least(combinations=(combinations, 1))
        check_choice("grad", grad, ("plain", "dreg", "stl"))
        check_range("lam", lam, 0)  # else it is no bound
        check_range("distil", distil, 0)
        if grad == "stl" and (particles != 1 or lam != 1):
            raise ValueError(
                'grad="stl" is biased for this bound unless particles=1 and lam=1; use grad="dreg"'
            )
        if backend != "torch" and (grad == "dreg" or (particles > 1 and lam != 0)):
            raise ValueError(
                f"backend={backend!r} contracts labels one by one, which needs particles=1 or "
                'lam=0, and grad="plain" or "stl"'
            )
        self.particles, self.lam, self.grad, self.distil = particles, lam, grad, distil
        self.backend, self.combinations = backend, combinations

    @property
    def formula(self) -> str:
        """With K and lambda filled in."""
        text = f"log sum_y {mean_weight(self.particles)}"
        if self.lam != 0:
            lam = self.lam if isinstance(self.lam, Anneal) else f"{self.lam:g}"
            text += f" - ({lam}) KL(q(y|x) || pi)"
        if self.lam != 1 and self.distil:
            text += f" - {self.distil:g} (1 - lambda) CE(sg(pi), q(y|x))"
        return text

    @property
    def current_lam(self) -> float:
        """Lambda at the present progress of training."""
        return value_at(self.lam, self.progress)

    def weights(self, run: Evaluation) -> Weights:
        """The draws of this bound."""
        return run.weights(
            self.particles,
            path=self.grad != "plain",
            bridge=self.grad == "dreg",
            cap=self.combinations,
        )

    def bound(self, w: Weights) -> Tensor:
        """The bound L_lambda per row ``(B,)``, differentiable as ``grad`` says."""
        lam = self.current_lam
        if self.particles > 1 or lam != 1:
            check_unscaled(w)
        if self.grad == "dreg":
            return _dreg(w, lam)
        if self._contracts(w):
            by = backend(self.backend, self.combinations)
            if lam in (0, 1):
                return w.elbo(by) if lam else w.log_evidence(by)
            return (1 - lam) * w.log_evidence(by) + lam * w.elbo(by)
        return lambda_bound(log_mean_weight(w.log_w), w.log_q_labels, lam)

    @property
    def part_names(self) -> tuple[str, ...]:
        """The bound, and the distillation where lambda is ever below 1."""
        return names_with_distillation(self.lam, self.distil)

    def rows_by_part(self, run: Evaluation) -> dict[str, Tensor]:
        """Minus the bound per row, and the distillation of the classifier."""
        w = self.weights(run)
        loss = -self.bound(w)
        if DISTILLATION not in self.part_names:
            return {BOUND: loss}
        share = self.distil * max(0.0, 1.0 - self.current_lam)
        distillation = loss.new_zeros(loss.shape)
        if share > 0 and self._contracts(w):
            distillation = share * w.distillation()
        elif share > 0 and w.log_q_labels is not None:
            labels = tuple(range(-w.log_q_labels.dim(), -2))
            pi = label_posterior(log_mean_weight(w.log_w.detach()), labels).exp()
            distillation = -share * (pi * w.log_q_labels).sum(labels).squeeze(0)
        return {BOUND: loss, DISTILLATION: distillation}

    def _contracts(self, w: Weights) -> bool:
        # With several draws inside the log, B_K needs the weight of each joint label.
        linear = self.particles == 1 or self.current_lam == 0
        return self.grad != "dreg" and linear and (w.term_by_term or self.backend != "torch")


def names_with_distillation(lam: float | Anneal, distil: float) -> tuple[str, ...]:
    """Names of the parts of a bound that is distilled from where lambda is below 1."""
    return (BOUND, DISTILLATION) if distil > 0 and smallest(lam) < 1 else (BOUND,)


def _dreg(w: Weights, lam: float) -> Tensor:
    # One graph, three gradients: the model's parameters take the plain coefficients r, the
    # path through the draws the doubly reparameterised ones c, and q(y | x) its own.
    log_w = w.log_w.detach()
    log_q = w.log_q_labels
    value = lambda_bound(log_mean_weight(log_w), log_q, lam)
    held = None if log_q is None else log_q.detach()
    r = plain_coefficients(log_w, held, lam)
    inner = w.nesting - 1  # plates within the row, which joint tensors have summed
    c = dreg_coefficients(log_w, held, lam, tuple(dim + inner for dim in w.shared))
    ratio = c / r.clamp_min(torch.finfo(r.dtype).tiny)  # at most 1, as c <= r

    for bridge, event_dims in w.bridges:
        if bridge.requires_grad:
            scale = ratio.reshape(
                *ratio.shape[:-1], *[1] * inner, ratio.shape[-1], *[1] * event_dims
            )
            bridge.register_hook(lambda g, scale=scale: g * scale)
    every = tuple(range(w.log_p.dim() - 1))
    surrogate = (r * w.log_p - c * w.log_q).sum(every)
    return value + surrogate - surrogate.detach()
