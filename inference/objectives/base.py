"""Objectives: what a pair is trained to make large.

They subclass Pyro's ``ELBO``, so ``SVI(pair.model, pair.guide, optim, loss=objective)`` takes
them; they add up (``IWELBO(8) + Classification("y", 0.1)``), print their formula, and give
one loss per row. A loss is what is made small: minus the bound, in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from pyro.infer import ELBO as PyroELBO
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import native_entry
from ppl_models.inference.objectives.options import Remembers, as_written, identity, text
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.weights import Weights

Batches = Batch | Iterable[Batch]


class Objective(PyroELBO, metaclass=Remembers):
    """A loss per row of a batch, shared by all that an objective can be asked for.

    A subclass writes :meth:`rows` and :attr:`formula`. What its constructor is given is
    remembered: it is printed, and tells runs apart (see
    :mod:`ppl_models.inference.objectives.options`).

    Args:
        plate_nesting: Number of plate dimensions in the model, the data plate included.

    Attributes:
        kept_as: Names of attributes that hold an option of another name.
    """

    __array_ufunc__ = None  # numbers of numpy leave products to it
    kept_as: ClassVar[Mapping[str, str]] = {"plate_nesting": "max_plate_nesting"}

    def __init__(self, plate_nesting: int = 1) -> None:
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

    def rows(self, run: Evaluation) -> Tensor:
        """The loss per row ``(B,)`` of one evaluated batch, without the plate's N / B."""
        raise NotImplementedError

    def outside(self, run: Evaluation) -> Tensor | float:
        """The loss of sites outside the data plate, counted once per data set."""
        return 0.0

    def across(self, runs: Sequence[Evaluation]) -> Tensor | float:
        """The loss of statistics that span the kinds of rows of a step, for the data set."""
        return 0.0

    def evaluation(self, run: Evaluation) -> Evaluation:
        """The run whose draws it takes: this one, where it does not change story or rows."""
        return run

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
        """
        return self.rows(Evaluation(model, guide, batch, self.max_plate_nesting))

    def differentiable_loss(
        self, model: Callable[[Batch], Any], guide: Callable[[Batch], Any], batches: Batches
    ) -> Tensor:
        """The loss of the whole data set, estimated from one batch or one of each kind.

        Labelled and unlabelled rows come as two batches; their losses add up before the one
        gradient step, each with the N / B of its own kind.

        Returns:
            A scalar, nats, for all rows that the batches stand for.
        """
        total: Tensor | float = 0.0
        runs = []
        for batch in (batches,) if isinstance(batches, Batch) else batches:
            run = Evaluation(model, guide, batch, self.max_plate_nesting)
            total = total + batch.scale * self.rows(run).sum()
            # Global sites are the same in every kind of batch: together they count once.
            total = total + self.outside(run) * (batch.size / batch.total)
            runs.append(run)
        total = total + self.across(runs)
        if not isinstance(total, Tensor):
            raise ValueError("no batch given, expected at least one")
        return total

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
        w = Evaluation(model, guide, args[0], self.max_plate_nesting).weights()
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


class Sum(Objective):
    """A weighted sum of objectives; all of them read the same traces."""

    def __init__(self, parts: list[tuple[float, Objective]]) -> None:
        super().__init__(max(term.max_plate_nesting for _, term in parts))
        self.parts = parts

    def __repr__(self) -> str:
        """As written."""
        return " + ".join(
            f"{term!r}" if w == 1 else f"{text(w)} * {term!r}" for w, term in self.parts
        )

    @property
    def formula(self) -> str:
        """The formulas, added up."""
        return "  +  ".join(
            term.formula if w == 1 else f"{w:g} [{term.formula}]" for w, term in self.parts
        )

    def at(self, progress: float) -> None:
        """Hand the progress to every part."""
        super().at(progress)
        for _, term in self.parts:
            term.at(progress)

    def rows(self, run: Evaluation) -> Tensor:
        """The weighted sum of the parts' losses per row."""
        losses = [w * term.rows(run) if w != 1 else term.rows(run) for w, term in self.parts]
        return torch.stack(losses).sum(0) if len(losses) > 2 else sum(losses[1:], losses[0])

    def outside(self, run: Evaluation) -> Tensor | float:
        """The weighted sum of the parts' losses outside the data plate."""
        total: Tensor | float = 0.0
        for w, term in self.parts:
            total = total + w * term.outside(run)
        return total

    def across(self, runs: Sequence[Evaluation]) -> Tensor | float:
        """The weighted sum of the parts' losses that span kinds of rows."""
        total: Tensor | float = 0.0
        for w, term in self.parts:
            total = total + w * term.across(runs)
        return total

    def evaluation(self, run: Evaluation) -> Evaluation:
        """The first part's, which is the bound."""
        return self.parts[0][1].evaluation(run)


def _parts(objective: Objective) -> list[tuple[float, Objective]]:
    return objective.parts if isinstance(objective, Sum) else [(1.0, objective)]


class Bound(Objective):
    """A bound made from one set of log weights."""

    def weights(self, run: Evaluation) -> Weights:
        """The weights this bound asks for."""
        raise NotImplementedError

    def outside(self, run: Evaluation) -> Tensor | float:
        """Minus (log p - log q) of the sites outside the data plate."""
        return -self.weights(run).outside


def zero_loss(run: Evaluation) -> Tensor:
    """A loss of zero for each row ``(B,)``, of the kind and on the device of the data."""
    batch = run.batch
    like = next((v for v in batch.values() if v.is_floating_point()), batch.rows)
    return like.new_zeros(batch.count)


def check_choice(option: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise a ValueError where an option is not one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{option} is {value!r}, expected one of {', '.join(allowed)}")


def check_unscaled(w: Weights) -> None:
    """Raise a ValueError where a site has a weight, or a label a mask, inside a log."""
    if w.rescaled is not None:
        raise ValueError(
            f"site {w.rescaled!r} carries a weight or mask of its own inside the log, which is "
            "no bound; expected only the plate's N / B"
        )
