"""A loss of your own, as a term that is added to a bound."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.loss_parts import name_of
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.traces.evaluation import Evaluation


class Penalty(Objective):
    """A loss of your own, e.g. a statistic of the guide's factors over the batch.

    The function reads what the run offers: ``run.batch``; ``run.codes("z")``, the guide's
    distribution of a site and its draws, which are those of the bound beside it;
    ``run.likelihood("x")``, the model's distribution at them; ``run.lead``, all of that run;
    ``run.factor("z")``, the guide's distribution outside of it. What it returns is made small,
    with its gradient.

    It counts per row of the data set, as a bound does: a ``(B,)`` result is each row's own loss,
    and a scalar, a statistic of the batch, is taken as the loss of every row. Either way the
    term of the whole data set is N times the weight times its mean over rows, and so a paper's
    weight beside a bound averaged over rows is the weight here.

    Args:
        name: Shown in the formula.
        function: From the run on a batch to a scalar or ``(B,)``, in nats times the weight's
            unit.
        weight: Its weight, a number or an :class:`Anneal`.
        across_rows: Whether the function looks at several rows together. It then takes what it
            compares from ``run.every_row(...)``, so that several processes see all rows, and
            there is no loss of a single row.
        plate_nesting: Number of plate dimensions, the data plate included.

    Raises:
        ValueError: If the weight is not finite, or the result has another shape.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[Evaluation], Tensor],
        weight: float | Anneal = 1.0,
        across_rows: bool = False,
        plate_nesting: int = 1,
    ) -> None:
        super().__init__(plate_nesting)
        check_range(f"weight of Penalty({name!r})", weight)
        self.name, self.function, self.weight = name, function, weight
        self.across_rows = across_rows

    @property
    def formula(self) -> str:
        """The term as added to a bound."""
        return f"-{written(self.weight)} {self.name}"

    @property
    def part_names(self) -> tuple[str, ...]:
        """The penalty, with its name."""
        return (name_of(self, self.name),)

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
