"""Random calls of a traced step: each the one that was made, and all in the order they were made.

A compiler of graphs rewrites what it knows: a Bernoulli draw becomes uniform numbers and a
comparison, an index of ``randperm`` another index, and a draw whose result nothing needs holds no
place in the order of those that follow. From the same seed such a graph draws other numbers. Here
every random call of a graph becomes an operation that no compiler looks into, and each is given
the draw before it, so that there is one order in which they can run.
"""

from __future__ import annotations

import functools
import operator
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from ppl_models.inference.traces.sites import Untraceable

OpOverload = type(torch.ops.aten.rand.default)
FRESH = {
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.new_empty.default,
}
PLAIN = {
    torch.ops.aten.normal_.default,
    torch.ops.aten.rand.default,
    torch.ops.aten.randn.default,
}
FROM = getattr(torch.ops.aten.random_, "from")  # a graph cannot write this name
LAYOUT = "int[] size, int[] stride, ScalarType dtype, Device device"
NAMESPACE = "kept_draws"
LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")
EXACT = getattr(torch.Tag, "needs_exact_strides", torch.Tag.needs_fixed_stride_order)
TAGS = (torch.Tag.nondeterministic_seeded, EXACT)


def _random_from(self: Tensor, low: int, high: int) -> Tensor:
    return self.copy_(torch.randint_like(self, low, high))


DECOMPOSED = {FROM: _random_from}


def keep_draws(graph: fx.GraphModule) -> None:
    """Make a graph draw what the same calls would have drawn one by one, however it is compiled.

    Args:
        graph: A graph of ``aten`` operations; changed in place. Where nothing needs the last
            draw, it becomes a further output.

    Raises:
        Untraceable: If a random call returns or changes more than fresh tensors.
    """
    before: fx.Node | None = None
    nodes = graph.graph
    found = [n for n in nodes.nodes if _is_random(n)]
    if len(found) == 1 and found[0].target in PLAIN:
        return  # nothing to be in order with, and compilers leave it as it is
    for node in found:
        call, arguments = _kept(node.target), node.args
        if node.target._schema.is_mutable:
            filled = arguments[0].meta["val"]
            layout = list(filled.shape), list(filled.stride()), filled.dtype, filled.device
            arguments = (*layout, *arguments[1:])
        with nodes.inserting_before(node):
            draw = nodes.call_function(call, (before, *arguments), dict(node.kwargs))
            before = draw
            if len(call._schema.returns) > 1:
                before = nodes.call_function(operator.getitem, (draw, 0))
            result = draw
            if node.target._schema.is_mutable and not _is_fresh(node.args[0]):
                result = nodes.call_function(torch.ops.aten.copy_.default, (node.args[0], draw))
        node.replace_all_uses_with(result)
        nodes.erase_node(node)
    if before is not None and not before.users:
        (output,) = (n for n in nodes.nodes if n.op == "output")
        output.args = ((*output.args[0], before),)
    graph.recompile()


@contextmanager
def only_torch_draws() -> Iterator[None]:
    """Refuse draws of Python's and numpy's generators: a graph would repeat them in each step.

    Raises:
        Untraceable: At the end, if there were any.
    """
    python, legacy = random.getstate(), _numpy_state()
    yield
    for module, drawn in (
        ("random", random.getstate() != python),
        ("numpy.random", _numpy_state() != legacy),
    ):
        if drawn:
            raise Untraceable(
                f"the step draws from {module}, whose numbers a graph would repeat; expected "
                "torch's random numbers"
            )


def _numpy_state() -> str:
    return repr(np.random.get_state(legacy=False))  # position and keys, as far as they are shown


def _is_random(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, OpOverload):
        return False
    if torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    names = [a.name for a in target._schema.arguments]
    if "dropout_p" not in names:
        return True
    place = names.index("dropout_p")  # attention, which draws nothing without dropout
    given = node.args[place] if place < len(node.args) else node.kwargs.get("dropout_p", 0.0)
    return bool(given)


def _is_fresh(node: Any) -> bool:
    return node.target in FRESH and len(node.users) == 1  # nobody else sees it


@functools.cache
def _kept(op: Any) -> Any:
    """The operation that runs another one as it is, given the draw before it."""
    schema = op._schema
    written = str(schema)
    changed = [a for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    in_place = len(changed) == 1 and changed[0].name == "self"
    whole = all(str(r.type) == "Tensor" for r in schema.returns)
    if not whole or not (in_place or not changed):
        raise Untraceable(f"{op} draws random numbers that a graph cannot keep in their order")
    name = re.sub(r"\W", "_", str(op))
    arguments = re.sub(r"\(\w+!?\)", "", written[written.index("(") :])
    arguments = re.sub(r"\bfrom\b", "low", arguments)  # Python has another use for the word
    call: Callable[..., Any] = op
    if in_place:  # drawn into memory of its own, which is filled in the order it lies in
        arguments = arguments.replace("Tensor self", LAYOUT, 1)
        call = _into_new_memory(op)
    LIBRARY.define(f"{name}(Tensor? after, {arguments[1:]}", tags=TAGS)

    def run(after: Tensor | None, /, *args: Any, **kwargs: Any) -> Any:
        return _contiguous(call(*args, **kwargs))

    LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", run, lib=LIBRARY)
    found = getattr(getattr(torch.ops, NAMESPACE), name).default
    return found


def _into_new_memory(op: Any) -> Callable[..., Tensor]:
    def run(
        size: list[int],
        stride: list[int],
        dtype: torch.dtype,
        device: torch.device,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        fresh = torch.empty_strided(size, stride, dtype=dtype, device=device)
        drawn: Tensor = op(fresh, *args, **kwargs)
        return drawn

    return run


def _contiguous(result: Any) -> Any:
    # One layout, so that fake and real results cannot differ in it.
    if isinstance(result, Tensor):
        return result.contiguous()
    return tuple(r.contiguous() for r in result)
