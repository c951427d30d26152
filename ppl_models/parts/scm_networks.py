"""Networks that see the variables of a structural causal model as its mechanisms do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppl_models.parts.code_networks import JointCritic, joined, maker, reader
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


class WithMaps(nn.Module):
    """A network of an image beside which each number of its variables stands as a constant map.

    So a convolution sees them everywhere, and pixels, which go from -1 to 1 there, do not drown
    them. Labels have one map a class.

    Args:
        net: Of flat images ``x``, with so many more channels.
        shape: ``(H, W, C)`` of the image.
        variables: Sizes of the variables by name.
    """

    def __init__(self, net: nn.Module, shape: Sequence[int], variables: Mapping[str, int]) -> None:
        super().__init__()
        self.net, self.shape, self.variables = net, tuple(shape), dict(variables)
        self.given = ("x", *self.variables)

    def forward(self, x: Tensor, **values: Tensor) -> Tensor:
        """Images ``(..., H * W * C)`` from 0 to 1, and their variables; the network's output."""
        numbers = joined(values, self.variables)[..., None, None, :]
        pixels = (2 * x - 1).unflatten(-1, self.shape)
        shape = torch.broadcast_shapes(pixels.shape[:-1], (*numbers.shape[:-3], 1, 1))
        both = [part.expand(*shape, -1) for part in (pixels, numbers)]
        out: Tensor = self.net(x=torch.cat(both, -1).flatten(-3))
        return out


def image_reader(
    scm: SCM, shape: Sequence[int], outputs: int, channels: Sequence[int], hidden: Sequence[int]
) -> Inner:
    """Numbers of an image ``x`` and its causes: :func:`ppl_models.parts.code_networks.reader`.

    Args:
        scm: The causes, all of which it is given; as maps, if there are convolutions.
        shape: ``(H, W, C)`` of the image.
        outputs: Size of the output.
        channels: As of the reader.
        hidden: As of the reader.
    """
    return Inner(_reader(sizes_of(scm), shape, outputs, channels, hidden), scm)


def image_critic(
    scm: SCM, shape: Sequence[int], channels: Sequence[int], hidden: Sequence[int], **codes: int
) -> Inner:
    """A critic of an image ``x``, its causes and codes, by heads of their own.

    Args:
        scm: The causes.
        shape: ``(H, W, C)`` of the image.
        channels: As of :func:`image_reader`.
        hidden: Units of the heads; the first also the number of features of the image.
        codes: Sizes of the codes by name.
    """
    eye = _reader(sizes_of(scm), shape, hidden[0], channels, ())
    critic = JointCritic(eye, hidden[0], {**codes, **sizes_of(scm)}, hidden, "silu")
    return Inner(critic, scm)


def _reader(
    causes: Mapping[str, int],
    shape: Sequence[int],
    outputs: int,
    channels: Sequence[int],
    hidden: Sequence[int],
) -> nn.Module:
    if not channels:
        return reader(shape, outputs, channels, hidden, "silu", causes)
    height, width, colours = shape
    deeper = (height, width, colours + sum(causes.values()))
    return WithMaps(reader(deeper, outputs, channels, hidden, "silu"), shape, causes)


def image_maker(
    scm: SCM, shape: Sequence[int], channels: Sequence[int], hidden: Sequence[int], **codes: int
) -> Inner:
    """An image of causes and codes, flat, each entry any number; arguments as of the critic."""
    return Inner(maker({**codes, **sizes_of(scm)}, shape, channels, hidden, "silu"), scm)


def sizes_of(scm: SCM) -> dict[str, int]:
    """Sizes of the variables by name, as networks take them."""
    mechanisms: Any = scm.mechanisms
    return {name: mechanism.size for name, mechanism in mechanisms.items()}
