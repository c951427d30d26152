"""The supervised log-likelihood of a label, as a term that is added to a bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ppl_models.guides.protocol import listed, offering
from ppl_models.inference.objectives.arithmetic import zero_loss
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.schedule import check_range
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.per_row import mean_of_draws


class Classification(Objective):
    r"""Supervised log-likelihood of a label under the guide: the alpha term of M2.

    Adds :math:`\alpha \frac{N}{N_{lab}} \log q(y|x)` per labelled row, so that ``weight`` is
    the paper's: :math:`\alpha N` times the mean over labelled rows (Kingma et al. 2014,
    arXiv 1406.5298, eq. 9, where 0.1 is used). Leaving out N / N_lab is a factor of 500 at 100
    labels. Rows without the label add nothing.

    Where the guide samples what the label's factor is given, the term is taken at the draws of
    the bound beside it, on average over them and over missing labels.

    Args:
        site: The label site; the guide must have a factor for it.
        weight: The paper's :math:`\alpha`, at least 0.
        classes: Weight of each class, at least 0, where classes count differently.

    Raises:
        ValueError: If an option is out of range, or ``classes`` has another length than there
            are classes.
    """

    def __init__(
        self,
        site: str,
        weight: float = 1.0,
        classes: Sequence[float] = (),
    ) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"weight of Classification({site!r}) is {weight}, expected >= 0")
        for number in classes:
            check_range(f"a class weight of Classification({site!r})", number, 0)
        self.site, self.weight, self.classes = site, weight, tuple(classes)

    @property
    def formula(self) -> str:
        """The term as added to a bound."""
        classes = f"c({self.site}) " if self.classes else ""
        return f"{self.weight:g} (N / N_labelled) {classes}log q({self.site} | ...)"

    def rows(self, run: Evaluation) -> Tensor:
        """Minus the term per row; zero where the label is missing."""
        batch = run.batch
        if self.site not in batch or self.weight == 0:
            return zero_loss(run)
        loss = -self.weight * batch.total / batch.observed[self.site] * self._log_q(run)
        if not self.classes:
            return loss
        # By comparison: a tensor of the weights would have to come from the host at each step.
        weights = [c * (batch[self.site] == k) for k, c in enumerate(self.classes)]
        return sum(weights[1:], weights[0]) * loss

    def _log_q(self, run: Evaluation) -> Tensor:
        batch, given = run.batch, listed(run.guide) or {}
        if all(name in batch for name in given.get(self.site, ())):
            q = run.factor(self.site)
            self._check_classes(q)
            log_q: Tensor = q.log_prob(batch[self.site])
            return log_q
        q = offering(run.guide, self.site).factor(self.site, {**run.drawn.draws, **batch})
        self._check_classes(q)
        return mean_of_draws(run.drawn, q.log_prob(batch[self.site]))

    def _check_classes(self, q: Any) -> None:
        if not self.classes:
            return
        count = len(q.enumerate_support(expand=False))
        if len(self.classes) != count:
            raise ValueError(
                f"Classification({self.site!r}) has {len(self.classes)} class weights, expected "
                f"{count}, one per class"
            )
