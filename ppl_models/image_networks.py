"""Convolutional networks between flat images and numbers: of the disentanglement study, residual.

Images come and go flat ``(..., H * W * C)``, the channels of a pixel beside each other, as a
table has them. Seen as ``(N, H, W, C)`` they already lie as torch's channels-last layout wants
them, so nothing is copied on the way in or out, and convolutions run in the layout that is the
faster one. Any dimensions may stand before the last: draws, labels, rows.

An encoder halves the sides layer by layer, odd ones upwards (7 to 4), down to 1 if need be; a
decoder passes the same sides backwards. So every side from 1 on has a network. The padding is what
this takes ("same"), and where an even kernel meets an odd side, it is one zero more in front. Of
a side of one pixel, a kernel has one entry.

All weights are drawn from Glorot's uniform distribution and biases are 0, as in the study.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ppl_models.config import image_shape
from ppl_models.networks import Net, SumLinear, activation_layer

Sides = tuple[int, int]  # height, width

STUDY = (32, 32, 64, 64)  # channels by layer, of Locatello et al. (2019), for 64 x 64
SMALL = (32, 64)  # for 28 x 28 (14, 7) and 12 x 12 (6, 3)
KERNELS = (4, 4, 2, 2)  # of the study's encoder; its decoder has 4 throughout
GROUP = 8  # channels that group norm takes together


class ImageEncoder(nn.Module):
    """Maps of an image, then dense layers which other inputs enter: flat in, numbers out.

    The other inputs broadcast late, as in :class:`ppl_models.networks.SumLinear`: the maps of an
    image are made once, whatever number of labels or codes stands beside it.

    Args:
        maps: From ``(N, C, H, W)`` to maps of that many numbers in all.
        shape: ``(H, W, C)`` of the image.
        features: Number of these numbers.
        outputs: Size of the output.
        hidden: Units of each dense layer between.
        activation: One of ``networks.ACTIVATIONS``.
        image: Name of the input that is the image.
        given: Size of further inputs by name, as in ``SumLinear``.
    """

    def __init__(
        self,
        maps: nn.Module,
        shape: Sequence[int],
        features: int,
        outputs: int,
        hidden: Sequence[int],
        activation: str,
        image: str,
        given: Mapping[str, int] | None,
    ) -> None:
        super().__init__()
        self.image, self.shape, self.features = image, tuple(shape), features
        self.maps = maps
        self.dense = Net({image: features, **(given or {})}, hidden, outputs, activation)
        _glorot(self)

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return self.dense.given

    def forward(self, **values: Tensor) -> Tensor:
        """Image ``(..., H * W * C)``, others ``(..., size)``; output ``(..., outputs)``."""
        flat = values[self.image]
        before, size = flat.shape[:-1], math.prod(self.shape)
        if flat.shape[-1] != size:
            raise ValueError(
                f"the image {self.image!r} has {flat.shape[-1]} numbers, expected {size} for "
                f"{self.shape}"
            )
        maps = self.maps(flat.reshape(-1, *self.shape).permute(0, 3, 1, 2))
        features = maps.permute(0, 2, 3, 1).reshape(*before, self.features)
        out: Tensor = self.dense(**{**values, self.image: features})
        return out


class ImageDecoder(nn.Module):
    """Dense layers, then maps that grow to an image: numbers in, flat out.

    Args:
        maps: From ``(N, c, h, w)`` to ``(N, each * C, H, W)``.
        start: ``(h, w, c)``, where the maps begin.
        shape: ``(H, W, C)`` of the image.
        each: Numbers for each entry of the image; they follow image by image, all first ones
            first, as a likelihood's ``outputs`` are read.
        hidden: Units of each dense layer before.
        activation: One of ``networks.ACTIVATIONS``.
        given: Size of each input by name, as in :class:`ppl_models.networks.SumLinear`.
    """

    def __init__(
        self,
        maps: nn.Module,
        start: Sequence[int],
        shape: Sequence[int],
        each: int,
        hidden: Sequence[int],
        activation: str,
        given: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.start, self.shape, self.each = tuple(start), tuple(shape), each
        self.dense = Net(given, hidden, math.prod(start), activation)
        self.maps = maps
        _glorot(self)

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return self.dense.given

    def forward(self, **values: Tensor) -> Tensor:
        """Inputs of shape ``(..., size)``, labels ``(...)``; ``(..., each * H * W * C)``."""
        numbers = self.dense(**values)
        before = numbers.shape[:-1]
        maps = self.maps(numbers.reshape(-1, *self.start).permute(0, 3, 1, 2))
        images = maps.permute(0, 2, 3, 1)
        if self.each > 1:
            images = images.unflatten(-1, (self.each, self.shape[2])).movedim(-2, 1)
        flat: Tensor = images.reshape(*before, self.each * math.prod(self.shape))
        return flat


def conv_encoder(
    shape: Sequence[int],
    outputs: int,
    *,
    channels: Sequence[int] = STUDY,
    kernels: Sequence[int] = KERNELS,
    hidden: Sequence[int] = (256,),
    activation: str = "relu",
    image: str = "x",
    given: Mapping[str, int] | None = None,
) -> ImageEncoder:
    """The encoder of the disentanglement study (Locatello et al. 2019, arXiv 1811.12359).

    Args:
        shape: ``(H, W, C)`` of the image.
        outputs: Size of the output, such as mean and log-variance of a code: twice its size.
        channels: Maps of each layer; each halves the sides. ``SMALL`` for small images.
        kernels: Sides of each layer's kernel; the last also those of all that follow.
        hidden: Units of each dense layer between maps and output.
        activation: One of ``networks.ACTIVATIONS``.
        image: Name of the input that is the image.
        given: Size of further inputs by name, as in :class:`ppl_models.networks.SumLinear`,
            which enter the first dense layer.

    Raises:
        ValueError: If the shape is none of an image, or there is no layer.
    """
    shape = image_shape("shape", shape)
    sides = sides_of(shape, channels)
    layers: list[nn.Module] = []
    for place, (before, after) in enumerate(itertools.pairwise((shape[2], *channels))):
        kernel = kernels[min(place, len(kernels) - 1)]
        layers += [halving(before, after, sides[place], kernel), activation_layer(activation)]
    features = channels[-1] * math.prod(sides[-1])
    maps = nn.Sequential(*layers)
    return ImageEncoder(maps, shape, features, outputs, hidden, activation, image, given)


def conv_decoder(
    given: Mapping[str, int],
    shape: Sequence[int],
    *,
    each: int = 1,
    channels: Sequence[int] = STUDY,
    kernel: int = 4,
    hidden: Sequence[int] = (256,),
    activation: str = "relu",
) -> ImageDecoder:
    """The decoder of the disentanglement study: dense layers, then transposed convolutions.

    Args:
        given: Size of each input by name, as in :class:`ppl_models.networks.SumLinear`.
        shape: ``(H, W, C)`` of the image.
        each: Numbers for each entry of the image: a likelihood's ``outputs``.
        channels: Maps of each layer, in the order of the encoder: the last are the smallest maps,
            which the dense layers give.
        kernel: Side of all kernels.
        hidden: Units of each dense layer before the smallest maps.
        activation: One of ``networks.ACTIVATIONS``.

    Raises:
        ValueError: If the shape is none of an image, or there is no layer.
    """
    shape = image_shape("shape", shape)
    sides = sides_of(shape, channels)
    layers: list[nn.Module] = []
    sizes = (each * shape[2], *channels)
    for place in reversed(range(len(channels))):
        layers.append(activation_layer(activation))
        layers.append(doubling(sizes[place + 1], sizes[place], sides[place], kernel))
    start = (*sides[-1], channels[-1])
    return ImageDecoder(nn.Sequential(*layers), start, shape, each, hidden, activation, given)


def residual_encoder(
    shape: Sequence[int],
    outputs: int,
    *,
    channels: Sequence[int] = STUDY,
    blocks: int = 1,
    hidden: Sequence[int] = (256,),
    activation: str = "silu",
    image: str = "x",
    given: Mapping[str, int] | None = None,
) -> ImageEncoder:
    """An encoder of residual blocks with group norm, which looks at each row alone.

    Args:
        shape: ``(H, W, C)`` of the image.
        outputs: Size of the output.
        channels: Maps at each size, from half the image's sides on.
        blocks: Residual blocks at each size.
        hidden: Units of each dense layer between maps and output.
        activation: One of ``networks.ACTIVATIONS``.
        image: Name of the input that is the image.
        given: Size of further inputs by name, as in :class:`ppl_models.networks.SumLinear`,
            which enter the first dense layer.

    Raises:
        ValueError: If the shape is none of an image, or there is no layer.
    """
    shape = image_shape("shape", shape)
    sides = sides_of(shape, channels)
    layers: list[nn.Module] = []
    for (before, after), side in zip(
        itertools.pairwise((shape[2], *channels)), sides, strict=False
    ):
        layers.append(halving(before, after, side, 4))
        layers += (ResidualBlock(after, activation) for _ in range(blocks))
    layers += [group_norm(channels[-1]), activation_layer(activation)]
    features = channels[-1] * math.prod(sides[-1])
    maps = nn.Sequential(*layers)
    return ImageEncoder(maps, shape, features, outputs, hidden, activation, image, given)


def residual_decoder(
    given: Mapping[str, int],
    shape: Sequence[int],
    *,
    each: int = 1,
    channels: Sequence[int] = STUDY,
    blocks: int = 1,
    hidden: Sequence[int] = (256,),
    activation: str = "silu",
) -> ImageDecoder:
    """The mirror image of :func:`residual_encoder`.

    Args:
        given: Size of each input by name, as in :class:`ppl_models.networks.SumLinear`.
        shape: ``(H, W, C)`` of the image.
        each: Numbers for each entry of the image: a likelihood's ``outputs``.
        channels: Maps at each size, in the order of the encoder.
        blocks: Residual blocks at each size.
        hidden: Units of each dense layer before the smallest maps.
        activation: One of ``networks.ACTIVATIONS``.

    Raises:
        ValueError: If the shape is none of an image, or there is no layer.
    """
    shape = image_shape("shape", shape)
    sides = sides_of(shape, channels)
    layers: list[nn.Module] = []
    sizes = (each * shape[2], *channels)
    for place in reversed(range(len(channels))):
        layers += (ResidualBlock(sizes[place + 1], activation) for _ in range(blocks))
        if place == 0:
            layers += [group_norm(sizes[1]), activation_layer(activation)]
        layers.append(doubling(sizes[place + 1], sizes[place], sides[place], 4))
    start = (*sides[-1], channels[-1])
    return ImageDecoder(nn.Sequential(*layers), start, shape, each, hidden, activation, given)


class ResidualBlock(nn.Module):
    """``x + conv(act(norm(conv(act(norm(x))))))``, with group norm.

    Group norm takes means over the maps of one row, eight maps together where their number is a
    multiple of eight, and all of them otherwise; it knows nothing of other rows.

    Args:
        channels: Number of maps, which stays.
        activation: One of ``networks.ACTIVATIONS``.
        kernel: Side of the kernels, odd; 1 where maps are one pixel.
    """

    def __init__(self, channels: int, activation: str = "silu", kernel: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
            layers += [group_norm(channels), activation_layer(activation), conv]
        self.branch = nn.Sequential(*layers)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps ``(N, channels, h, w)`` to maps of that shape."""
        out: Tensor = maps + self.branch(maps)
        return out


