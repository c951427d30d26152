"""Gradient stops: terms that treat some networks as constant, in some rows or in all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from ppl_models.inference.objectives.base import Composed, Objective
from ppl_models.inference.objectives.loss_parts import parts_of
from ppl_models.inference.traces.evaluation import Evaluation, Lead


@contextlib.contextmanager
def detached(*modules: nn.Module) -> Iterator[None]:
    """Networks whose parameters count as constants meanwhile; gradients flow through inputs."""
    held: list[tuple[nn.Module, str, Tensor | None]] = []
    try:
        for module in (part for whole in modules for part in whole.modules()):
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    held.append((module, name, parameter))
                    # Not `requires_grad_`: the parameter may be in another term's graph, and a
                    # traced step knows parameters only by the tensors that stand in for them.
                    module._parameters[name] = parameter.detach()  # type: ignore[assignment]
        yield
    finally:
        for module, name, held_parameter in held:
            module._parameters[name] = held_parameter  # type: ignore[assignment]


class StopGradient(Composed):
    """An objective whose gradient does not reach some networks.

    Its value stays the same up to the draws: the pair is traced apart from the other terms of
    a sum. With ``observed`` or ``missing`` it stops only in the rows of one kind, e.g. a
    decoder that unlabelled rows must not move: ``StopGradient(bound, pair.decoder,
    missing="y")``.

    Args:
        objective: The objective.
        modules: The networks that count as constant.
        observed: Stop only in rows that observe this site.
        missing: Stop only in rows that do not observe this site.

    Raises:
        ValueError: If no network is given, or both kinds of rows.
    """

    def __init__(
        self, objective: Objective, *modules: nn.Module, observed: str = "", missing: str = ""
    ) -> None:
        super().__init__(objective.max_plate_nesting)
        if not modules:
            raise ValueError("StopGradient needs at least one network that it does not reach")
        if observed and missing:
            raise ValueError(
                f"StopGradient got observed={observed!r} and missing={missing!r}, expected one "
                "kind of rows"
            )
        self.objective, self.modules = objective, modules
        self.observed, self.missing = observed, missing

    @property
    def formula(self) -> str:
        """The objective's, with what is stopped."""
        return f"{self.objective.formula} (no gradient to {len(self.modules)} networks)"

    def at(self, progress: float) -> None:
        """Hand the progress on."""
        super().at(progress)
        self.objective.at(progress)

    def lead(self, run: Evaluation) -> Lead | None:
        """What the objective draws in rows that it does not stop; else terms have their own."""
        return None if self._stops(run) else self.objective.lead(run)

    @property
    def across_rows(self) -> bool:  # type: ignore[override]
        """Whether the objective is."""
        return self.objective.across_rows

    @property
    def part_names(self) -> tuple[str, ...]:
        """The objective's."""
        return self.objective.part_names

    def rows_by_part(self, run: Evaluation) -> dict[str, Tensor]:
        """The objective's loss per row."""
        return self._by_part("rows", run)

    def outside_by_part(self, run: Evaluation) -> dict[str, Tensor | float]:
        """The objective's loss outside the data plate."""
        return self._by_part("outside", run)

    def across_by_part(self, runs: Sequence[Evaluation]) -> dict[str, Tensor | float]:
        """The objective's loss that spans kinds of rows, stopped if any of them is."""
        if not any(map(self._stops, runs)):
            return parts_of(self.objective, "across", runs)
        with detached(*self.modules):
            return parts_of(self.objective, "across", [self._evaluation(run) for run in runs])

    def _by_part(self, what: str, run: Evaluation) -> dict[str, Any]:
        if not self._stops(run):
            return parts_of(self.objective, what, run)
        with detached(*self.modules):
            return parts_of(self.objective, what, self._evaluation(run))

    def _stops(self, run: Evaluation) -> bool:
        if self.observed:
            return self.observed in run.batch
        return not self.missing or self.missing not in run.batch

    def _evaluation(self, run: Evaluation) -> Evaluation:
        # Traced by itself: the graph of the other terms' traces leads to the networks.
        return run.once(
            "stopped",
            lambda: run.like(leads=lambda apart: self._leading(run, apart)),
            owner=self,
        )

    def _leading(self, run: Evaluation, apart: Evaluation) -> Lead | None:
        # A term alone reads what the bound beside it would draw here.
        own = self.objective.lead(apart)
        return run.leads(apart) if own is None and run.leads is not None else own
