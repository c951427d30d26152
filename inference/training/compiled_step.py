"""Compiled steps: loss and gradient of a step as one graph of tensor operations.

Pyro's handlers, distributions and autograd run once, under ``torch.fx``'s ``make_fx``. What is
left is a graph from parameters, buffers, rows and the progress of training to the loss and its
gradients, which TorchInductor turns into kernels and, on a GPU, CUDA graphs. Random numbers
stay calls to torch's own generators, in the order of an uncompiled step: each step draws fresh
ones, and they are those that it would have drawn uncompiled.
"""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, fx, nn

from ppl_models.batch import Batch
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.composition import networks_in, terms_of
from ppl_models.inference.objectives.loss_parts import LossByPart
from ppl_models.inference.objectives.schedule import Progress, as_progress
from ppl_models.inference.traces.sites import Program, Untraceable
from ppl_models.inference.training.live_number import Outcome, live_progress
from ppl_models.inference.training.pace import spoken
from ppl_models.inference.training.random_calls import DECOMPOSED, keep_draws, only_torch_draws
from ppl_models.inference.training.sides import Side
from ppl_models.quiet import quiet

log = logging.getLogger(__name__)

NOT = "training is not compiled"
Compiler = Callable[[fx.GraphModule, list[Tensor]], Callable[..., Any]]


class NotCompiled(UserWarning):
    """A step that cannot be compiled; training goes on without."""


