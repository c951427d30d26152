"""What a guide owes to those who score its sites one by one, and how it is asked for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import pyro.distributions as dist
from torch import Tensor

OFFERS = {
    "given": "given",
    "factor": "factor(name, values)",
    "upstream": "upstream(name, values, draw)",
    "scores": "scores(name, values)",
}


class Guide(Protocol):
    """A guide whose factors can be had outside any trace, as :class:`Factored` and :class:`Mixed`.

    Any function of a batch is a guide to Pyro, and to the objectives that do no more than trace
    it. Terms on single sites, importance weights of observed sites and predictions ask for more.

    Attributes:
        given: By row-wise site that the guide samples, in its order: the sites that its factor
            is given.
    """

    @property
    def given(self) -> Mapping[str, Sequence[str]]:
        """See the class."""
        ...

    def __call__(self, batch: Any, /) -> Any:
        """Sample every site that the batch does not observe."""
        ...

    def factor(self, name: str, values: Mapping[str, Tensor]) -> dist.TorchDistribution:
        """One factor, of batch shape ``(..., B)``, given the values ``(..., B, D)`` it needs."""
        ...

    def upstream(
        self, name: str, values: Mapping[str, Tensor], draw: bool = False
    ) -> dict[str, Tensor]:
        """The values and what the factor is given beyond them, as means or as draws."""
        ...

    def scores(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        """Scores ``(..., B, C)`` of a label's classes, before they become probabilities."""
        ...


def listed(guide: object) -> Mapping[str, Sequence[str]] | None:
    """What each factor of a guide is given, by site; None if the guide does not list them."""
    given: Mapping[str, Sequence[str]] | None = getattr(guide, "given", None)
    return given


def offering(guide: object, *sites: str, needs: Sequence[str] = ("factor",)) -> Guide:
    """The guide itself, if it can hand out the factors of its sites.

    Args:
        guide: The guide; a plain function can be traced, but has no factors.
        sites: The sites whose factors are wanted, for the message.
        needs: What of :class:`Guide` is wanted, as in ``OFFERS``.

    Raises:
        TypeError: Naming sites and guide, and what it lacks.
    """
    lacking = [OFFERS[name] for name in needs if not hasattr(guide, name)]
    if lacking:
        raise TypeError(
            f"the guide's factor is wanted for site {', '.join(map(repr, sites))}, but "
            f"{type(guide).__name__} has no {', no '.join(lacking)}; expected a guide that hands "
            "out its factors, as guides.Factored and guides.Mixed do"
        )
    return cast(Guide, guide)
