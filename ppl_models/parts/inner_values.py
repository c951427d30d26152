"""Networks that see the variables of a structural causal model as its own networks do."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ppl_models.parts.scm import SCM


class Inner(nn.Module):
    """A network of named inputs that sees an SCM's variables before their outer layers.

    There they are of the order of one, whatever their units.

    Args:
        net: The network, called by keyword.
        scm: The variables. They stay the owner's: no parameter of theirs is one of this.
    """

    def __init__(self, net: nn.Module, scm: SCM) -> None:
        super().__init__()
        self.net = net
        self.__dict__["scm"] = scm  # a view

    @property
    def given(self) -> Any:
        """Names of the network's inputs."""
        return self.net.given

    def forward(self, **values: Tensor) -> Tensor:
        """The network's output; values as they stand in the data."""
        scm: SCM = self.__dict__["scm"]
        causes = [name for name in scm.mechanisms if name in values]
        out: Tensor = self.net(**{**values, **scm.inner(values, causes)})
        return out
