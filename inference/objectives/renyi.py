"""The variational Renyi bound, per row and with labels summed inside the log."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppl_models.config import at_least
from ppl_models.inference.objectives.arithmetic import check_unscaled, mean_bound
from ppl_models.inference.objectives.base import Bound
from ppl_models.inference.objectives.formulas import expected, over_labels
from ppl_models.inference.objectives.loss_parts import BOUND, ESTIMATE
from ppl_models.inference.objectives.schedule import (
    Anneal,
    check_range,
    smallest,
    value_at,
    written,
)
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.per_row import at_every_label, label_dims
from ppl_models.inference.traces.weights import Weights

NEAR_ONE = 1e-3  # closer to alpha = 1 the difference of logs loses its digits


class Renyi(Bound):
    r"""The VR bound of Li and Turner 2016 (arXiv 1602.02311, eq. 12), K draws per row.

    :math:`\frac1{1-\alpha} \log \sum_y q(y|x) \frac1K \sum_k
    (w_{y,k} / q(y|x))^{1-\alpha}` with :math:`w_{y,k} = p(x, y, z_k) / q(z_k|x,y)`: missing
    labels are summed, each row has its own log and N / B stays outside. At
    :math:`\alpha = 0` it is :math:`D_K`, at 1 the :class:`EnumeratedELBO`, between them a lower
    bound of both log p(x) and :math:`D_K`; below 0 it is no lower bound. As alpha grows the
    guide covers less and seeks one mode.

    Args:
        particles: Draws K per row and label.
        alpha: The order, any finite number, or an :class:`Anneal`.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self, particles: int = 8, alpha: float | Anneal = 0.5, plate_nesting: int | None = None
    ) -> None:
        super().__init__(plate_nesting)
        at_least(particles=(particles, 1))
        check_range("alpha", alpha)
        self.particles, self.alpha = particles, alpha

    @property
    def formula(self) -> str:
        """With K and alpha filled in."""
        if self.alpha == 1:
            return over_labels(expected())
        power = f"1 - {written(self.alpha)}"
        inside = f"q(y|x)/{self.particles} sum_k (p(x,y,z_k) / q(y,z_k|x))^({power})"
        return f"1/({power}) log sum_y {inside}"

    @property
    def part_names(self) -> tuple[str, ...]:
        """A bound unless alpha is ever below 0."""
        return (BOUND,) if smallest(self.alpha) >= 0 else (ESTIMATE,)

    def weights(self, run: Evaluation) -> Weights:
        """The draws of this bound."""
        return run.weights(self.particles)

    def rows(self, run: Evaluation) -> Tensor:
        """Minus the bound per row."""
        w = self.weights(run)
        power = 1 - value_at(self.alpha, self.progress)
        if power == 0:
            return -mean_bound(w.log_w, w.log_q_labels_by_draw)
        check_unscaled(w)
        log_q = w.log_q_labels_by_draw
        log_q = torch.zeros_like(w.log_p[..., :1, :]) if log_q is None else log_q
        log_w = w.log_w - log_q
        every = (*label_dims(log_w), -2)
        log_w = at_every_label(log_w, log_q)
        log_share = log_q - math.log(log_w.shape[-2])  # one draw where nothing is drawn
        if power > NEAR_ONE or power < -NEAR_ONE:
            return -torch.logsumexp(log_share + power * log_w, every) / power
        share = log_share.exp()
        mean = (share * log_w).sum(every, keepdim=True)
        excess = (share * torch.expm1(power * (log_w - mean))).sum(every)
        return -(mean.reshape(excess.shape) + torch.log1p(excess) / power)
