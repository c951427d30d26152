"""A network of the user's own as a feature network: a module at hand, and never a file."""

from __future__ import annotations

import contextlib
import copy
import inspect
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppl_models.inference.metrics.classifiers import CPU, channels_last
from ppl_models.inference.metrics.feature_networks import FeatureNetwork, digest_of
from ppl_models.quiet import quiet

INCEPTION = 2048  # features of FID
SHOWN = 12  # characters of a digest in a name


def user_features(
    module: nn.Module,
    shape: Sequence[int],
    preprocessing: str,
    layer: str = "output",
    channels: int | None = None,
    inception: bool = False,
) -> FeatureNetwork:
    """A network of yours, such as one that you have loaded: no file is read or run here.

    A copy in evaluation mode is kept, so that further training changes no features.

    Args:
        module: From images ``(n, C, H, W)`` in [0, 1], float32, to features ``(n, d)``, of each
            image by itself. Resizing and scaling are its own.
        shape: ``(H, W)`` or ``(H, W, C)`` of the images.
        preprocessing: What it does to images first, in words, such as ``"299 x 299, bilinear
            without antialias, to [-1, 1]"``: it is part of the digest.
        layer: Which layer it gives, in words.
        channels: Channels that it wants; grey images are repeated. As they are by default.
        inception: Whether it is the standard Inception export with FID's own preprocessing (299,
            bilinear without antialias, [-1, 1]), whose values stand beside published ones. That
            is your word: nothing here can tell.

    Returns:
        ``user:`` and the first twelve characters of its digest.

    Raises:
        ValueError: If it gives no features ``(n, d)``, or is said to be Inception and gives
            another number than 2,048.
    """
    shape = channels_last(shape)
    if not isinstance(module, nn.Module):
        raise ValueError(f"module is a {type(module).__name__}, expected a torch module, no file")
    if not preprocessing.strip():
        raise ValueError("preprocessing is empty, expected words")
    if channels is not None and channels != shape[2] and shape[2] != 1:
        raise ValueError(f"channels is {channels} for images of {shape[2]}, expected grey images")
    kept = copy.deepcopy(module).eval()
    like = next((p for p in (*kept.parameters(), *kept.buffers()) if p.is_floating_point()), None)
    dtype, device = (torch.float32, CPU) if like is None else (like.dtype, like.device)

    def run(block: Tensor) -> Tensor:
        planes = block.permute(0, 3, 1, 2).to(device, dtype)
        if channels is not None:
            planes = planes.expand(-1, channels, -1, -1)
        out: Tensor = kept.eval()(planes.contiguous())
        return out

    with quiet(CPU), torch.no_grad():
        found = run(torch.zeros(2, *shape))
    if found.dim() != 2 or len(found) != 2:
        raise ValueError(
            f"the module gives shape {tuple(found.shape)} for 2 images, expected (2, d)"
        )
    d = found.shape[1]
    if inception and d != INCEPTION:
        raise ValueError(f"the module gives {d} features, expected {INCEPTION} of Inception")
    told = {"preprocessing": preprocessing, "channels": channels, "shape": shape}
    digest = digest_of({**told, **_description(kept)}, kept.state_dict())
    label = f"user:{digest[:SHOWN]}"
    told_layer = f"{layer}; {preprocessing}"
    return FeatureNetwork(label, digest, told_layer, d, shape, run, None, inception)


def _description(module: nn.Module) -> dict[str, Any]:
    """What a module computes, as far as it can be read: its layers and the code of each."""
    kinds = {type(part) for part in module.modules()}
    own = sorted((k for k in kinds if not k.__module__.startswith("torch.")), key=repr)
    sources = []
    for kind in own:
        with contextlib.suppress(OSError, TypeError):  # written at a prompt, or compiled
            sources.append(inspect.getsource(kind))
    layers = re.sub(r" at 0x[0-9a-f]+", "", repr(module))  # which differ from run to run
    return {"network": layers, "code": [*sources, str(getattr(module, "code", ""))]}
