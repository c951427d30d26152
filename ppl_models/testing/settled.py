"""Cases without the terms that draw numbers of their own, for what compares two calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from ppl_models.inference.objectives.base import Sum
from ppl_models.testing.cases import Case


def settled(cases: Iterable[Case]) -> Iterator[Case]:
    """The same cases, whose loss is one number once the guide's draws are given.

    A term that exchanges rows at random says so by its attribute ``draws``; tests of its own
    compare it with a loop at the same seed.
    """
    for case in cases:
        parts = getattr(case.objective, "parts", [(1.0, case.objective)])
        kept = [(weight, term) for weight, term in parts if not getattr(term, "draws", False)]
        yield case if len(kept) == len(parts) else dataclasses.replace(case, objective=Sum(kept))
