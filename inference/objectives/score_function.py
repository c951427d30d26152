"""Score-function gradients for discrete sites that are too large to enumerate."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ppl_models.config import at_least
from ppl_models.inference.objectives.arithmetic import check_unscaled, log_mean_weight
from ppl_models.inference.objectives.base import Bound, check_choice
from ppl_models.inference.objectives.formulas import expected, mean_weight, over_labels
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.per_row import check_inside_plate, label_dims, log_q_labels
from ppl_models.inference.traces.sites import UnhandledSite
from ppl_models.inference.traces.weights import Weights


class ScoreELBO(Bound):
    r"""A bound whose discrete draws get their gradient through the score of the guide.

    Sites with a reparameterised distribution keep their path gradient, and sites that can be
    listed are summed out. For the others, h, each of K draws of a row is compared with the
    K - 1 others of that row:
    :math:`\frac1K \sum_k (f_k - \frac1{K-1} \sum_{j \ne k} f_j) \nabla \log q(h_k|x)` for the
    ELBO (Mnih and Rezende 2016, arXiv 1602.06725; Kool et al. 2019), where
    :math:`f = \log p - \log q`; for the K-sample bound (``inside=True``)
    :math:`\sum_k (L - L_{-k}) \nabla \log q(h_k|x)` with the k-th log weight replaced by the mean
    of the others in :math:`L_{-k}` (VIMCO, same paper, eq. 10). Both are unbiased.

    Args:
        particles: Draws K per row, at least 2 where they are compared.
        baseline: ``"leave_one_out"``, or ``"none"`` for the bare and noisy score.
        inside: Average inside the log, per value of the summed sites; these must then not
            depend on the draws.
        enumerate_labels: Sum out the sites that can be listed; else they are drawn as well.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        particles: int = 2,
        baseline: Literal["leave_one_out", "none"] = "leave_one_out",
        inside: bool = False,
        enumerate_labels: bool = True,
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(plate_nesting)
        check_choice("baseline", baseline, ("leave_one_out", "none"))
        at_least(particles=(particles, 2 if baseline == "leave_one_out" else 1))
        self.particles, self.baseline = particles, baseline
        self.inside, self.enumerate_labels = inside, enumerate_labels

    @property
    def formula(self) -> str:
        """The bound, with y for the sites that are summed out."""
        labels = self.enumerate_labels
        if self.inside:
            bound = f"log {mean_weight(self.particles, 'h_k,z_k', labels)}"
        else:
            bound = expected("h,z", labels)
        return over_labels(bound) if labels else bound

    def weights(self, run: Evaluation) -> Weights:
        """The draws, those of discrete sites cut from the gradient."""
        w = run.weights(self.particles, enumerate_labels=self.enumerate_labels, cut="discrete")
        check_inside_plate(w, "ScoreELBO", discrete=True)
        return w

    def rows(self, run: Evaluation) -> Tensor:
        """Minus the bound per row, with the score added to its gradient."""
        w = self.weights(run)
        labels = log_q_labels(run, w)
        if self.inside:
            check_unscaled(w)
            if labels is not None and labels.shape[-2] > 1:
                raise UnhandledSite(
                    "the guide samples an enumerated site after a drawn one; ScoreELBO with "
                    "inside=True needs the enumerated ones first, expected inside=False"
                )
        f = w.log_w if labels is None else w.log_w - labels
        if self.inside:
            bound: Tensor = log_mean_weight(f)
        else:  # one term per draw
            bound = f / f.shape[-2]
        if isinstance(w.log_q_cut, Tensor):
            if not self.inside:  # outside a log the gradient of the draws' log q has mean zero
                bound = bound + _gradient_only(w.log_q_cut) / f.shape[-2]
            signal = self._signal(f.detach(), None if labels is None else labels.detach())
            score = _gradient_only(signal * w.log_q_cut)
            bound = bound + (score.sum(-2, keepdim=True) if self.inside else score / f.shape[-2])
        summed = bound if labels is None else labels.exp() * bound
        return -summed.sum((*label_dims(summed), -2))

    def _signal(self, f: Tensor, labels: Tensor | None) -> Tensor:
        # What each draw is credited with, (E..., K, B).
        K = f.shape[-2]
        if self.baseline == "none":
            return log_mean_weight(f) if self.inside else f
        if not self.inside:
            compared = f
            if labels is not None and labels.shape[-2] > 1:
                # Where q(y | h) varies with the draw, a baseline per label would be weighted by
                # it and no longer have mean zero.
                compared = (labels.exp() * f).sum(label_dims(f, labels), keepdim=True)
            return f - (compared.sum(-2, keepdim=True) - compared) / (K - 1)
        others = (f.sum(-2, keepdim=True) - f) / (K - 1)
        own = torch.eye(K, dtype=torch.bool, device=f.device).unsqueeze(-1)
        replaced = torch.where(own, others.unsqueeze(-3), f.unsqueeze(-2))  # (E..., j, k, B)
        without = torch.logsumexp(replaced, -3) - math.log(K)
        return log_mean_weight(f) - without


def _gradient_only(value: Tensor) -> Tensor:
    return value - value.detach()
