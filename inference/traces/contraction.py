r"""Sums over several labels without the joint grid: products of small tensors, contracted.

A log density is kept as a :class:`Term` that knows the labels it depends on. Two sums are all
that the bounds need:

- :func:`expectation`: :math:`\sum_y q(y) \sum_t f_t(y_{D_t})`, each term weighted by the
  marginal of q over just its own labels :math:`D_t`;
- :func:`log_sum`: :math:`\log \sum_y \prod_t \exp f_t(y_{D_t})` by variable elimination, labels
  in inner plates before labels outside them (Obermeyer et al. 2019, arXiv 1902.03210).

Shapes: ``(E_1, ..., E_m, K, P..., B)``: one dimension per label, then draws, plates within the
row, rows. Any of them has size 1 where a term does not depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import torch
from torch import Tensor

from ppl_models.inference.traces.sites import UnhandledSite

Dims = frozenset[int]
NONE: Dims = frozenset()
NAMED = 8  # sites of a large grid that an error names


@dataclass(frozen=True)
class Summed:
    """A variable that is summed over.

    Attributes:
        name: Its site.
        dim: Its dimension, negative.
        size: Its number of values.
        plates: Dimensions of the plates within the row that it stands in.
        in_guide: Whether the guide lists its values; False of the model's alone, and of draws.
        drawn: Whether its values are draws of the guide's.
    """

    name: str
    dim: int
    size: int
    plates: Dims = NONE
    in_guide: bool = True
    drawn: bool = False


@dataclass(frozen=True)
class Term:
    """A log density.

    Attributes:
        name: Its site.
        value: ``(E..., K, P..., B)``.
        labels: Dimensions of the labels it depends on.
        plates: Plates within the row that it has not been summed over.
    """

    name: str
    value: Tensor
    labels: Dims
    plates: Dims = NONE


class Backend(Protocol):
    """What does the arithmetic."""

    def contract(self, terms: Sequence[Term], dims: Dims, labels: Mapping[int, Summed]) -> Term:
        """Log of the sum over labels ``dims`` of the product of all terms.

        Plates are multiplied over, down to those that all these labels stand in.
        """

    def weigh(self, log_q: Term, cost: Term) -> Tensor:
        """The cost times q, summed over all labels; their dimensions keep size 1."""


@dataclass(frozen=True)
class Torch:
    """Broadcasting dimensions of plain tensors.

    Attributes:
        cap: Most combinations of labels in a product of terms.
    """

    cap: float

    def contract(self, terms: Sequence[Term], dims: Dims, labels: Mapping[int, Summed]) -> Term:
        """Eliminate labels one by one: innermost plates first, then the smallest product.

        Raises:
            UnhandledSite: Naming the labels of a product that is larger than the cap.
        """
        left, rest = list(terms), set(dims)
        while rest:
            depth = max(len(labels[dim].plates) for dim in rest)
            inner = sorted(dim for dim in rest if len(labels[dim].plates) == depth)
            dim = min(inner, key=lambda d: _size(t for t in left if d in t.labels))
            rest.remove(dim)
            touched = [t for t in left if dim in t.labels]
            left = [t for t in left if dim not in t.labels]
            kept = labels[dim].plates
            for term in touched:
                _check_coupling(term, dim, labels)
            together = NONE.union(*(t.labels for t in touched))
            check_count((labels[d] for d in sorted(together)), self.cap)
            whole = multiply([over_plates(t, t.plates - kept) for t in touched])
            value = torch.logsumexp(whole.value, dim, keepdim=True)
            left.append(Term(whole.name, value, whole.labels - {dim}, kept))
        return multiply([over_plates(t, t.plates - _common(dims, labels)) for t in left])

    def weigh(self, log_q: Term, cost: Term) -> Tensor:
        """Multiply and sum."""
        value = log_q.value.exp() * cost.value
        dims = tuple(log_q.labels | cost.labels)
        return value.sum(dims, keepdim=True) if dims else value  # an empty sum is over all


def check_count(summed: Iterable[Summed], cap: float) -> None:
    """Refuse several variables that have more combinations than a tensor may have.

    Args:
        summed: Those on which the tensor depends.
        cap: The most combinations.

    Raises:
        UnhandledSite: Naming the sites and the numbers.
    """
    summed = list(summed)
    if len(summed) > 1 and math.prod(v.size for v in summed) > cap:
        fewer = "take fewer particles, " if any(v.drawn for v in summed) else ""
        raise UnhandledSite(
            f"{told(summed)} that would be formed jointly, more than combinations={cap}; raise "
            f"that option, {fewer}or let no site depend on so many of them"
        )


def told(summed: Sequence[Summed]) -> str:
    """How many combinations variables have, in words that name the first of them."""
    named = [f"{v.name!r} ({v.size} {'draws' if v.drawn else 'values'})" for v in summed]
    others = [f"and {len(named) - NAMED} others"] if len(named) > NAMED else []
    size = math.prod(v.size for v in summed)
    number = size if size < 10**9 else f"{float(size):.3g}"
    return f"sites {', '.join(named[:NAMED] + others)} have {number} combinations"


def over_plates(term: Term, plates: Dims) -> Term:
    """The term multiplied over some of its plates (a sum of logs)."""
    if not plates:
        return term
    value = term.value.sum(tuple(plates), keepdim=True)
    return Term(term.name, value, term.labels, term.plates - plates)


def multiply(terms: Sequence[Term]) -> Term:
    """The product of terms (a sum of logs), over the union of their labels and plates."""
    value = reduce(torch.add, (t.value for t in terms))
    labels = NONE.union(*(t.labels for t in terms))
    return Term(terms[0].name, value, labels, NONE.union(*(t.plates for t in terms)))


def log_sum(
    terms: Iterable[Term], dims: Dims, labels: Mapping[int, Summed], backend: Backend
) -> list[Term]:
    r"""Log of the sum over some labels of the product of terms, as a product of terms.

    Args:
        terms: The factors' logs.
        dims: The labels that are summed over; each part of the graph that they connect is
            contracted by itself.
        labels: All labels, by dimension.
        backend: What does the arithmetic.

    Returns:
        Terms over the other labels.

    Raises:
        UnhandledSite: If entries of a plate are coupled from outside it, so that only a sum
            over all their combinations would be exact.
    """
    left, rest = list(terms), set(dims)
    for term in left:
        check_inside(term.name, term.plates, term.labels, labels)
    while rest:
        group: set[int] = {min(rest)}
        members: list[Term] = []
        while touched := [t for t in left if t.labels & group]:
            left = [t for t in left if not t.labels & group]
            members += touched
            group |= NONE.union(*(t.labels for t in touched)) & rest
        rest -= group
        if members:
            whole = backend.contract(members, frozenset(group), labels)
            inner = any(labels[dim].plates for dim in whole.labels)
            left.append(whole if inner else over_plates(whole, whole.plates))
    return left


def log_marginal(
    factors: Mapping[int, Term], dims: Dims, labels: Mapping[int, Summed], backend: Backend
) -> Term:
    """Log marginal of some of the guide's labels.

    Args:
        factors: Log q of each label given those before it, by dimension.
        dims: The labels that are kept.
        labels: All labels, by dimension.
        backend: What does the arithmetic.
    """
    wanted, last = dims, NONE
    while wanted != last:  # with the labels before them; those after them sum to one
        last, wanted = wanted, wanted.union(*(factors[dim].labels for dim in wanted))
    # Entries of a plate are marginals side by side here, not factors of a product.
    terms = [Term(factors[d].name, factors[d].value, factors[d].labels) for d in sorted(wanted)]
    beside = {d: Summed(labels[d].name, d, labels[d].size) for d in wanted}
    return multiply(log_sum(terms, wanted - dims, beside, backend))


def expectation(
    costs: Iterable[Term],
    factors: Mapping[int, Term],
    labels: Mapping[int, Summed],
    backend: Backend,
    kept: Dims = NONE,
) -> Tensor:
    r""":math:`\sum_y q(y) \sum_t f_t(y)` for every draw.

    Args:
        costs: The terms f.
        factors: Log q of each label in the guide given those before it, by dimension.
        labels: All labels, by dimension.
        backend: What does the arithmetic.
        kept: Labels that weight every term, because only a part of their values is there.

    Returns:
        ``(1..., K, 1..., B)``.

    Raises:
        UnhandledSite: If a term outside a plate depends on a label within it.
    """
    groups: dict[tuple[Dims, Dims], list[Term]] = {}
    for cost in costs:
        groups.setdefault((cost.labels, cost.plates), []).append(cost)
    parts = []
    for (dims, plates), members in groups.items():
        cost = multiply(members)
        if dims | kept:
            log_q = log_marginal(factors, dims | kept, labels, backend)
            check_inside(cost.name, plates, log_q.labels, labels)
            cost = Term(cost.name, backend.weigh(log_q, cost), NONE, plates)
        parts.append(over_plates(cost, plates))
    return multiply(parts).value


def check_inside(
    name: str, plates: Dims, dims: Iterable[int], labels: Mapping[int, Summed]
) -> None:
    """Refuse a term outside a plate that depends on a label within it.

    Raises:
        UnhandledSite: Naming both sites.
    """
    for dim in dims:
        if not labels[dim].plates <= plates:
            raise UnhandledSite(
                f"site {name!r} depends on site {labels[dim].name!r}, which is enumerated inside "
                "a plate within the rows, from outside that plate; entries of the plate would "
                "have to be summed jointly, expected only sites in the same plate to use them"
            )


def _check_coupling(term: Term, dim: int, labels: Mapping[int, Summed]) -> None:
    over = term.plates - labels[dim].plates
    for other in term.labels - {dim}:
        if labels[other].plates & over:
            raise UnhandledSite(
                f"sites {labels[dim].name!r} and {labels[other].name!r} are summed out in "
                "different plates, but depend on each other; entries of a plate would have to "
                "be summed jointly, which this objective does not do"
            )


def _common(dims: Dims, labels: Mapping[int, Summed]) -> Dims:
    return frozenset.intersection(*(labels[dim].plates for dim in dims))


def _size(terms: Iterable[Term]) -> int:
    return math.prod(torch.broadcast_shapes(*(t.value.shape for t in terms)))
