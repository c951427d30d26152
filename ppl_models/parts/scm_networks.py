"""Networks that see the variables of a structural causal model as its mechanisms do."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ppl_models.parts.scm import SCM


class Inner(nn.Module):
    """A network that is given variables in their units, and sees them before their outer layers.

    For guides, which are given sites: ``Normal(16, {"x": 784, "age": Scalar()},
    net=Inner(net, scm))``.

    Args:
        net: The network, called by keyword.
        scm: The model whose variables it sees; others of its inputs pass as they are.
    """

    def __init__(self, net: nn.Module, scm: SCM) -> None:
        super().__init__()
        self.net = net
        self._scm = (scm,)  # in a tuple it is no part of this module, and is saved once

    @property
    def given(self) -> Any:
        """Names of the network's inputs, for guides and critics that ask them."""
        return self.net.given

    def forward(self, **values: Tensor) -> Tensor:
        """The network's output."""
        (scm,) = self._scm
        there = [name for name in scm.mechanisms if name in values]
        out: Tensor = self.net(**{**values, **scm.inner(values, there)})
        return out
