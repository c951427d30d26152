"""Optimisers of torch.optim by name: what moves them, and whether a saved state is theirs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppl_models.config import unknown
from ppl_models.inference.objectives.called import called
from ppl_models.inference.objectives.learning_rate import learning_rate_factor
from ppl_models.inference.objectives.stage import Training

REFUSED = {
    "lbfgs": "it evaluates the loss several times a step",
    "sparseadam": "it takes sparse gradients alone",
}
ELSEWHERE = {"lr": "learning_rate", "betas": "beta1 and beta2"}  # options with fields of their own
UNUSED = ("params", "foreach", "fused", "capturable", "differentiable", "maximize")
FUSED = ("adam", "adamw", "sgd")  # whose fused kernels there are on all devices
DECOUPLED = ("adamw", "adafactor", "muon")  # weight decay is no part of their gradient
KINDS: dict[str, type[torch.optim.Optimizer]] = {
    name.lower(): kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type)
    and issubclass(kind, torch.optim.Optimizer)
    and kind is not torch.optim.Optimizer
}


def optimiser_of(
    groups: Sequence[Mapping[str, Any]], options: Training, rows: int
) -> torch.optim.Optimizer:
    """The optimiser that a stage names.

    Args:
        groups: Parameters as torch's optimisers take them: ``params``, and what differs from the
            stage's own options, such as ``lr``.
        options: How the stage is optimised.
        rows: Rows N of its data, which a prior on the weights is divided by.

    Raises:
        ValueError: If there is no such optimiser or option, naming the nearest, or it does not
            take these values or parameters.
    """
    name, given = _named(options.optimiser)
    taken = inspect.signature(KINDS[name]).parameters
    defaults = Training()
    for option in (option for group in groups for option in group):
        if option not in taken:
            raise ValueError(f"optimiser {options.optimiser!r} takes no {option} of a player")
    if "betas" in taken:
        given["betas"] = (options.beta1, options.beta2)
    elif (options.beta1, options.beta2) != (defaults.beta1, defaults.beta2):
        raise ValueError(f"optimiser {options.optimiser!r} takes no beta1 and beta2")
    if options.weight_prior:
        _check_prior(name, given, options)
    if "weight_decay" in taken and "weight_decay" not in given and name not in DECOUPLED:
        # It adds weight_decay * w to the gradient of the mean loss per row, which is the
        # gradient of the prior's -log density / N.
        given["weight_decay"] = options.weight_prior / rows
    if name in FUSED:
        given["fused"] = True
    make: Callable[..., torch.optim.Optimizer] = KINDS[name]
    try:
        return make([dict(group) for group in groups], lr=options.learning_rate, **given)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"optimiser {options.optimiser!r}: {str(error).splitlines()[0]}"
        ) from None


def _named(text: str) -> tuple[str, dict[str, Any]]:
    """The name of an optimiser, as ``KINDS`` has it, and its options."""
    name, given = called("optimiser", text)
    name = name.replace("_", "")
    usable = sorted(set(KINDS) - set(REFUSED))
    if name in REFUSED:
        raise ValueError(
            f"optimiser {text!r} cannot train here, {REFUSED[name]}; expected one of "
            f"{', '.join(usable)}"
        )
    if name not in KINDS:
        raise ValueError(unknown("optimiser", name, usable))
    taken = inspect.signature(KINDS[name]).parameters
    for option in given:
        if option in ELSEWHERE and option in taken:
            raise ValueError(
                f"optimiser {text!r} has {option}, expected {ELSEWHERE[option]} of the training"
            )
        own = [p for p in taken if p not in UNUSED and p not in ELSEWHERE]
        if option not in own:
            raise ValueError(unknown(f"option of {name}", option, own))
    return name, given


def _check_prior(name: str, given: Mapping[str, Any], options: Training) -> None:
    """Refuse a prior on the weights where the optimiser would not see its gradient."""
    what = f"weight_prior is {options.weight_prior:g}, but optimiser {options.optimiser!r}"
    if "weight_decay" in given:
        raise ValueError(f"{what} has a weight_decay of its own, expected one of them")
    apart = name in DECOUPLED or given.get("decoupled_weight_decay")
    if apart or "weight_decay" not in inspect.signature(KINDS[name]).parameters:
        raise ValueError(f"{what} adds no gradient of it, expected one such as 'adam' or 'sgd'")


def mover(
    optimiser: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    options: Training,
    total: int,
) -> Callable[[int], None]:
    """What moves parameters along their gradients.

    Nothing here waits for a device: rates are numbers of the host, and the norm stays a tensor.

    Args:
        optimiser: The optimiser, with the rates that its groups begin from.
        parameters: Whose gradients have a norm together.
        options: How the stage is optimised.
        total: Steps of the stage.

    Returns:
        Called with the number of steps done.
    """
    factor = learning_rate_factor(options.schedule, options.warmup)
    rates = [group["lr"] for group in optimiser.param_groups]
    changing = bool(options.warmup) or options.schedule.strip() != "constant"

    def move(step: int) -> None:
        if options.clip_norm:
            nn.utils.clip_grad_norm_(parameters, options.clip_norm)
        if changing:
            now = factor(step, total)
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * now
        optimiser.step()

    return move


def restore_state(optimiser: torch.optim.Optimizer, moments: Mapping[Any, Any], name: str) -> None:
    """Give an optimiser a saved state, if it is one that it would have.

    Its kernels check no sizes, and torch's own loading casts numbers that are no moments, such as
    NAdam's product, to the type of the parameters. What the optimiser would have is found out by
    a step of its twin, on parameters that are zero.

    Args:
        optimiser: The optimiser.
        moments: The state's ``state``, by the places of the parameters.
        name: Whose optimiser it is.

    Raises:
        ValueError: Naming the entry and the place of its parameter.
    """
    expected = _after_a_step(optimiser)
    restored: dict[int, dict[str, Any]] = {}
    for place, held in moments.items():
        if type(place) is not int or not 0 <= place < len(expected):
            raise ValueError(f"{name!r} has no parameter {place!r}, expected {len(expected)}")
        whose = f"parameter {place} of {name!r}"
        if set(held) != set(expected[place]):
            raise ValueError(
                f"the optimiser's state of {whose} has {_listed(held)}, expected "
                f"{_listed(expected[place])}"
            )
        for entry, like in expected[place].items():
            value = held[entry]
            if not isinstance(like, Tensor):
                if type(value) is not type(like):
                    raise ValueError(f"{entry} of {whose} is {value!r}, expected {like!r}")
            elif not isinstance(value, Tensor) or value.shape != like.shape:
                shape = tuple(value.shape) if isinstance(value, Tensor) else value
                raise ValueError(
                    f"{entry} of {whose} has shape {shape}, expected {tuple(like.shape)}"
                )
            elif value.dtype.is_floating_point != like.dtype.is_floating_point:
                raise ValueError(f"{entry} of {whose} is {value.dtype}, expected {like.dtype}")
            else:
                value = torch.empty_like(like).copy_(value)  # laid out as the kernels want it
            restored.setdefault(place, {})[entry] = value
    own = [p for group in optimiser.param_groups for p in group["params"]]
    optimiser.state.clear()
    optimiser.state.update({own[place]: held for place, held in restored.items()})


def _listed(entries: Mapping[str, Any]) -> str:
    return ", ".join(sorted(map(str, entries))) or "nothing"


def _after_a_step(optimiser: torch.optim.Optimizer) -> list[dict[str, Any]]:
    groups = [
        {**group, "params": [nn.Parameter(torch.zeros_like(p)) for p in group["params"]]}
        for group in optimiser.param_groups
    ]
    make: Callable[..., torch.optim.Optimizer] = type(optimiser)
    twin = make(groups)
    own = [p for group in groups for p in group["params"]]
    for parameter in own:
        parameter.grad = torch.zeros_like(parameter)
    twin.step()
    return [dict(twin.state[parameter]) for parameter in own]