def group_norm(channels: int) -> nn.GroupNorm:
    """The group norm of :class:`ResidualBlock`."""
    # Groups of one map would be all 0 where the map is a single number.
    return nn.GroupNorm(1 if channels % GROUP else channels // GROUP, channels)


def sides_of(shape: Sequence[int], channels: Sequence[int]) -> list[Sides]:
    """Sides before the first layer and after each."""
    if not channels:
        raise ValueError("channels are (), expected at least one layer")
    sides = [(shape[0], shape[1])]
    for _ in channels:
        height, width = sides[-1]
        sides.append((-(-height // 2), -(-width // 2)))
    return sides


def _padding(side: int, kernel: int) -> int:
    """Zeros before a side, and at most as many after it, that halve it upwards."""
    return (kernel - 1) // 2 + (side % 2 if kernel % 2 == 0 else 0)


def _kernel(sides: Sides, kernel: int) -> Sides:
    """Sides of a kernel: one entry where the maps are one pixel wide, which no other would meet.

    The others would be no part of the function, and in torch 2.13 their gradients in bfloat16, on
    a CPU, are numbers that nobody wrote.
    """
    height, width = (kernel if side > 1 else 1 for side in sides)
    return height, width


def halving(before: int, after: int, sides: Sides, kernel: int) -> nn.Conv2d:
    """From so many maps of these sides to so many of half the sides, odd ones upwards."""
    own = _kernel(sides, kernel)
    height, width = map(_padding, sides, own)
    return nn.Conv2d(before, after, own, stride=2, padding=(height, width))


def doubling(before: int, after: int, sides: Sides, kernel: int) -> nn.ConvTranspose2d:
    """The transpose of :func:`halving` at these sides, which are those of its output."""
    own = _kernel(sides, kernel)
    height, width = map(_padding, sides, own)
    more = [
        side - (2 * (-(-side // 2) - 1) - 2 * padding + entries)
        for side, padding, entries in zip(sides, (height, width), own, strict=True)
    ]
    return nn.ConvTranspose2d(
        before,
        after,
        own,
        stride=2,
        padding=(height, width),
        output_padding=(more[0], more[1]),
    )


def _glorot(net: nn.Module) -> None:
    """Weights uniform over +-sqrt(6 / (fan in + fan out)), biases 0; norms stay as they are."""
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, SumLinear):
            bound = math.sqrt(6 / (sum(module.given.values()) + len(module.bias)))
            for weight in module.weights.values():
                nn.init.uniform_(weight, -bound, bound)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
