"""A pair's first weights again, for a fit that does not go on from those it has."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ppl_models.pair import Pair


def fresh_weights(pair: Pair, seed: int) -> dict[str, Tensor]:
    """The parameters and buffers that ``build`` gives a pair of these settings.

    Args:
        pair: The pair; it is left as it is.
        seed: The run's. The global random state is left as it was.

    Raises:
        ValueError: If its class and settings do not make such a pair.
    """
    cls, what = type(pair), f"fresh=True makes the pair anew as {type(pair).__name__}(config)"
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = _tensors(cls(pair.config))
    except Exception as error:  # whatever a class of the user's own raises
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{what}, which fails ({why}); expected a newly built pair") from None
    own = _tensors(pair)
    for name in {**own, **made}:
        shapes = [tuple(held[name].shape) if name in held else None for held in (own, made)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{what}, whose {name!r} has the shape {shapes[1]}, not {shapes[0]}; expected a "
                "newly built pair"
            )
    return made


@torch.no_grad()
def put_into(pair: Pair, weights: Mapping[str, Tensor]) -> None:
    """Set weights in place: whoever holds the pair's parts goes on holding them.

    Args:
        pair: The pair.
        weights: As :func:`fresh_weights` gives them.
    """
    for name, held in _tensors(pair).items():
        new = weights[name].to(held.device, held.dtype)
        if not torch.equal(held, new):  # constants may be one number in memory
            held.copy_(new)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
