"""Bounds that are taken on other rows, or another story, than the terms beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_models.inference.objectives.base import Composed, Objective
from ppl_models.inference.objectives.loss_parts import parts_of
from ppl_models.inference.objectives.margins import label_or_best, label_scores
from ppl_models.inference.objectives.schedule import check_range
from ppl_models.inference.traces.evaluation import Evaluation, Lead


class _Elsewhere(Composed):
    """A bound that is taken on other rows, or another story, than the terms beside it."""

    def __init__(self, bound: Objective, site: str) -> None:
        super().__init__(bound.max_plate_nesting)
        self.bound, self.site = bound, site

    def move(self, run: Evaluation) -> Evaluation:
        """Where the bound is taken instead."""
        raise NotImplementedError

    def at(self, progress: float) -> None:
        """Hand the progress on."""
        super().at(progress)
        self.bound.at(progress)

    def evaluation(self, run: Evaluation) -> Evaluation:
        """Where the bound is taken instead, once per run."""
        return run.once("moved", lambda: self.move(run), owner=self)

    def lead(self, run: Evaluation) -> Lead | None:
        """What the bound draws where it is taken."""
        return self.bound.lead(self.evaluation(run))

    @property
    def across_rows(self) -> bool:  # type: ignore[override]
        """Whether the bound is."""
        return self.bound.across_rows

    @property
    def part_names(self) -> tuple[str, ...]:
        """The bound's."""
        return self.bound.part_names

    def rows_by_part(self, run: Evaluation) -> dict[str, Tensor]:
        """The bound's loss per row."""
        return parts_of(self.bound, "rows", self.evaluation(run))

    def breakdown(self, run: Evaluation) -> dict[str, Tensor]:
        """The bound's."""
        return self.bound.breakdown(self.evaluation(run))

    def outside_by_part(self, run: Evaluation) -> dict[str, Tensor | float]:
        """The bound's loss outside the data plate."""
        return parts_of(self.bound, "outside", self.evaluation(run))

    def across_by_part(self, runs: Sequence[Evaluation]) -> dict[str, Tensor | float]:
        """What of the bound spans kinds of rows."""
        return parts_of(self.bound, "across", runs)


class Imputed(_Elsewhere):
    r"""A bound at one value of a label: the known one, or the best of the guide's scores.

    The cost does not grow with the number of classes. Networks get the label as a vector
    :math:`\hat y + w\,(\pi - \bar\pi)` whose value is the one-hot :math:`\hat y` and whose
    gradient is w times that of :math:`\pi = \mathrm{softmax}(s)`, also where the label is known:
    straight through, which is the only way that the bound informs the classifier (w = 0: none).
    The entropy of q(y | x) has no part in it: it bounds :math:`\log p(x, \hat y)`, and so
    log p(x) too, but not closely. Model and guide may use the label as an input of
    :class:`ppl_models.networks.Net`, not as an index.

    Args:
        bound: The bound.
        site: The label; the guide has a ``guides.Categorical`` factor for it.
        weight: w; the paper's are 3e-4 (MNIST), 1e-4 (SVHN), 3e-5 (NORB).

    Raises:
        ValueError: If the weight is out of range.
    """

    def __init__(self, bound: Objective, site: str, weight: float = 3e-4) -> None:
        super().__init__(bound, site)
        check_range(f"weight of Imputed({site!r})", weight, 0)
        self.weight = weight

    @property
    def formula(self) -> str:
        """The bound, and at which label."""
        y = self.site
        return f"{self.bound.formula} at {y} or argmax s({y}), straight through {self.weight:g}"

    def move(self, run: Evaluation) -> Evaluation:
        """The same rows with the label as a vector."""
        scores = label_scores(run, self.site)
        p = scores.softmax(-1)
        label = label_or_best(run, self.site, scores) + self.weight * (p - p.detach())
        batch = run.batch.replace({**run.batch, self.site: label})
        model = _AsVector(self.site)(run.model)
        return run.like(model, batch=batch, leads=self.bound.lead)


class _AsVector(Messenger):
    """A Categorical site whose value is a one-hot vector."""

    def __init__(self, site: str) -> None:
        super().__init__()
        self.site = site

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == self.site:
            msg["fn"] = dist.OneHotCategorical(logits=msg["fn"].logits)


class LeftOut(_Elsewhere):
    """A bound of the story without one site, on which no other depends.

    For a label that the story has but this bound is not to be trained on: beside a margin, or a
    loss of another kind. As nothing depends on the site, leaving it out is summing it out.

    Args:
        bound: The bound.
        site: The site.
    """

    @property
    def formula(self) -> str:
        """The bound, and what it does not see."""
        return f"{self.bound.formula} without {self.site}"

    def move(self, run: Evaluation) -> Evaluation:
        """The story without the site; what stands in for a missing value is never looked at."""
        batch = run.batch
        if self.site not in batch:
            batch = batch.replace({**batch, self.site: batch.rows.new_zeros(batch.count)})
        model = poutine.block(run.model, hide=[self.site])
        return run.like(model, batch=batch, leads=self.bound.lead)
