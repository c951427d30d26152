"""A network that sends no gradient into some of its inputs."""

from __future__ import annotations

from torch import Tensor, nn


class Stopped(nn.Module):
    """A network of named inputs, some of which count as constants.

    For a factor that must not shape what it is given:
    ``Categorical(2, {"z": 5}, net=Stopped(Net({"z": 5}, (7,), 2), "z"))``.

    Args:
        net: The network, called by keyword.
        names: Inputs whose gradient stops.
    """

    def __init__(self, net: nn.Module, *names: str) -> None:
        super().__init__()
        self.net, self.names = net, names

    def forward(self, **values: Tensor) -> Tensor:
        """The network's output."""
        held = {n: v.detach() if n in self.names else v for n, v in values.items()}
        out: Tensor = self.net(**held)
        return out
