"""A frame given the one before it, when it is known which variables were set between the two.

What the stories of CITRIS share: a frame's code, by an encoder or the frame itself, goes through a
flow to latents in blocks (:mod:`ppl_models.parts.intervened_latents`). Sites are ``psi`` and
``z_next``; ``x`` and ``targets`` are covariates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models.batch import Batch
from ppl_models.image_networks import conv_decoder, conv_encoder
from ppl_models.networks import Net
from ppl_models.parts.code_networks import Standardised, counting
from ppl_models.parts.intervened_latents import (
    Blocks,
    Carried,
    Flow,
    Transitions,
    inside,
    latents,
)


class Frames(nn.Module):
    """Flow, blocks and transitions of frames, and their encoder and decoder, if there are any.

    Args:
        config: Has ``variables``, ``flow_steps``, ``flow``, ``units``, ``perfect`` and ``spare``.
        size: Number M of latents.
        encoder: q(e | x), called with ``x=``; without one the frame itself is the code.
        decoder: From a code ``e`` to a frame.
    """

    def __init__(
        self,
        config: Any,
        size: int,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.flow = Flow(size, config.flow_steps, config.flow)
        self.blocks = Blocks(size, config.variables, spare=config.spare > 0)
        self.transitions = Transitions(size, config.variables, config.units, config.perfect)
        self.encoder, self.decoder = encoder, decoder

    def count(self, batch: Batch) -> None:
        """What is taken from some rows once, for ``Stage(start=)``: of targets, and of frames."""
        self.blocks.count(batch)
        counting(self)(batch)

    def code(self, batch: Batch) -> Tensor:
        """Latents ``(B, M)`` of the frames ``x``, at the mean of their code."""
        x = batch["x"]
        z: Tensor = self.flow(x if self.encoder is None else self.encoder(x=x).mean)
        return z

    def next(self, batch: Batch) -> Carried:
        """The next frame's code given this one, by the sites ``psi`` and ``z_next``."""
        z_next = self.transitions.sample(self.blocks, self.code(batch), batch["targets"])
        return Carried(self.flow, z_next)

    def combined(self, first: Batch, second: Batch, variables: Sequence[int]) -> Tensor:
        """The first's frames ``x`` with the latents of some variables as in the second's.

        Args:
            first: The rows.
            second: As many.
            variables: Numbers of the blocks that are exchanged; 0 is nobody's.
        """
        e = self.flow.inverse(self.blocks.swapped(self.code(first), self.code(second), variables))
        return self.decoded(e)

    def decoded(self, e: Tensor) -> Tensor:
        """Frames of codes; the codes themselves without a decoder."""
        x: Tensor = e if self.decoder is None else self.decoder(e=e)
        return x


class FrameGuide(nn.Module):
    """q(e' | x'), z' = f(e') and the blocks, of the frame ``x_next``.

    Args:
        frames: Their flow, blocks and encoder.
    """

    def __init__(self, frames: Frames) -> None:
        super().__init__()
        self.flow, self.blocks, self.encoder = frames.flow, frames.blocks, frames.encoder

    def forward(self, batch: Batch) -> None:
        """Sample e', z' and psi."""
        e = batch["x_next"]
        with batch.plate():
            if self.encoder is not None:
                e = pyro.sample("e_next", self.encoder(x=e))  # B x M
            with latents(len(self.blocks.logits)):
                pyro.sample("z_next", dist.Delta(inside(self.flow(e))))  # M x B
                pyro.sample("psi", self.blocks(), infer={"enumerate": "parallel"})  # E x M x B


class Noisy(nn.Module):
    """An encoder whose code has noise of one deviation.

    Args:
        net: From ``x`` to the code ``(..., M)``.
        scale: The deviation.
    """

    def __init__(self, net: nn.Module, scale: float) -> None:
        super().__init__()
        self.net, self.scale = net, scale

    def forward(self, x: Tensor) -> dist.TorchDistribution:
        """The code's distribution."""
        code = self.net(x=x)
        return dist.Normal(code, code.new_tensor(self.scale)).to_event(1)


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
        encoder: nn.Module = Net({"x": size}, hidden, outputs, "silu")
        return Standardised(encoder, size), Net({"e": latent}, back, size, "silu")
    encoder = conv_encoder(shape, outputs, channels=channels, hidden=hidden, activation="silu")
    decoder = conv_decoder({"e": latent}, shape, channels=channels, hidden=back, activation="silu")
    return Standardised(encoder, math.prod(shape)), decoder


def some_frames(pair: Any, rows: int) -> dict[str, Tensor]:
    """A frame ``x`` of waves and ``targets`` of each variable in its turn, for a pair's tests.

    Args:
        pair: Its config has ``data_dim`` or ``shape`` and ``variables``.
        rows: Number of rows.
    """
    like, config = pair.like(), pair.config
    size = getattr(config, "data_dim", 0) or math.prod(config.shape)
    waves = torch.arange(1.0, rows * size + 1, dtype=like.dtype).sin().reshape(rows, size)
    turn = torch.arange(rows).unsqueeze(-1) % (config.variables + 1)
    targets = (turn == torch.arange(config.variables)).to(like.dtype)
    return {"x": waves.to(like.device), "targets": targets.to(like.device)}
