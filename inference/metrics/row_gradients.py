"""Gradients of the loss of single rows, with respect to the parameters of a pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ppl_models.batch import Batch
from ppl_models.config import unknown
from ppl_models.inference.objectives.base import Objective
from ppl_models.pair import Pair

Weights = dict[str, Tensor]
Project = Callable[[Weights], Tensor]


class RowGradients:
    """Gradients of an objective's loss of single rows.

    They are taken at the mean of a number of draws. Each row has noise of its own, which no
    other row sees: where two rows shared it, the product of their gradients would be off by the
    covariance of both. Rows are taken at once by ``torch.func.vmap`` where the pair lets it, and
    else one by one.

    Args:
        pair: The pair, in eval mode; its own weights stay as they are.
        objective: The objective, whose rows may not look at each other.
        names: Of the parameters, as :func:`slots` gives them.
        weights: All parameters and buffers at which the gradients are taken, by name.
        project: What becomes of the gradients ``(B, ...)`` of each parameter, by name.
    """

    def __init__(
        self,
        pair: Pair,
        objective: Objective,
        names: Sequence[Sequence[str]],
        weights: Mapping[str, Tensor],
        project: Project,
    ) -> None:
        self.row, self.project = _Row(pair, objective), project
        self.names = [[f"pair.{name}" for name in alike] for alike in names]
        trained = {name for alike in self.names for name in alike}
        every = {f"pair.{name}": value for name, value in weights.items()}
        self.held = {name: value for name, value in every.items() if name not in trained}
        self.weights = {alike[0]: every[alike[0]] for alike in self.names}
        self.at_once = True

    def __call__(self, batch: Batch, draws: int, seed: int) -> Tensor:
        """Gradients ``(B, P)`` of the mean of some draws of each row's loss.

        Args:
            batch: The rows; ``total`` and ``observed`` are those of the rows of the training.
            draws: Number of draws.
            seed: Seed of the draws.
        """
        if self.at_once:
            torch.manual_seed(seed)
            try:
                return self.project(self._together(batch, draws))
            except RuntimeError:  # what vmap has no rule for
                self.at_once = False
        torch.manual_seed(seed)
        return self.project(self._one_by_one(batch, draws))

    def _together(self, batch: Batch, draws: int) -> Weights:
        def loss(weights: Weights, sites: Mapping[str, Tensor], number: Tensor) -> Tensor:
            return self._loss(weights, sites, number, batch, draws)

        by_row = torch.func.vmap(torch.func.grad(loss), (None, 0, 0), randomness="different")
        with _ByRow():
            found: Weights = by_row(self.weights, dict(batch), batch.rows)
        return found

    def _one_by_one(self, batch: Batch, draws: int) -> Weights:
        weights = {name: w.clone().requires_grad_() for name, w in self.weights.items()}
        found: dict[str, list[Tensor]] = {name: [] for name in weights}
        for place in range(batch.count):
            sites = {name: value[place] for name, value in batch.items()}
            with torch.enable_grad():
                loss = self._loss(weights, sites, batch.rows[place], batch, draws)
                loss = loss + 0 * next(iter(weights.values())).sum()  # one may depend on nothing
                given = list(weights.values())
                grads = torch.autograd.grad(loss, given, materialize_grads=True)
            for name, grad in zip(weights, grads, strict=True):
                found[name].append(grad)
        return {name: torch.stack(grads) for name, grads in found.items()}

    def _loss(
        self,
        weights: Weights,
        sites: Mapping[str, Tensor],
        number: Tensor,
        like: Batch,
        draws: int,
    ) -> Tensor:
        by_slot = {name: weights[alike[0]] for alike in self.names for name in alike}
        copies = Batch(
            {name: value.expand(draws, *value.shape) for name, value in sites.items()},
            number.expand(draws),
            size=draws,
            total=like.total,
            observed=like.observed,
        )
        # Each slot is named once, and those of one parameter get one tensor: torch's own way with
        # ties would not put back the weights of a module that has two names.
        value: Tensor = torch.func.functional_call(
            self.row, {**self.held, **by_slot}, (copies,), tie_weights=False
        )
        return value


class _Row(nn.Module):
    """The loss of a row as a function of the weights: the mean of its copies' losses."""

    def __init__(self, pair: Pair, objective: Objective) -> None:
        super().__init__()
        self.pair, self.objective = pair, objective

    def forward(self, copies: Batch) -> Tensor:
        loss = self.objective.per_datum(self.pair.model, self.pair.guide, copies)
        return loss.mean()


