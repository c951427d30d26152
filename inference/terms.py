"""Terms that are added to a bound."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ppl_models.inference.evaluation import Evaluation
from ppl_models.inference.objectives import Objective
from ppl_models.inference.schedule import Anneal, check_range, value_at, written


class Classification(Objective):
    r"""Supervised log-likelihood of a label under the guide: the alpha term of M2.

    Adds :math:`\alpha \frac{N}{N_{lab}} \log q(y|x)` per labelled row, so that ``weight`` is
    the paper's: :math:`\alpha N` times the mean over labelled rows (Kingma et al. 2014,
    arXiv 1406.5298, eq. 9, where 0.1 is used). Leaving out N / N_lab is a factor of 500 at 100
    labels. Rows without the label add nothing.

    Args:
        site: The label site; the guide must have a factor for it.
        weight: The paper's :math:`\alpha`, at least 0.
    """

    def __init__(self, site: str, weight: float = 1.0) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"weight of Classification({site!r}) is {weight}, expected >= 0")
        self.site, self.weight = site, weight

    def __repr__(self) -> str:
        """As written."""
        return f"Classification({self.site!r}, weight={self.weight:g})"

    @property
    def formula(self) -> str:
        """The term as added to a bound."""
        return f"{self.weight:g} (N / N_labelled) log q({self.site} | ...)"

    def rows(self, run: Evaluation) -> Tensor:
        """Minus the term per row; zero where the label is missing."""
        batch = run.batch
        if self.site not in batch or self.weight == 0:
            like = next((v for v in batch.values() if v.is_floating_point()), batch.rows)
            return like.new_zeros(batch.count)
        weight = self.weight * batch.total / batch.observed[self.site]
        loss: Tensor = -weight * run.factor(self.site).log_prob(batch[self.site])
        return loss


class Penalty(Objective):
    """A loss of your own, e.g. a statistic of the guide's factors over the batch.

    The function reads what the run offers: ``run.batch``; ``run.factor("z")``, the guide's
    distribution for these rows, which all terms of a step share; ``run.weights()`` with the
    traces of guide and model, whose draws are those of a bound that asks for the same. What
    it returns is made small, with its gradient.

    It counts per row of the data set, as a bound does: a ``(B,)`` result is each row's own loss,
    and a scalar, a statistic of the batch, is taken as the loss of every row. Either way the
    term of the whole data set is N times the weight times its mean over rows, and so a paper's
    weight beside a bound averaged over rows is the weight here.

    Args:
        name: Shown in the formula.
        function: From the run on a batch to a scalar or ``(B,)``, in nats times the weight's
            unit.
        weight: Its weight, a number or an :class:`Anneal`.
        plate_nesting: Number of plate dimensions, the data plate included.

    Raises:
        ValueError: If the weight is not finite, or the result has another shape.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[Evaluation], Tensor],
        weight: float | Anneal = 1.0,
        plate_nesting: int = 1,
    ) -> None:
        super().__init__(plate_nesting)
        check_range(f"weight of Penalty({name!r})", weight)
        self.name, self.function, self.weight = name, function, weight

    def __repr__(self) -> str:
        """As written."""
        return f"Penalty({self.name!r}, weight={written(self.weight)})"

    @property
    def formula(self) -> str:
        """The term as added to a bound."""
        return f"-{written(self.weight)} {self.name}"

    def rows(self, run: Evaluation) -> Tensor:
        """The penalty per row."""
        loss = self.function(run)
        count = run.batch.count
        if loss.shape not in ((), (count,)):
            raise ValueError(
                f"penalty {self.name!r} has shape {tuple(loss.shape)}, expected a scalar or "
                f"({count},), one loss per row"
            )
        return value_at(self.weight, self.progress) * loss.expand(count)
