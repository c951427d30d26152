"""The model's log joint density at draws where rows have plates within them.

No joint tensor is formed: labels of a plate are summed entry by entry. Shapes: E one dimension
per enumerated label, S draws, P plates within the rows, B rows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_models.inference.traces.contraction import (
    Summed,
    Term,
    Torch,
    log_sum,
    multiply,
    over_plates,
)
from ppl_models.inference.traces.weights import Collector


@dataclass(frozen=True)
class Plated:
    """What ``draws.Scores`` is to rows without plates within them.

    Attributes:
        terms: Log density of every site, given the sites before it.
        summed: The enumerated labels, by dimension.
        data: Names of the observed sites.
        draws: Their number S.
        rows: Their number B.
        nesting: Number of plate dimensions, the data plate included.
        padding: What makes the values of a label sum to one where it is masked.
    """

    terms: Sequence[Term]
    summed: Mapping[int, Summed]
    data: Sequence[str]
    draws: int
    rows: int
    nesting: int
    padding: Sequence[Term] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The enumerated labels."""
        return tuple(label.name for label in self.summed.values())

    def log_likelihood(self, sites: Collection[str]) -> Tensor:
        """Of some observed sites together ``(S, B)``, labels summed out and plates added up."""
        if not self.summed:
            return self._total([term for term in self.terms if term.name in sites])
        rest = [term for term in self.terms if term.name not in sites]
        return self.marginal() - self._total(rest)

    def marginal(self) -> Tensor:
        """Log density with the labels summed out ``(S, B)``."""
        return self._total(self.terms)

    def at(self, places: Mapping[str, Tensor]) -> Plated:
        """At one value of some labels, given as places ``(S, P, B)`` in their supports."""
        terms, summed = self.terms, dict(self.summed)
        for dim, label in self.summed.items():
            if label.name in places:
                del summed[dim]
                terms = [_at(term, dim, places[label.name], summed) for term in terms]
        return replace(self, terms=terms, summed=summed)

    def draw(self) -> dict[str, Tensor]:
        """One exact draw of all labels given everything else, as places ``(S, P, B)``.

        One label after another, those outside a plate first: given these, and what was drawn
        before, the entries of a plate are independent.
        """
        found: dict[str, Tensor] = {}
        left = self
        for label in sorted(self.summed.values(), key=lambda label: len(label.plates)):
            found[label.name] = dist.Categorical(left.probs(label.name)).sample()
            left = left.at({label.name: found[label.name]})
        return found

    def probs(self, label: str) -> Tensor:
        """Probabilities of a label given everything but the labels ``(S, P, B, C)``.

        They are the gradient of the log marginal with respect to the label's log density.
        """
        dim, of = next((d, v) for d, v in self.summed.items() if v.name == label)
        sizes = {plate: self._plate_size(plate) for plate in of.plates}
        inner = [sizes.get(d, 1) for d in range(-self.nesting, -1)]
        shape = [1] * (-dim - self.nesting - 1) + [self.draws, *inner, self.rows]
        shape[dim] = of.size

        def total(shift: Tensor) -> Tensor:
            term = Term(label, shift, frozenset({dim}), of.plates)
            return self._total([*self.terms, term]).sum()

        found: Tensor = torch.func.grad(total)(self.terms[0].value.new_zeros(shape))
        return found.movedim(dim, -1).reshape(self.draws, *inner, self.rows, of.size)

    def _plate_size(self, dim: int) -> int:
        return max(t.value.shape[dim] for t in self.terms if dim in t.plates)

    def _total(self, terms: Sequence[Term]) -> Tensor:
        if not terms:
            return self.terms[0].value.new_zeros(self.draws, self.rows)
        labels = frozenset(self.summed)
        whole = [*terms, *(term for term in self.padding if term.labels <= labels)]
        # No more than the objective formed, or was told that it may.
        value = multiply(log_sum(whole, labels, self.summed, Torch(math.inf))).value
        value = value.reshape(value.shape[-1 - self.nesting], value.shape[-1])
        return value.expand(self.draws, self.rows)


def plated(
    nodes: Mapping[str, Any],
    labels: Sequence[str],
    data: Sequence[str],
    draws: int,
    rows: int,
    nesting: int,
) -> Plated:
    """Scores of the sites of a trace.

    Args:
        nodes: The sites of the model, the labels enumerated.
        labels: Names of the labels.
        data: Names of the observed sites.
        draws: S.
        rows: B.
        nesting: Number of plate dimensions, the data plate included.
    """
    terms = Collector(1.0, nesting, {}, {name: nodes[name] for name in labels})
    for name, node in nodes.items():
        terms.add("p", name, node, node["fn"].log_prob(node["value"]))
    return Plated(terms.terms["p"], terms.labels, data, draws, rows, nesting, terms.padding)


def picked(value: Tensor, dims: Mapping[int, Tensor], event: int) -> Tensor:
    """Values at one place of some labels each.

    Args:
        value: ``(E..., S, P, B, *event)``.
        dims: By dimension of a label, places ``(S, P, B)``.
        event: Number of event dimensions.

    Returns:
        ``(S, P, B, *event)``, of the first three any that the values do not have of size 1.
    """
    right = value.shape[value.dim() - event :]
    for dim, places in dims.items():
        if value.dim() - event < -dim or value.shape[dim - event] == 1:
            continue
        index = places.reshape((1,) * (value.dim() - event - places.dim()) + tuple(places.shape))
        batch = value.shape[: value.dim() - event]
        shape = list(torch.broadcast_shapes((*batch[:dim], 1, *batch[dim:][1:]), index.shape))
        index = index.expand(shape).reshape(*shape, *[1] * event).expand(*shape, *right)
        shape[dim] = value.shape[dim - event]
        value = value.expand(*shape, *right).gather(dim - event, index)
    return value


def _at(term: Term, dim: int, places: Tensor, left: Mapping[int, Summed]) -> Term:
    if dim not in term.labels:
        return term
    labels = term.labels - {dim}
    one = Term(term.name, picked(term.value, {dim: places}, 0), labels, term.plates)
    # Plates are kept apart only as long as a label within them is summed.
    return one if any(left[d].plates for d in labels) else over_plates(one, one.plates)
