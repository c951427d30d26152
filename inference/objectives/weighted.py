"""A bound whose kinds of rows, and whose sites outside the data plate, have weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from ppl_models.inference.objectives.base import Composed, Objective
from ppl_models.inference.objectives.loss_parts import parts_of, weighted
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.traces.evaluation import Evaluation, Lead


class Weighted(Composed):
    r"""A bound in which a few labelled rows, or shared sites, count more or less.

    With N rows, of which M observe the site ``balance``, rows that observe it count N / M times
    and the others N / (N - M) times: N times the sum of the two means, which is how most code
    adds a labelled and an unlabelled batch up (Gordon and Hernandez-Lobato 2017,
    arXiv 1706.09751, and others). Where all rows are of one kind nothing changes. Weights stand
    outside every log. With either option the sum is no bound of the log evidence.

    Args:
        bound: The bound, or a sum.
        balance: The site; empty for none.
        outside: Weight of log p - log q of the sites outside the data plate, a number or an
            :class:`Anneal`; below 1 their posterior is colder than Bayes'.

    Raises:
        ValueError: If the weight is negative or not finite.
    """

    kept_as: ClassVar = {**Objective.kept_as, "outside": "weight"}

    def __init__(self, bound: Objective, balance: str = "", outside: float | Anneal = 1.0) -> None:
        super().__init__(bound.max_plate_nesting)
        check_range("outside of Weighted", outside, 0)
        self.bound, self.balance, self.weight = bound, balance, outside

    @property
    def formula(self) -> str:
        """The bound with its weights."""
        site = self.balance
        rows = f"[N / N({site} seen) or N / N({site} missing)] " if site else ""
        shared = "" if self.weight == 1 else f", outside the rows times {written(self.weight)}"
        return f"{rows}{{{self.bound.formula}}}{shared}" if rows or shared else self.bound.formula

    def at(self, progress: float) -> None:
        """Hand the progress to the bound."""
        super().at(progress)
        self.bound.at(progress)

    def lead(self, run: Evaluation) -> Lead | None:
        """What the bound draws."""
        return self.bound.lead(run)

    @property
    def across_rows(self) -> bool:  # type: ignore[override]
        """Whether the bound is."""
        return self.bound.across_rows

    @property
    def part_names(self) -> tuple[str, ...]:
        """The bound's; a bound with weights is named as such."""
        return tuple(map(self._told, self.bound.part_names))

    def rows_by_part(self, run: Evaluation) -> dict[str, Tensor]:
        """The bound's loss per row, times the weight of its kind."""
        batch = run.batch
        if not self.balance:
            return self._by_part("rows", run, 1)
        seen = batch.observed.get(self.balance, 0)
        kind = seen if self.balance in batch else batch.total - seen
        return self._by_part("rows", run, batch.total / kind)

    def across_by_part(self, runs: Sequence[Evaluation]) -> dict[str, Tensor | float]:
        """The bound's loss that spans kinds of rows."""
        return self._by_part("across", runs, 1)

    def outside_by_part(self, run: Evaluation) -> dict[str, Tensor | float]:
        """The bound's loss outside the data plate, times its weight."""
        return self._by_part("outside", run, value_at(self.weight, self.progress))

    def _by_part(self, what: str, argument: Any, weight: float) -> dict[str, Any]:
        parts = parts_of(self.bound, what, argument).items()
        return {self._told(n): loss if weight == 1 else weight * loss for n, loss in parts}

    def _told(self, name: str) -> str:
        plain = not self.balance and self.weight == 1
        return name if plain else weighted(name, 0.0)
