"""A factor whose draws are directions: von Mises-Fisher about a mean direction."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pyro.distributions as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ppl_models.config import at_least, unknown
from ppl_models.guides.factors import Factor
from ppl_models.spherical import VonMisesFisher as Distribution, direction

MOST = math.log(1e5)


def _exp(number: Tensor) -> Tensor:
    return number.clamp_max(MOST).exp()


CONCENTRATIONS: dict[str, Callable[[Tensor], Tensor]] = {"softplus": F.softplus, "exp": _exp}


class VonMisesFisher(Factor):
    r"""A vector of length 1; the network gives its mean direction and its concentration.

    Of ``size + 1`` outputs the first are brought to length 1, and the concentration is
    :math:`\mathrm{softplus}(\cdot) + floor`, as in Davidson et al. 2018 (arXiv 1804.00891), or
    :math:`\exp(\cdot) + floor`: a sharp likelihood wants concentrations in the thousands, which a
    softplus only reaches by outputs as large. The prior that has a closed KL with it is
    :class:`ppl_models.spherical.HypersphericalUniform`.

    Args:
        size: Entries m of the vector, at least 2; the sphere then has m - 1 dimensions.
        given: Size by name of the values it conditions on.
        hidden: Units of each hidden layer.
        activation: Name of the activation.
        net: A network of your own instead, with m + 1 outputs.
        floor: Least concentration.
        concentration: ``"softplus"`` or ``"exp"``, what makes it of the network's number; the
            exponential ends at 1e5, up to which densities are exact.

    Raises:
        ValueError: If the size is below 2, the floor below 0, or the concentration another.
    """

    def __init__(
        self,
        size: int,
        given: Mapping[str, int],
        hidden: Sequence[int] = (),
        activation: str = "softplus",
        net: nn.Module | None = None,
        floor: float = 1.0,
        concentration: str = "softplus",
    ) -> None:
        at_least(size=(size, 2))
        if concentration not in CONCENTRATIONS:
            raise ValueError(unknown("concentration", concentration, CONCENTRATIONS))
        if not floor >= 0:
            raise ValueError(f"floor is {floor}, expected a concentration of at least 0")
        super().__init__(size, given, hidden, activation, net)
        self.floor, self.positive = floor, CONCENTRATIONS[concentration]

    def outputs(self, size: int) -> int:
        """A mean direction and one concentration."""
        return size + 1

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """Batch shape ``(...)``, event shape ``(size,)``."""
        return Distribution(direction(raw[..., :-1]), self.positive(raw[..., -1]) + self.floor)
