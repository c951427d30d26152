"""Encoders and decoders of frames: convolutions for images, perceptrons for vectors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ppl_models.image_networks import conv_decoder, conv_encoder
from ppl_models.networks import Net


def frame_networks(
    shape: Sequence[int],
    latent: int,
    outputs: int,
    channels: Sequence[int],
    hidden: Sequence[int],
) -> tuple[nn.Module, nn.Module]:
    """From ``x`` to so many outputs, and from a code ``e`` to ``x``.

    Args:
        shape: ``(H, W, C)`` of images, or ``(D,)`` of vectors.
        latent: Size of the code.
        outputs: Of the encoder.
        channels: Maps of each convolution; images only.
        hidden: Units of the encoder's dense layers, of the decoder's back.
    """
    back = tuple(hidden)[::-1]
    if len(shape) == 1:
        (size,) = shape
        return Net({"x": size}, hidden, outputs, "silu"), Net({"e": latent}, back, size, "silu")
    nets = {"channels": channels, "activation": "silu"}
    return (
        conv_encoder(shape, outputs, hidden=hidden, **nets),
        conv_decoder({"e": latent}, shape, hidden=back, **nets),
    )
