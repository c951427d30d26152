"""Random numbers in a graph of a step: torch's own, in the order of an uncompiled step."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import fx

from ppl_models.inference.traces.sites import Untraceable

aten = torch.ops.aten


@contextlib.contextmanager
def no_host_draws() -> Iterator[None]:
    """Refuse numbers that Python or numpy draws: a graph would repeat them at every step.

    Raises:
        Untraceable: If any were drawn inside; their generators are then as they were.
    """
    python, numpy = random.getstate(), np.random.get_state()
    yield
    drawn = [
        name
        for name, same in (
            ("Python's random", random.getstate() == python),
            ("numpy's random", _alike(np.random.get_state(), numpy)),
        )
        if not same
    ]
    if drawn:
        random.setstate(python)
        np.random.set_state(numpy)
        raise Untraceable(f"the step draws from {drawn[0]}, expected draws of torch")


def keep_draws(graph: fx.GraphModule) -> None:
    """Make every random call of a graph one that the compiler runs as it is, where it is.

    Inductor has rules of its own for ``randperm`` and an index made of it: they draw it where
    the index is used, which may be after numbers that were drawn later, or fail to match, and
    then nothing is compiled. The same call by its other name is none of theirs.

    Raises:
        Untraceable: If something is drawn from a generator of its own, which a step that is not
            compiled may make anew, or seed.
    """
    for node in graph.graph.nodes:
        held = getattr(graph, str(node.target), None) if node.op == "get_attr" else None
        if any(isinstance(v, torch.Generator) for v in (held, *node.kwargs.values())):
            raise Untraceable("the step draws from a generator of its own, expected torch's own")
        if node.target is aten.randperm.default:
            node.target = aten.randperm.generator
            node.kwargs = {**node.kwargs, "generator": None}
    graph.recompile()


def _alike(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
