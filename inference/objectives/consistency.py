"""A bound of rows and of random views of them, whose posteriors are held together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.data.streams.row_steps import Step
from ppl_models.data.streams.views import Views, views
from ppl_models.inference.objectives.base import Composed, Objective
from ppl_models.inference.objectives.kl_terms import site_kl
from ppl_models.inference.objectives.loss_parts import added, name_of, parts_of
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.traces.evaluation import Evaluation, Lead
from ppl_models.inference.traces.sites import latent_sites
from ppl_models.sample_sites import is_local


class Consistency(Composed):
    r"""A bound of each row, the same of a view of it, and the gap between their posteriors.

    :math:`L(x) + E_{t(\tilde x | x)}[L(\tilde x) - \lambda\,KL(q(z|\tilde x) \| q(z|x))]` (Sinha
    and Dieng 2021, arXiv 2105.14859): the encoder is to say the same of an image and of the image
    turned or moved a little. A view is drawn anew for each row and step; the codes of row and
    view are drawn apart, and nothing is cut from the gradient. The KL is the sum over the guide's
    sites in the rows, each given the draws before it of the view, in closed form where there is
    one; missing labels weigh it by their probability given the view.

    With ``weight`` 0 it is training on rows and their views, which this is to be compared with.
    Without steps a row has no view, and the bound stands alone, to the bit and at any weight: at
    :math:`\tilde x = x` the KL is 0. Sites outside the data plate, and statistics that span kinds
    of rows, count once. It is no bound of the log evidence: its part ``bound`` is, of the rows.

    Args:
        bound: The bound, or a sum.
        site: The site of the data that is seen in another way, floating numbers.
        steps: What makes a view, one or several in order, as of :func:`ppl_models.data.views`;
            ``data.Affine()`` are the paper's simple views: turned by at most 15 degrees, moved by
            5 %, and 0.9 to 1.1 times as large.
        shape: (H, W, C) of images that are stored flat, or (H, W); None for other rows.
        weight: :math:`\lambda`, a number or an :class:`Anneal`.

    Raises:
        ValueError: If the weight is below 0, or a step does not fit the shape.
    """

    def __init__(
        self,
        bound: Objective,
        site: str,
        steps: Step | Sequence[Step],
        shape: Sequence[int] | None = None,
        weight: float | Anneal = 1.0,
    ) -> None:
        super().__init__(bound.max_plate_nesting)
        check_range(f"weight of Consistency({site!r})", weight, 0)
        self.bound, self.site, self.weight = bound, site, weight
        self.steps, self.shape = steps, shape
        several = tuple(steps) if isinstance(steps, Sequence) else (steps,)
        self.view: Views | None = views(site, (site,), several, shape) if several else None

    @property
    def formula(self) -> str:
        """The bound, that of views, and what holds them together."""
        if self.view is None:
            return self.bound.formula
        x = self.site
        kl = f"{written(self.weight)} KL(q(...|view of {x}) || q(...|{x}))"
        return f"{self.bound.formula}  +  the same of a view of {x}  -  {kl}"

    @property
    def draws(self) -> bool:
        """Whether it draws numbers of its own, beside the guide's: the views."""
        return self.view is not None

    @property
    def across_rows(self) -> bool:  # type: ignore[override]
        """Whether the bound is."""
        return self.bound.across_rows

    @property
    def part_names(self) -> tuple[str, ...]:
        """Those of the bound, the loss of the views, and the weighed gap."""
        if self.view is None:
            return self.bound.part_names
        return (*self.bound.part_names, f"view({self.site})", name_of(self, self.site))

    def at(self, progress: float) -> None:
        """Hand the progress to the bound."""
        super().at(progress)
        self.bound.at(progress)

    def evaluation(self, run: Evaluation) -> Evaluation:
        """The bound's."""
        return self.bound.evaluation(run)

    def lead(self, run: Evaluation) -> Lead | None:
        """What the bound of the rows draws."""
        return self.bound.lead(run)

    def breakdown(self, run: Evaluation) -> dict[str, Tensor]:
        """That of the bound of the rows."""
        return self.bound.breakdown(run)

    def rows_by_part(self, run: Evaluation) -> dict[str, Tensor]:
        """The bound's loss per row, that of the view, and lambda times the gap."""
        found = parts_of(self.bound, "rows", run)
        if self.view is None:
            return found
        viewed = self.viewed(run)
        loss = added(parts_of(self.bound, "rows", viewed))
        weight = value_at(self.weight, self.progress)
        gap = weight * self.gap(run, viewed) if weight else torch.zeros_like(loss)
        view, consistency = self.part_names[-2:]
        return {**found, view: loss, consistency: gap}

    def outside_by_part(self, run: Evaluation) -> dict[str, Tensor | float]:
        """The bound's."""
        found: dict[str, Tensor | float] = parts_of(self.bound, "outside", run)
        return found

    def across_by_part(self, runs: Sequence[Evaluation]) -> dict[str, Tensor | float]:
        """The bound's."""
        found: dict[str, Tensor | float] = parts_of(self.bound, "across", runs)
        return found

    def viewed(self, run: Evaluation) -> Evaluation:
        """The run on a view of each row, the same one each time that it is asked for.

        Args:
            run: The run on the rows.
        """

        def made() -> Evaluation:
            assert self.view is not None  # without steps nobody asks
            with torch.no_grad(), run.batch.plate():
                value = pyro.sample("_view", _Seen(self.view, run.batch, self.site))
            batch = run.batch.replace({**run.batch, self.site: value})
            return run.like(batch=batch, leads=self.bound.lead)

        return run.once("viewed", made, owner=self)

    def gap(self, run: Evaluation, viewed: Evaluation) -> Tensor:
        """KL(q(z | view) || q(z | x)) of each row ``(B,)``, nats, at the draws of the view.

        Args:
            run: The run on the rows.
            viewed: That on their views.
        """
        here, there = self.bound.evaluation(run), self.bound.evaluation(viewed)
        w = there.drawn
        sites = dict(latent_sites(w.guide))
        lead = self.bound.lead(run) if len(sites) == 1 else None
        if lead is not None:
            given = lead.weights.guide  # a single site does not depend on what was drawn
        else:
            replayed = poutine.replay(here.guide, trace=w.guide)
            given = poutine.trace(replayed).get_trace(here.batch)
        both = dataclasses.replace(w, model=given)
        local = [name for name, site in sites.items() if is_local(site)]
        return torch.stack([site_kl(there, both, name, None) for name in local]).sum(0)


class _Seen(dist.TorchDistribution):
    """A view of a batch, drawn as a site inside the data plate is.

    Processes that share a batch so see the views that one process would have seen.
    """

    has_rsample = False
    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, view: Views, batch: Batch, site: str) -> None:
        self.view, self.batch, self.site = view, batch, site
        shape = batch[site].shape if site in batch else (batch.count,)
        super().__init__(torch.Size((batch.count,)), shape[1:], validate_args=False)

    def sample(self, sample_shape: torch.Size | tuple[()] = ()) -> Tensor:
        """The views; one of each row."""
        seen: Tensor = self.view(self.batch)[self.site]
        return seen
