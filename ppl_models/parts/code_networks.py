"""Networks between x and a code of several sites, for images and for vectors; and a critic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ppl_models.image_networks import conv_decoder, conv_encoder
from ppl_models.networks import Label, Net, Scalar, activation_layer


def joined(values: Mapping[str, Tensor], sizes: Mapping[str, int]) -> Tensor:
    """Codes side by side ``(..., size)``: one product of matrices in place of one for each."""
    wide = [_vector(values[name], size) for name, size in sizes.items()]
    shape = torch.broadcast_shapes(*(value.shape[:-1] for value in wide))
    return torch.cat([value.expand(*shape, -1) for value in wide], -1)


def _vector(value: Tensor, size: int) -> Tensor:
    """Numbers get a dimension of their own, labels become one-hot vectors."""
    if isinstance(size, Label) and not value.is_floating_point():
        # one_hot looks at the labels, which torch.func does not allow.
        return functional.embedding(value, torch.eye(size, device=value.device))
    return value.unsqueeze(-1) if isinstance(size, Scalar) else value


def reader(
    shape: Sequence[int],
    outputs: int,
    channels: Sequence[int],
    hidden: Sequence[int],
    activation: str = "relu",
    given: Mapping[str, int] | None = None,
) -> nn.Module:
    """A network of ``x``: an encoder, or a critic.

    Args:
        shape: ``(H, W, C)`` of x.
        outputs: Size of the output.
        channels: Maps of each layer, every one of which halves the sides; none for a perceptron.
        hidden: Units of each dense layer.
        activation: Name of the activation.
        given: Sizes of further inputs by name, such as a code.
    """
    given = given or {}
    if not channels:
        return Net({"x": math.prod(shape), **given}, hidden, outputs, activation)
    return conv_encoder(
        shape,
        outputs,
        channels=channels,
        kernels=(4,),
        hidden=hidden,
        activation=activation,
        given=given,
    )


def maker(
    given: Mapping[str, int],
    shape: Sequence[int],
    channels: Sequence[int],
    hidden: Sequence[int],
    activation: str = "relu",
) -> nn.Module:
    """A network to x ``(..., D)``, each entry any number; arguments as of :func:`reader`."""
    if not channels:
        return Net(given, hidden, math.prod(shape), activation)
    return conv_decoder(given, shape, channels=channels, hidden=hidden, activation=activation)


class Maker(nn.Module):
    """x ``(..., D)`` of codes; of a perceptron any numbers, of convolutions 0 to 1.

    Args:
        codes: Sizes of the codes by name.
        shape: As of :func:`reader`.
        channels: As of :func:`reader`.
        hidden: As of :func:`reader`.
    """

    def __init__(
        self,
        codes: Mapping[str, int],
        shape: Sequence[int],
        channels: Sequence[int],
        hidden: Sequence[int],
    ) -> None:
        super().__init__()
        self.codes, self.bounded = dict(codes), bool(channels)
        self.net = maker({"z": sum(codes.values())}, shape, channels, hidden)

    def forward(self, **codes: Tensor) -> Tensor:
        """Codes ``(..., size)``, or ``(...)`` of one number."""
        made: Tensor = self.net(z=joined(codes, self.codes))
        return made.sigmoid() if self.bounded else made


class JointCritic(nn.Module):
    """The mean of three heads: of what a network reads off x, of the codes, and of both.

    Shen et al. (2022, JMLR 23, arXiv 2010.02637, appendix) judge encoded and generated points so.

    Args:
        reader: Reads ``x``, and those of the codes that it names as inputs; gives
            ``(B, features)``.
        features: Their number.
        codes: Sizes of the codes by name, as networks take them.
        hidden: Units of the hidden layers of the heads.
        activation: Name of the activation.
    """

    def __init__(
        self,
        reader: nn.Module,
        features: int,
        codes: Mapping[str, int],
        hidden: Sequence[int],
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.given, self.codes = ("x", *codes), dict(codes)
        self.reads: tuple[str, ...] = tuple(getattr(reader, "given", ("x",)))
        self.reader = nn.ModuleList([reader, activation_layer(activation)])
        seen, size = {"x": features}, {"z": sum(codes.values())}
        self.of_x = Net(seen, hidden[-1:], 1, activation)
        self.of_z = Net(size, hidden, 1, activation)
        self.of_both = Net({**seen, **size}, hidden, 1, activation)

    def forward(self, **values: Tensor) -> Tensor:
        """Log ratio ``(B, 1)`` at ``x`` and codes ``(B, ...)``."""
        z, (eye, bend) = joined(values, self.codes), self.reader
        seen = bend(eye(**{name: values[name] for name in self.reads}))
        mean: Tensor = (self.of_x(x=seen) + self.of_z(z=z) + self.of_both(x=seen, z=z)) / 3
        return mean
