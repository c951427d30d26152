"""Cases without the terms that draw numbers of their own, for what compares two calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from ppl_models.inference.objectives.base import Objective, Sum
from ppl_models.testing.cases import Case


def settled(cases: Iterable[Case]) -> Iterator[Case]:
    """The same cases, whose loss is one number once the guide's draws are given.

    A term that exchanges rows at random, or looks at them in another way, says so by its
    attribute ``draws``; tests of its own compare it with a loop at the same seed. Of one that is
    made of a bound that bound is left.
    """
    for case in cases:
        parts = getattr(case.objective, "parts", [(1.0, case.objective)])
        if not any(getattr(term, "draws", False) for _, term in parts):
            yield case
            continue
        kept = [(weight, alone) for weight, term in parts if (alone := _settled(term)) is not None]
        yield dataclasses.replace(case, objective=Sum(kept))


def _settled(term: Objective) -> Objective | None:
    """The term, if it draws nothing; else the bound inside it, or None."""
    if not getattr(term, "draws", False):
        return term
    return getattr(term, "bound", None)
