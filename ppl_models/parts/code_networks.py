"""Networks between x and a code of several sites, for images and for vectors; and a critic."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from ppl_models.batch import Batch
from ppl_models.image_networks import conv_decoder, conv_encoder
from ppl_models.networks import (
    Label,
    Net,
    Scalar,
    SpectrallyNormalised,
    activation_layer,
)

TINY = 1e-6  # deviation of x that are all the same
ACTIVATIONS = {True: "silu", False: "relu"}  # of networks with and without convolutions
LEAST = 0.02  # of a pixel's mean, and from 1, where images begin: a sigmoid has no end


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

    Images are what the network adds to the mean image's logits: what all have in common need not
    be learnt, and a critic does not tell the first images from data by it.

    Args:
        codes: Sizes of the codes by name.
        shape: As of :func:`reader`.
        channels: As of :func:`reader`.
        hidden: As of :func:`reader`.

    Attributes:
        origin: Logits of the mean image ``(D,)``; 0 until they are counted.
    """

    origin: Tensor

    def __init__(
        self,
        codes: Mapping[str, int],
        shape: Sequence[int],
        channels: Sequence[int],
        hidden: Sequence[int],
    ) -> None:
        super().__init__()
        self.codes, self.bounded = dict(codes), bool(channels)
        sizes, bend = {"z": sum(codes.values())}, ACTIVATIONS[self.bounded]
        self.net = maker(sizes, shape, channels, hidden, bend)
        self.register_buffer("origin", torch.zeros(math.prod(shape)))

    def count(self, x: Tensor) -> None:
        """Take the mean image from rows ``(B, D)``; once, as weights hang on it."""
        if self.bounded and not bool(self.origin.any()):
            self.origin.copy_(x.mean(0).clamp(LEAST, 1 - LEAST).logit())

    def forward(self, **codes: Tensor) -> Tensor:
        """Codes ``(..., size)``, or ``(...)`` of one number."""
        made: Tensor = self.net(z=joined(codes, self.codes))
        return (made + self.origin).sigmoid() if self.bounded else made


class Standardised(nn.Module):
    """A network of x about the mean of each number, in units of their common deviation.

    Images are mostly what they have in common. As they are, a small thing that moves in them is
    next to nothing in the first features, and lost in the noise of a code.

    Args:
        net: Called with ``x=``.
        size: Numbers of x.

    Attributes:
        mean: ``(size,)``, 0 until it is counted.
        deviation: Root of the mean variance, 1 until it is counted.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, net: nn.Module, size: int) -> None:
        super().__init__()
        self.net, self.given = net, ("x",)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(()))

    def count(self, x: Tensor) -> None:
        """Take both from rows ``(B, size)``; once, as weights hang on them."""
        if not bool(self.mean.any()):
            self.mean.copy_(x.mean(0))
            self.deviation.copy_(x.var(0, correction=0).mean().sqrt().clamp_min(TINY))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., outputs)``."""
        out: Tensor = self.net(x=(x - self.mean) / self.deviation)
        return out


def centred_reader(
    shape: Sequence[int], outputs: int, channels: Sequence[int], hidden: Sequence[int]
) -> nn.Module:
    """A :func:`reader` of ``x``, which sees images about their mean; arguments as of that."""
    net = reader(shape, outputs, channels, hidden, ACTIVATIONS[bool(channels)])
    return Standardised(net, math.prod(shape)) if channels else net


def counting(*networks: nn.Module) -> Callable[[Batch], None]:
    """What networks take from some rows once, for ``Stage(start=)``.

    Args:
        networks: Whose parts :class:`Maker` and :class:`Standardised` look at ``x``.
    """
    return partial(_count, networks)


def _count(networks: Sequence[nn.Module], rows: Batch) -> None:
    for network in networks:
        for module in network.modules():
            if isinstance(module, Maker | Standardised):
                module.count(rows["x"])


class JointCritic(nn.Module):
    """Three heads: of what a network reads off x, of the codes, and of both.

    Shen et al. (2022, JMLR 23, arXiv 2010.02637, appendix) judge encoded and generated points so.

    Args:
        reader: Reads ``x``, and those of the codes that it names as inputs; gives
            ``(B, features)``.
        features: Their number.
        codes: Sizes of the codes by name, as networks take them.
        hidden: Units of the hidden layers of the heads.
        activation: Name of the activation.
        share: Of each head in the ratio; the paper has their mean.
    """

    def __init__(
        self,
        reader: nn.Module,
        features: int,
        codes: Mapping[str, int],
        hidden: Sequence[int],
        activation: str = "relu",
        share: float = 1 / 3,
    ) -> None:
        super().__init__()
        self.share = share
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
        heads: Tensor = self.of_x(x=seen) + self.of_z(z=z) + self.of_both(x=seen, z=z)
        return self.share * heads


def joint_critic(
    shape: Sequence[int], codes: Mapping[str, int], channels: Sequence[int], hidden: Sequence[int]
) -> nn.Module:
    """A :class:`JointCritic`, of which no layer stretches what it is given where x is an image.

    There it could else tell points apart with certainty by a few pixels, and what it teaches would
    vanish. Its ratio is then the sum of the heads: their mean would change too little.

    Args:
        shape: As of :func:`reader`.
        codes: Sizes of the codes by name.
        channels: As of :func:`reader`.
        hidden: Units of its dense layers; the last also the number of features of ``x``.
    """
    sees = centred_reader(shape, hidden[-1], channels, hidden)
    if not channels:
        return JointCritic(sees, hidden[-1], codes, hidden)
    critic = JointCritic(sees, hidden[-1], codes, hidden, ACTIVATIONS[True], share=1.0)
    return SpectrallyNormalised(critic)
