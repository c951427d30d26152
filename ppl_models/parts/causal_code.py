"""A code whose first entries are factors that cause one another, by a linear SCM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.config import unknown
from ppl_models.networks import Part, Scalar
from ppl_models.parts.linear_scm import LinearSCM
from ppl_models.parts.mechanisms import Curve, Line, Units

OUTER: dict[str, Callable[[], nn.Module]] = {
    "line": Line,
    "curve": Curve,
    "independent": partial(Units, 0.0, 1.0),
}
PRIORS = tuple(OUTER)


class CausalCode(nn.Module):
    """Sites ``z_<factor>`` of one number each, and ``z_rest``, which nothing causes.

    Args:
        factors: Their names, causes before effects.
        arrows: That there may be, ``"cause>effect"``; all from earlier to later ones if empty.
        prior: The increasing functions of the SCM, of ``PRIORS``; with ``"independent"`` there
            are no arrows and the code is N(0, I).
        rest: Size of the rest.

    Attributes:
        sizes: Of the sites, as networks take them.
        scm: The SCM of the factors.

    Raises:
        ValueError: If an arrow is none between factors.
    """

    def __init__(
        self, factors: Sequence[str], arrows: Sequence[str], prior: str, rest: int
    ) -> None:
        super().__init__()
        sites = [f"z_{name}" for name in factors]
        self.sizes: dict[str, int] = {**dict.fromkeys(sites, Scalar()), "z_rest": rest}
        none = torch.zeros(len(sites), len(sites))
        mask = none if prior == "independent" else _parents(factors, arrows)
        self.scm = LinearSCM(sites, mask, OUTER[prior])
        self.register_buffer("zero", torch.zeros(rest), persistent=False)

    def sample(self, batch: Batch) -> dict[str, Tensor]:
        """All sites, within the data plate: ``(B,)`` each, and ``z_rest`` ``(B, rest)``."""
        values = self.scm.sample(batch)
        rest = dist.Normal(self.zero, 1.0).to_event(1)
        values["z_rest"] = pyro.sample("z_rest", rest, obs=batch.get("z_rest"))
        return values

    def guide(self, encoder: nn.Module) -> guides.Factored:
        """q(z | x), a Normal of each site whose means and scales one network gives.

        Args:
            encoder: A network of ``x`` with :attr:`numbers` outputs.
        """
        given, first, heads = {"numbers": self.numbers}, 0, {}
        for site, size in self.sizes.items():
            heads[site] = guides.Normal(size, given, net=Part(first, 2 * size))
            first += 2 * size
        return guides.Factored({"numbers": encoder}, **heads)

    @property
    def numbers(self) -> int:
        """How many numbers a guide needs: two for each entry of the code."""
        return 2 * sum(self.sizes.values())


def _parents(factors: Sequence[str], arrows: Sequence[str]) -> dict[str, list[str]] | None:
    """Parents by site; None where no arrow is named."""
    parents: dict[str, list[str]] = {}
    for arrow in arrows:
        cause, _, effect = arrow.partition(">")
        for end in (cause, effect):
            if end not in factors:
                raise ValueError(f"arrow {arrow!r}: {unknown('factor', end, factors)}")
        parents.setdefault(f"z_{effect}", []).append(f"z_{cause}")
    return parents or None
