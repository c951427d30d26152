"""Networks between x and a code of several sites, for images and for vectors; and a critic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ppl_models.image_networks import conv_decoder, conv_encoder
from ppl_models.networks import Net, activation_layer


def reader(
    shape: Sequence[int], outputs: int, channels: Sequence[int], hidden: Sequence[int]
) -> nn.Module:
    """A network of ``x``.

    Args:
        shape: ``(H, W, C)`` of x.
        outputs: Size of the output.
        channels: Maps of each layer; none for a perceptron.
        hidden: Units of each dense layer.
    """
    if not channels:
        return Net({"x": math.prod(shape)}, hidden, outputs, "relu")
    return conv_encoder(shape, outputs, channels=channels, kernels=(4,), hidden=hidden)


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
        self.bounded = bool(channels)
        self.net: nn.Module = (
            conv_decoder(codes, shape, channels=channels, hidden=hidden)
            if channels
            else Net(codes, hidden, math.prod(shape), "relu")
        )

    def forward(self, **codes: Tensor) -> Tensor:
        """Codes ``(..., size)``, or ``(...)`` of one number."""
        made: Tensor = self.net(**codes)
        return made.sigmoid() if self.bounded else made


class JointCritic(nn.Module):
    """The mean of three heads: of what a network reads off x, of the codes, and of both.

    Shen et al. (2022, JMLR 23, arXiv 2010.02637, appendix) judge encoded and generated points so.

    Args:
        reader: Reads ``x`` alone; gives ``(B, features)``.
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
        self.given = ("x", *codes)
        self.reader = nn.ModuleList([reader, activation_layer(activation)])
        seen = {"x": features}
        self.of_x = Net(seen, hidden[-1:], 1, activation)
        self.of_z = Net(codes, hidden, 1, activation)
        self.of_both = Net({**seen, **codes}, hidden, 1, activation)

    def forward(self, **values: Tensor) -> Tensor:
        """Log ratio ``(B, 1)`` at ``x`` and codes ``(B, ...)``."""
        x, codes = values["x"], {n: values[n] for n in self.given[1:]}
        reader, bend = self.reader
        seen = bend(reader(x=x))
        heads = self.of_x(x=seen), self.of_z(**codes), self.of_both(x=seen, **codes)
        mean: Tensor = sum(heads[1:], heads[0]) / 3
        return mean