def inductor(graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    """Compile a graph: C++ kernels on a CPU, Triton kernels in a CUDA graph on a GPU."""
    import torch._inductor

    options: dict[str, Any] = {"fallback_random": True}  # torch's own generators
    if inputs[0].is_cuda:
        options["triton.cudagraphs"] = True
    compiled: Callable[..., Any] = torch._inductor.compile(graph, list(inputs), options=options)
    return compiled


class Compiled:
    """The gradient of an objective, traced and compiled once per kind of step.

    Steps are of one kind while shapes, dtypes and sites of the batches, the sizes they stand
    for, which parameters are trained, the modules' modes and the outcome of every comparison
    with the progress of training stay the same.

    Args:
        objective: What is made large.
        pair: The pair it is evaluated on.
        parameters: Those that are trained, as far as they require a gradient.
        modules: Further modules whose parameters or buffers the loss may read.
        compiler: Turns a graph and example inputs into a function.
    """

    def __init__(
        self,
        objective: Objective,
        pair: Program,
        parameters: list[nn.Parameter],
        modules: Iterable[nn.Module],
        compiler: Compiler,
    ) -> None:
        self.objective, self.pair, self.parameters = objective, pair, parameters
        self.compiler = compiler
        self.terms = list(terms_of(objective))
        roots: list[Program | nn.Module] = [pair, *modules]
        roots += networks_in(objective)
        self.modules = list({id(m): m for root in roots for m in root.modules()}.values())
        self.progress = torch.zeros(2, dtype=torch.float64, device=parameters[0].device)
        self.share, self.steps = self.progress.unbind()
        self.graphs: dict[Any, list[_Graph]] = {}
        self.broken = False

    def gradient(self, batches: tuple[Batch, ...], rows: int) -> LossByPart | None:
        """Leave the gradient of the loss per row in the parameters.

        Args:
            batches: One batch of each kind of rows.
            rows: Number of rows that the loss is divided by.

        Returns:
            The loss per row and its parts; or None, with a warning the first time, if the step
            cannot be compiled, and then nothing has been done and no random number drawn.
        """
        if self.broken:
            return None
        key = (rows, *map(_signature, batches), *self._modes())
        known = self.graphs.setdefault(key, [])
        progress = as_progress(self.objective.progress)
        graph = next((g for g in known if g.holds(progress)), None)
        if graph is None:
            log.info("compiling a kind of step, of %s rows", [batch.count for batch in batches])
            began = time.monotonic()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # libraries', about themselves
                    graph = self._trace(batches, rows, progress)
            except Exception as error:  # whatever stops a trace or a compiler: go on without
                self.broken = True
                log.info(why := _reason(error))
                warnings.warn(NotCompiled(why), stacklevel=2)
                return None
            log.info("compiled it in %s", spoken(time.monotonic() - began))
            known.append(graph)
        self.share.fill_(progress)
        self.steps.fill_(progress.steps)
        with torch.no_grad():
            results: tuple[Tensor, ...] = graph.run(*self._inputs(batches), *graph.captured)
        loss, values = results[:2]
        for parameter, gradient in zip(graph.trained, results[2:], strict=False):
            parameter.grad = gradient  # beyond the gradients there may be a draw
        return LossByPart(loss, graph.names, values)

    def _modes(self) -> Iterator[Any]:
        yield tuple(p.requires_grad for p in self.parameters)
        yield tuple(m.training for m in self.modules)

    def _slots(self) -> list[tuple[dict[str, Any], str, Tensor]]:
        return [
            (held, name, tensor)
            for module in self.modules
            for held in (module._parameters, module._buffers)
            for name, tensor in held.items()
            if tensor is not None
        ]

    def _inputs(self, batches: tuple[Batch, ...]) -> list[Tensor]:
        own = {id(tensor): tensor for _, _, tensor in self._slots()}
        data = [t for batch in batches for t in (batch.rows, *batch.values())]
        return [*own.values(), *data, self.progress]

    def _trace(self, batches: tuple[Batch, ...], rows: int, progress: Progress) -> _Graph:
        from torch.fx.experimental.proxy_tensor import make_fx  # slow to import

        inputs = [t.detach() for t in self._inputs(batches)]
        slots = self._slots()
        order = list({id(tensor): None for _, _, tensor in slots})
        trained = [p for p in self.parameters if p.requires_grad and id(p) in order]
        outcomes: list[Outcome] = []
        used: list[nn.Parameter] = []
        names: list[str] = []

        def step(*tensors: Tensor) -> tuple[Tensor, ...]:
            stand_in = dict(zip(order, tensors, strict=False))
            stand_in.update({id(p): stand_in[id(p)].detach().requires_grad_() for p in trained})
            data = iter(tensors[len(order) :])
            seen = tuple(_rebuilt(batch, data) for batch in batches)
            with _swapped(slots, stand_in), pyro.validation_enabled(False), torch.enable_grad():
                self.objective.at(live_progress(progress, next(data), outcomes))  # type: ignore[arg-type]
                told = self.objective.loss_by_part(self.pair.model, self.pair.guide, seen)
                told = told.per(rows)
                _check_slots(slots, stand_in)
                loss, names[:] = told.total, told.names
                leaves = [stand_in[id(p)] for p in trained]
                gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
            used[:] = [p for p, g in zip(trained, gradients, strict=True) if g is not None]
            return loss.detach(), told.values, *_laid_out(gradients, leaves)

        with self._unchanged():
            stand_in = {i: t.clone() for i, t in zip(order, inputs, strict=False)}
            with _swapped(slots, stand_in):
                self._look(batches)
            before = self._attributes()
            with _no_second_draws(), only_torch_draws():
                graph = make_fx(step, DECOMPOSED, "fake", _allow_non_fake_inputs=True)(*inputs)
            self.objective.at(progress)
            _check_nothing_changes(before)
        captured = _captured(graph)
        _copy_where_strides_differ(graph)
        keep_draws(graph)
        run = self.compiler(graph, [*inputs, *captured])
        return _Graph(run, used, captured, outcomes, tuple(names))

    def _look(self, batches: tuple[Batch, ...]) -> None:
        # What an objective finds out about a pair on its first evaluation is then known, here
        # and after a resume alike.
        device = self.progress.device
        with quiet(device), torch.no_grad():
            self.objective.differentiable_loss(self.pair.model, self.pair.guide, batches)

    def _attributes(self) -> list[tuple[Any, dict[str, Any]]]:
        return [(owner, dict(vars(owner))) for owner in [*self.terms, *self.modules]]

    @contextlib.contextmanager
    def _unchanged(self) -> Iterator[None]:
        # Where a trace fails, as if it had never been tried.
        before = self._attributes()
        try:
            yield
        except Exception:
            for owner, old in before:
                vars(owner).clear()
                vars(owner).update(old)
            raise


def compiled_sides(sides: list[Side], pair: Program, processes: int) -> dict[str, Compiled]:
    """What the sides of a stage step with, by name; nothing, with a warning, if they cannot.

    Args:
        sides: The sides.
        pair: The pair that the stage trains.
        processes: Number of processes that share the run.
    """
    if processes > 1:
        # Their noise comes from several generators, which no graph switches between.
        warnings.warn(
            NotCompiled(f"{NOT}: it runs in {processes} processes, expected one"), stacklevel=2
        )
        return {}
    modules = [side.module for side in sides if side.module is not None]
    return {s.name: Compiled(s.objective, pair, s.parameters, modules, inductor) for s in sides}


class _Graph:
    """A compiled graph, what it trains, when it may be used, and names of the loss's parts."""

    def __init__(
        self,
        run: Callable[..., Any],
        trained: list[nn.Parameter],
        captured: list[Tensor],
        outcomes: list[Outcome],
        names: tuple[str, ...],
    ) -> None:
        self.run, self.trained, self.captured, self.outcomes = run, trained, captured, outcomes
        self.names = names

    def holds(self, progress: Progress) -> bool:
        """Whether every comparison with the progress comes out as it did in the trace."""
        return all(test(progress) == outcome for test, outcome in self.outcomes)


def _signature(batch: Batch) -> Any:
    sites = tuple((name, t.shape, t.dtype) for name, t in batch.items())
    return sites, batch.rows.shape, batch.size, batch.total, tuple(batch.observed.items())


def _rebuilt(batch: Batch, tensors: Iterator[Tensor]) -> Batch:
    rows = next(tensors)
    sites = {name: next(tensors) for name in batch}
    return Batch(sites, rows, size=batch.size, total=batch.total, observed=batch.observed)


@contextlib.contextmanager
def _swapped(
    slots: list[tuple[dict[str, Any], str, Tensor]], stand_in: dict[int, Tensor]
) -> Iterator[None]:
    try:
        for held, name, tensor in slots:
            held[name] = stand_in[id(tensor)]
        yield
    finally:
        for held, name, tensor in slots:
            held[name] = tensor


@contextlib.contextmanager
def _no_second_draws() -> Iterator[None]:
    # Something run again from a stored random state would get new noise in a graph.
    def refuse(new_state: Tensor) -> None:
        raise Untraceable("a part of the step is run twice with the same random numbers")

    original = torch.set_rng_state
    torch.set_rng_state = refuse
    try:
        yield
    finally:
        torch.set_rng_state = original


def _check_slots(
    slots: list[tuple[dict[str, Any], str, Tensor]], stand_in: dict[int, Tensor]
) -> None:
    # A graph changes the tensors that it is given, and sets no others in their place.
    for held, name, tensor in slots:
        if held.get(name) is not stand_in[id(tensor)]:
            raise Untraceable(f"buffer {name!r} is set anew in each step; change it in place")


def _check_nothing_changes(before: list[tuple[Any, dict[str, Any]]]) -> None:
    # A graph would repeat neither a count nor a moving average.
    for owner, old in before:
        for name, value in vars(owner).items():
            if value is not old.get(name) and name != "progress":
                what = f"{type(owner).__name__}.{name}"
                raise Untraceable(f"{what} changes in each step; keep it in a buffer of a module")


def _laid_out(gradients: Sequence[Tensor | None], leaves: list[Tensor]) -> Iterator[Tensor]:
    # Optimisers want gradients laid out like the parameters.
    for gradient, leaf in zip(gradients, leaves, strict=True):
        if gradient is not None:
            alike = gradient.stride() == leaf.stride()
            yield gradient if alike else torch.empty_like(leaf).copy_(gradient)


def _copy_where_strides_differ(graph: fx.GraphModule) -> None:
    # Fake tensors have the strides of the general case; an operation without a kernel for them,
    # such as the gradient of a Dirichlet draw, may lay its result out in another way.
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
    graph.recompile()


def _captured(graph: fx.GraphModule) -> list[Tensor]:
    """Make inputs of the tensors that the trace came upon, so that changes to them are seen."""
    tensors: dict[str, Tensor] = {}
    places: dict[str, fx.Node] = {}
    last = [n for n in graph.graph.nodes if n.op == "placeholder"][-1]
    for node in list(graph.graph.nodes):
        value = getattr(graph, str(node.target), None) if node.op == "get_attr" else None
        if not isinstance(value, Tensor):
            continue
        if value.requires_grad:
            raise Untraceable(
                f"a parameter of shape {tuple(value.shape)} is read past the modules of pair and "
                "objective"
            )
        name = str(node.target)
        if name not in places:
            with graph.graph.inserting_after(last):
                last = places[name] = graph.graph.placeholder(f"captured_{len(places)}")
            last.meta.update(node.meta)
            tensors[name] = value
        node.replace_all_uses_with(places[name])
        graph.graph.erase_node(node)
    graph.recompile()
    return list(tensors.values())


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    what = lines[0] if lines else type(error).__name__
    packages = [str(Path(p.__file__).parent) for p in (torch, pyro) if p.__file__]
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<", *packages)) and frame.filename != __file__
    ]
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{NOT}: {type(error).__name__}{where}: {what}"