class _ByRow(TorchFunctionMode):
    """Fresh memory is each row's own under ``vmap``, so that noise drawn into it is, too.

    Distributions draw into new memory (``torch.empty(shape).normal_()``), which ``vmap`` takes
    for one that all rows share, and refuses. What it holds before is nobody's business.
    """

    MADE = (torch.empty, torch.empty_like, torch.Tensor.new, torch.Tensor.new_empty)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in self.MADE and made.is_floating_point():
            return torch.rand_like(made)
        return made


def slots(pair: nn.Module, prefixes: Sequence[str]) -> list[list[str]]:
    """Where the parameters that have a gradient stand, the places of one parameter together.

    Args:
        pair: The pair.
        prefixes: Prefixes of names, up to a dot, one of which a parameter has to have; all
            parameters if there are none.

    Raises:
        ValueError: If a prefix fits no parameter.
    """
    called: dict[int, list[str]] = {}
    for name, parameter in pair.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            called.setdefault(id(parameter), []).append(name)
    known = [name for names in called.values() for name in names]
    if not known:
        raise ValueError("no parameter of the pair has a gradient, expected one or more")
    for prefix in prefixes:
        if not any(_under(name, prefix) for name in known):
            parts = {name.split(".")[0] for name in known}
            raise ValueError(unknown("name of parameters", prefix, parts | set(known)))
    found: dict[int, list[str]] = {}
    for root, module in pair.named_modules():  # each module once, by one of its names
        for name, parameter in module.named_parameters(root, False, False):
            names = called.get(id(parameter), [])
            if not prefixes or any(_under(n, prefix) for n in names for prefix in prefixes):
                found.setdefault(id(parameter), []).extend([name] if names else [])
    return [places for places in found.values() if places]


def _under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def whole_gradients(gradients: Weights) -> Tensor:
    """Gradients of all parameters beside each other ``(B, P)``."""
    return torch.cat([grad.reshape(len(grad), -1) for grad in gradients.values()], 1)


def sketch(sizes: Mapping[str, int], dims: int, draw: torch.Generator) -> Project:
    r"""A random projection that keeps inner products in expectation.

    Each number of a gradient is added, with a random sign, to one of ``dims`` sums drawn at
    random (Charikar et al. 2002; Weinberger et al. 2009, arXiv 0902.2206). The product of two
    sketches has the product :math:`a \cdot b` as its mean, and the variance
    :math:`(|a|^2 |b|^2 + (a \cdot b)^2 - 2 \sum_i a_i^2 b_i^2) / dims`, which is that of a matrix
    of random signs; it takes one addition for each number, and no matrix.

    Args:
        sizes: Numbers of each parameter, by name.
        dims: Number of the sums.
        draw: Draws places and signs.
    """
    places = {name: torch.randint(dims, (size,), generator=draw) for name, size in sizes.items()}
    signs = {
        name: torch.randint(2, (size,), generator=draw, dtype=torch.int8) * 2 - 1
        for name, size in sizes.items()
    }

    def project(gradients: Weights) -> Tensor:
        (first, *_) = gradients.values()
        sums = first.new_zeros(len(first), dims)
        for name, grad in gradients.items():
            place = places[name].to(grad.device)
            sums.index_add_(1, place, grad.reshape(len(grad), -1) * signs[name].to(grad))
        return sums

    return project


def state_of(pair: nn.Module, state: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """A pair's parameters and buffers as a state has them, on its device, each slot once.

    Args:
        pair: The pair.
        state: A ``state_dict()`` of such a pair.
        what: What to call it.

    Raises:
        ValueError: Naming what is missing, or of another shape.
    """
    kept = pair.state_dict()
    for name, own in kept.items():
        if name not in state:
            raise ValueError(f"{what} lacks {name!r}, expected a state_dict() of this pair")
        if state[name].shape != own.shape:
            raise ValueError(
                f"{name!r} of {what} has shape {tuple(state[name].shape)}, expected "
                f"{tuple(own.shape)}"
            )
    found = {}
    for root, module in pair.named_modules():  # each module once, by one of its names
        for every in (module.named_parameters, module.named_buffers):
            for name, _ in every(root, recurse=False, remove_duplicate=False):
                if name in kept:  # buffers that are not kept stay as they are
                    found[name] = state[name].detach().to(kept[name], copy=True)
    return found
