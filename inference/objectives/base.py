"""Objectives: what a pair is trained to make large.

They subclass Pyro's ``ELBO``, so ``SVI(pair.model, pair.guide, optim, loss=objective)`` takes
them; they add up (``IWELBO(8) + Classification("y", 0.1)``), print their formula, and give
one loss per row. A loss is what is made small: minus the bound, in nats.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from pyro.infer import ELBO as PyroELBO
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import native_entry
from ppl_models.inference.objectives.loss_parts import (
    BOUND,
    GLOBAL_KL,
    LossByPart,
    added,
    distinct,
    name_of,
    parts_of,
    weighted,
)
from ppl_models.inference.objectives.options import Remembers, as_written, identity, text
from ppl_models.inference.traces.evaluation import Evaluation, Lead, WholeBatch
from ppl_models.inference.traces.nesting import widest
from ppl_models.inference.traces.weights import Weights

Batches = Batch | Iterable[Batch]


class Objective(PyroELBO, metaclass=Remembers):
    """A loss per row of a batch, shared by all that an objective can be asked for.

    A subclass writes :meth:`rows` and :attr:`formula`; where its loss has several parts,
    :attr:`part_names` and :meth:`rows_by_part` in place of :meth:`rows`. What its constructor is
    given is remembered: it is printed, and tells runs apart (see
    :mod:`ppl_models.inference.objectives.options`).

    Args:
        plate_nesting: Number of plate dimensions in the model, the data plate included; the
            pair's (:attr:`ppl_models.Pair.plate_nesting`) where it is left out.

    Attributes:
        kept_as: Names of attributes that hold an option of another name.
        across_rows: Whether the loss of a row depends on the other rows of its batch. Such an
            objective has no loss of a single row: :meth:`per_datum` refuses.
    """

    __array_ufunc__ = None  # numbers of numpy leave products to it
    kept_as: ClassVar[Mapping[str, str]] = {"plate_nesting": "max_plate_nesting"}
    across_rows: bool = False

    def __init__(self, plate_nesting: int | None = None) -> None:
        super().__init__(max_plate_nesting=plate_nesting)
        self.progress = 0.0

    @property
    def formula(self) -> str:
        """What is made large, in the notation of ``bounds``."""
        raise NotImplementedError

    def __str__(self) -> str:
        """The formula."""
        return self.formula

    def __repr__(self) -> str:
        """The call that makes it, with the options that differ from their defaults."""
        return as_written(self)

    def __eq__(self, other: object) -> bool:
        """Whether the other is of the same class with the same options."""
        return type(self) is type(other) and identity(self) == identity(other)

    def __hash__(self) -> int:
        """Of the class, as options may be set again."""
        return hash(type(self))

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the parts of its loss, the same for every batch and all through training.

        See :mod:`ppl_models.inference.objectives.loss_parts` for what they say.
        """
        site = getattr(self, "site", None)
        return (name_of(self, site) if isinstance(site, str) else name_of(self),)

    def rows(self, run: Evaluation) -> Tensor:
        """The loss per row ``(B,)`` of one evaluated batch, without the plate's N / B."""
        if type(self).rows_by_part is Objective.rows_by_part:
            raise NotImplementedError
        loss: Tensor = added(self.rows_by_part(run))
        return loss

    def rows_by_part(self, run: Evaluation) -> dict[str, Tensor]:
        """The same by the names of its parts, which add up to it."""
        return {self.part_names[0]: self.rows(run)}

    def breakdown(self, run: Evaluation) -> dict[str, Tensor]:
        """What the part ``bound`` of its rows is made of, ``(B,)`` without gradient, at no run.

        ``reconstruction`` and ``kl(site)`` of each of the guide's sites in the rows, which add
        up to it; nothing where it is no such sum.
        """
        return {}

    def outside(self, run: Evaluation) -> Tensor | float:
        """The loss of sites outside the data plate, counted once per data set."""
        return 0.0

    def outside_by_part(self, run: Evaluation) -> dict[str, Tensor | float]:
        """The same by the names of its parts."""
        return {self.part_names[0]: self.outside(run)}

    def across(self, runs: Sequence[Evaluation]) -> Tensor | float:
        """The loss of statistics that span the kinds of rows of a step, for the data set.

        What it reads of the draws of a run, :meth:`rows` has to have read before.
        """
        return 0.0

    def across_by_part(self, runs: Sequence[Evaluation]) -> dict[str, Tensor | float]:
        """The same by the names of its parts."""
        return {self.part_names[0]: self.across(runs)}

    def evaluation(self, run: Evaluation) -> Evaluation:
        """The run whose draws it takes: this one, where it does not change story or rows."""
        return run

    def lead(self, run: Evaluation) -> Lead | None:
        """What it draws in a run and others may read; None for a term, which reads."""
        return None

    def run(
        self,
        model: Callable[[Batch], Any],
        guide: Callable[[Batch], Any],
        batch: Batch,
        whole: WholeBatch | None = None,
    ) -> Evaluation:
        """A run of a pair that it leads; nothing is drawn before somebody asks.

        Args:
            model: The model.
            guide: The guide.
            batch: Rows that share what is observed.
            whole: The batch of which these are one process's rows.
        """
        return Evaluation(model, guide, batch, self.max_plate_nesting, self.lead, whole)

    def at(self, progress: float) -> None:
        """Set the share of training that is done, which schedules read."""
        self.progress = progress

    def per_datum(
        self, model: Callable[[Batch], Any], guide: Callable[[Batch], Any], batch: Batch
    ) -> Tensor:
        """The loss of each row, unreduced and without N / B; works under ``torch.func``.

        Under ``vmap`` take ``randomness="same"`` (every row then sees the same noise):
        torch's own Normal draws cannot differ from row to row there. Pyro's checks must be off
        (``pyro.validation_enabled(False)``).

        Args:
            model: The model.
            guide: The guide.
            batch: Rows that share what is observed.

        Returns:
            ``(B,)``, nats.

        Raises:
            ValueError: If its rows look at each other.
        """
        if self.across_rows:
            raise ValueError(
                f"{self!r} has no loss of a single row, as its rows look at each other; expected "
                "differentiable_loss of a batch, or the bound alone"
            )
        return self.rows(self.run(model, guide, batch))

    def by_row(
        self, model: Callable[[Batch], Any], guide: Callable[[Batch], Any], batch: Batch
    ) -> Tensor:
        """Each row's part of the loss of its batch ``(B,)``, also where rows look at each other.

        Where they do not, it is :meth:`per_datum`; where they do, it says nothing of a row alone.

        Args:
            model: The model.
            guide: The guide.
            batch: Rows that share what is observed.
        """
        if not self.across_rows:
            return self.per_datum(model, guide, batch)
        return self.rows(self.run(model, guide, batch))

    def differentiable_loss(
        self, model: Callable[[Batch], Any], guide: Callable[[Batch], Any], batches: Batches
    ) -> Tensor:
        """The loss of the whole data set, estimated from one batch or one of each kind.

        Labelled and unlabelled rows come as two batches; their losses add up before the one
        gradient step, each with the N / B of its own kind.

        Returns:
            A scalar, nats, for all rows that the batches stand for.
        """
        return self.loss_by_part(model, guide, batches).total

    def loss_by_part(
        self, model: Callable[[Batch], Any], guide: Callable[[Batch], Any], batches: Batches
    ) -> LossByPart:
        """The same and what it is made of, from one run of the pair on each batch.

        Args:
            model: The model.
            guide: The guide.
            batches: One batch, or one of each kind.

        Raises:
            ValueError: If there is no batch.
        """
        batches = (batches,) if isinstance(batches, Batch) else batches
        runs = [self.run(model, guide, batch) for batch in batches]
        if not runs:
            raise ValueError("no batch given, expected at least one")
        loss = functools.reduce(LossByPart.plus, map(self.loss_of_kind, runs))
        return loss.plus_scalars(parts_of(self, "across", runs))

    def loss_of_kind(self, run: Evaluation) -> LossByPart:
        """The loss of the rows that a batch stands for, and its share of what is outside them."""
        batch = run.batch
        rows, breakdown = parts_of(self, "rows", run), self.breakdown(run)
        loss = LossByPart.of_rows(rows, batch.scale, breakdown)
        # Global sites are the same in every kind of batch: together they count once.
        outside = parts_of(self, "outside", run)
        of_bound = {GLOBAL_KL: outside[BOUND]} if breakdown and BOUND in outside else {}
        return loss.plus_scalars(outside, batch.size / batch.total, of_bound)

    def loss(
        self, model: Callable[[Batch], Any], guide: Callable[[Batch], Any], batches: Batches
    ) -> float:
        """The loss as a number, without gradient."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, batches))

    def loss_and_grads(
        self, model: Callable[[Batch], Any], guide: Callable[[Batch], Any], batches: Batches
    ) -> float:
        """The loss as a number, its gradient left in the parameters (for Pyro's SVI)."""
        loss = self.differentiable_loss(model, guide, batches)
        loss.backward()
        return float(loss.detach())

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        # Pyro's base class asks for it: one run of the pair, as (model trace, guide trace).
        w = self.run(model, guide, args[0]).lead
        return w.model, w.guide

    def __add__(self, other: Objective) -> Sum:
        """Both losses, on the same traces."""
        return Sum([*_parts(self), *_parts(other)])

    def __mul__(self, weight: float) -> Sum:
        """The loss times a weight."""
        weight = native_entry(weight)
        if not isinstance(weight, int | float):
            return NotImplemented
        return Sum([(weight * w, term) for w, term in _parts(self)])

    __rmul__ = __mul__


class Composed(Objective):
    """An objective made of others: all that it asks, it asks them for by part."""

    def outside(self, run: Evaluation) -> Tensor | float:
        """The others' loss outside the data plate, together."""
        loss: Tensor | float = added(self.outside_by_part(run))
        return loss

    def across(self, runs: Sequence[Evaluation]) -> Tensor | float:
        """The others' loss that spans kinds of rows, together."""
        loss: Tensor | float = added(self.across_by_part(runs))
        return loss


class Sum(Composed):
    """A weighted sum of objectives; all of them read the same traces."""

    def __init__(self, parts: list[tuple[float, Objective]]) -> None:
        super().__init__(widest(term.max_plate_nesting for _, term in parts))
        self.parts = parts

    def __repr__(self) -> str:
        """As written."""
        return " + ".join(
            f"{term!r}" if w == 1 else f"{text(w)} * {term!r}" for w, term in self.parts
        )

    @property
    def across_rows(self) -> bool:  # type: ignore[override]
        """Whether any of its terms is."""
        return any(term.across_rows for _, term in self.parts)

    @property
    def formula(self) -> str:
        """The formulas, added up."""
        return "  +  ".join(
            term.formula if w == 1 else f"{w:g} [{term.formula}]" for w, term in self.parts
        )

    @property
    def part_names(self) -> tuple[str, ...]:
        """Those of its terms, a further one of its kind with a number."""
        return distinct(weighted(n, w) for w, term in self.parts for n in term.part_names)

    def at(self, progress: float) -> None:
        """Hand the progress to every part."""
        super().at(progress)
        for _, term in self.parts:
            term.at(progress)

    def rows_by_part(self, run: Evaluation) -> dict[str, Tensor]:
        """The terms' losses per row, times their weights."""
        return self._by_part("rows", run)

    def outside_by_part(self, run: Evaluation) -> dict[str, Tensor | float]:
        """The terms' losses outside the data plate, times their weights."""
        return self._by_part("outside", run)

    def across_by_part(self, runs: Sequence[Evaluation]) -> dict[str, Tensor | float]:
        """The terms' losses that span kinds of rows, times their weights."""
        return self._by_part("across", runs)

    def breakdown(self, run: Evaluation) -> dict[str, Tensor]:
        """That of its bound, where it has one, exactly once."""
        bounds = [term for w, term in self.parts if w == 1 and BOUND in term.part_names]
        return bounds[0].breakdown(run) if len(bounds) == 1 else {}

    def _by_part(self, what: str, argument: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        names = iter(self.part_names)
        for w, term in self.parts:
            told = dict(zip(term.part_names, names, strict=False))
            for name, loss in parts_of(term, what, argument).items():
                found[told[name]] = w * loss if w != 1 else loss
        return found

    def evaluation(self, run: Evaluation) -> Evaluation:
        """The first part's, which is the bound."""
        return self.parts[0][1].evaluation(run)

    def lead(self, run: Evaluation) -> Lead | None:
        """Of the first of its terms that has one."""
        found = (term.lead(run) for _, term in self.parts)
        return next((lead for lead in found if lead is not None), None)


def _parts(objective: Objective) -> list[tuple[float, Objective]]:
    return objective.parts if isinstance(objective, Sum) else [(1.0, objective)]


class Bound(Objective):
    """A bound made from one set of log weights."""

    @property
    def part_names(self) -> tuple[str, ...]:
        """``bound``; one whose value is none in expectation names itself otherwise."""
        return (BOUND,)

    def weights(self, run: Evaluation) -> Weights:
        """The weights this bound asks for."""
        raise NotImplementedError

    def outside(self, run: Evaluation) -> Tensor | float:
        """Minus (log p - log q) of the sites outside the data plate."""
        return -self.weights(run).outside

    def lead(self, run: Evaluation) -> Lead | None:
        """Its own draws."""
        return Lead(run, self.weights(run))


def check_choice(option: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise a ValueError where an option is not one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{option} is {value!r}, expected one of {', '.join(allowed)}")
