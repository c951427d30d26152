"""Networks that see the variables of a structural causal model as its mechanisms do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ppl_models.parts.code_networks import maker, reader
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


def image_reader(
    scm: SCM,
    shape: Sequence[int],
    outputs: int,
    channels: Sequence[int],
    hidden: Sequence[int],
    **given: int,
) -> Inner:
    """Numbers of an image ``x`` and its causes: :func:`ppl_models.parts.code_networks.reader`.

    Args:
        scm: The causes, all of which it is given.
        shape: ``(H, W, C)`` of the image.
        outputs: Size of the output.
        channels: As of the reader.
        hidden: As of the reader.
        given: Sizes of further inputs by name, such as a code.
    """
    return Inner(reader(shape, outputs, channels, hidden, "silu", {**given, **sizes_of(scm)}), scm)


def image_maker(
    scm: SCM, shape: Sequence[int], channels: Sequence[int], hidden: Sequence[int], **given: int
) -> Inner:
    """An image of causes, flat, each entry any number; arguments as of :func:`image_reader`."""
    return Inner(maker({**given, **sizes_of(scm)}, shape, channels, hidden, "silu"), scm)


def sizes_of(scm: SCM) -> dict[str, int]:
    """Sizes of the variables by name, as networks take them."""
    mechanisms: Any = scm.mechanisms
    return {name: mechanism.size for name, mechanism in mechanisms.items()}
