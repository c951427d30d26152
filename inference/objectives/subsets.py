"""A bound of all sites that a row has, and of subsets of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import at_least, names
from ppl_models.inference.objectives.base import Composed, Objective
from ppl_models.inference.objectives.loss_parts import added, name_of, parts_of
from ppl_models.inference.traces.evaluation import Evaluation, Lead
from ppl_models.modalities import has, mark, only


class Subsets(Composed):
    r"""A bound of what a row has, plus that of each site alone, plus that of random subsets.

    :math:`L(x) + \sum_m L(x_m) + \sum_{r=1}^R L(x_{S_r})`, the sub-sampled training of MVAE (Wu
    and Goodman 2018, arXiv 1802.05335, eq. 5): with the first alone an encoder of one site is
    never asked for what it knows without the others. The sums are over sites that the row has.
    Each further bound draws anew; sites outside the data plate count once.

    Args:
        bound: The bound, whose rows do not look at each other.
        sites: Sites of the data that rows may lack.
        random: Random subsets R of each row: each of its sites with probability 1/2, all where
            that leaves none.

    Raises:
        ValueError: If the bound has a statistic of the batch, or ``random`` is negative.
    """

    def __init__(self, bound: Objective, sites: Sequence[str], random: int = 0) -> None:
        super().__init__(bound.max_plate_nesting)
        at_least(random=(random, 0))
        if bound.across_rows:
            raise ValueError(
                f"the rows of {bound!r} look at each other, and some of them lack a site; "
                "expected a bound of single rows"
            )
        self.bound, self.sites, self.random = bound, names("sites of Subsets", sites), random

    @property
    def formula(self) -> str:
        """All sites, and then the others."""
        some = f" + sum of {self.random} random subsets of {', '.join(self.sites)}"
        alone = f"sum of the same of {', '.join(self.sites)}, each alone"
        return f"{self.bound.formula}  +  {alone}{some if self.random else ''}"

    @property
    def draws(self) -> bool:
        """Whether it draws numbers of its own, beside the guide's: which sites are kept."""
        return self.random > 0

    @property
    def part_names(self) -> tuple[str, ...]:
        """Those of the bound, and all that is of subsets."""
        return (*self.bound.part_names, name_of(self, *self.sites))

    def at(self, progress: float) -> None:
        """Hand the progress to the bound."""
        super().at(progress)
        self.bound.at(progress)

    def lead(self, run: Evaluation) -> Lead | None:
        """What the bound of all sites draws."""
        return self.bound.lead(run)

    def rows_by_part(self, run: Evaluation) -> dict[str, Tensor]:
        """The bound's loss per row, and the sum of those of subsets."""
        found = parts_of(self.bound, "rows", run)
        loss = torch.zeros_like(added(found))
        for site in self.sites:
            there = has(run.batch, site)
            if there is False:
                continue
            alone = self._loss(run, only(run.batch, {site}, self.sites))
            loss = loss + (torch.where(there, alone, 0) if isinstance(there, Tensor) else alone)
        for _ in range(self.random):
            loss = loss + self._loss(run, self._some(run.batch))
        return {**found, self.part_names[-1]: loss}

    def breakdown(self, run: Evaluation) -> dict[str, Tensor]:
        """That of the bound of all sites."""
        return self.bound.breakdown(run)

    def outside_by_part(self, run: Evaluation) -> dict[str, Tensor | float]:
        """The bound's."""
        found: dict[str, Tensor | float] = parts_of(self.bound, "outside", run)
        return found

    def across_by_part(self, runs: Sequence[Evaluation]) -> dict[str, Tensor | float]:
        """The bound's."""
        found: dict[str, Tensor | float] = parts_of(self.bound, "across", runs)
        return found

    def _loss(self, run: Evaluation, batch: Batch) -> Tensor:
        loss: Tensor = added(parts_of(self.bound, "rows", run.like(batch=batch)))
        return loss

    def _some(self, batch: Batch) -> Batch:
        """The rows with a random subset of the sites that each has."""
        here = [site for site in self.sites if site in batch]
        every = torch.ones_like(batch.rows, dtype=torch.bool)
        wide = [every if (there := has(batch, s)) is True else there for s in here]
        owned = torch.stack([t for t in wide if isinstance(t, Tensor)], -1)  # B x M
        kept = owned & (torch.rand(owned.shape, device=owned.device) < 0.5)
        kept = torch.where(kept.any(-1, keepdim=True), kept, owned)
        marks = {mark(site): kept[:, place] for place, site in enumerate(here)}
        return batch.replace({**batch, **marks})
