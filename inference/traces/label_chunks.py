"""A bound whose largest label is summed a few values at a time, in memory for those few."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch.fx.experimental.proxy_tensor
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ppl_models.inference.traces.contraction import Backend
from ppl_models.inference.traces.drawn import Ask, Piece
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.sites import Untraceable


def elbo_in_pieces(
    run: Evaluation,
    ask: Ask,
    chunk: int,
    backend: Backend,
    beta: Callable[[], float | Mapping[str, float]],
) -> tuple[Tensor, Tensor | float] | None:
    """The bound of :meth:`Weights.elbo`, over slices of the values of one label.

    The guide's label with most values is sliced. Every slice is run again in the backward
    pass, with the same random numbers, so that only one slice's tensors are held at a time.
    Draws that do not depend on the label are made once for all slices.

    Args:
        run: The pair on a batch.
        ask: The weights that the bound is made from.
        chunk: Values per slice.
        backend: What does the arithmetic.
        beta: Gives the weight of the KL terms, as there.

    Returns:
        The bound ``(B,)`` and log p - log q outside the data plate; None where no label has
        more values than ``chunk``.
    """
    found = run.survey(ask)
    labels = [label for label in found.labels if label.in_guide and not label.plates]
    label = max(labels, key=lambda label: label.size, default=None)
    if label is None or label.size <= chunk:
        return None
    if torch.fx.experimental.proxy_tensor.get_proxy_mode() is not None:
        raise Untraceable(
            f"chunk={chunk} runs slices again in the backward pass, with the same random numbers; "
            "a graph would keep them all, leave chunk out"
        )
    weight = beta()
    drawn: dict[str, Tensor] = {}
    shared = [name for name, dims in found.draws.items() if label.dim not in dims]
    if shared:
        guide = run.weights_anew(ask, Piece(label.name, (0, 1), {})).guide
        drawn = {name: guide.nodes[name]["value"] for name in shared}

    def piece(start: int) -> tuple[Tensor, Tensor | float]:
        stop = min(start + chunk, label.size)
        w = run.weights_anew(ask, Piece(label.name, (start, stop), drawn))
        return w.elbo(backend, frozenset({label.dim}), weight), w.outside

    modules = {m for m in (run.guide, run.model, _owner(run.model)) if isinstance(m, nn.Module)}
    parts = [
        checkpoint(piece, start, use_reentrant=False, context_fn=lambda: _contexts(modules))
        for start in range(0, label.size, chunk)
    ]
    bound = parts[0][0]
    for part, _ in parts[1:]:
        bound = bound + part
    return bound, parts[0][1]


def _owner(function: Any) -> Any:
    return getattr(function, "__self__", None)


def _contexts(
    modules: set[nn.Module],
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    # A gradient stop or a functional call may stand other tensors in for the parameters now;
    # the second run, in the backward pass, must see the same ones.
    parts = {part for module in modules for part in module.modules()}
    return contextlib.nullcontext(), _with({part: dict(part._parameters) for part in parts})


@contextlib.contextmanager
def _with(parameters: dict[nn.Module, dict[str, Any]]) -> Iterator[None]:
    held = {part: dict(part._parameters) for part in parameters}
    try:
        for part, own in parameters.items():
            part._parameters.update(own)
        yield
    finally:
        for part, own in held.items():
            part._parameters.update(own)
