"""Who trains what: the players of a stage, their parameters and their optimisers."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ppl_models.inference.training.optimisers import optimiser_of, restore_state

if TYPE_CHECKING:
    from ppl_models.inference.objectives.base import Objective
    from ppl_models.inference.objectives.stage import Stage
    from ppl_models.pair import Pair


@dataclass
class Side:
    """A player at work: its parameters and optimiser."""

    name: str
    objective: Objective
    parameters: list[nn.Parameter]
    optimiser: torch.optim.Optimizer
    steps: int = 1
    module: nn.Module | None = None

    def state(self) -> dict[str, Any]:
        """All that a checkpoint needs."""
        module = None if self.module is None else self.module.state_dict()
        return {"optimiser": self.optimiser.state_dict(), "module": module}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`; its options stay those of the run's settings.

        Raises:
            ValueError: If it is the state of other parameters.
        """
        moments = state["optimiser"]["state"]
        restore_state(self.optimiser, moments, self.name)
        if self.module is not None:
            self.module.load_state_dict(state["module"])


def sides(pair: Pair, stage: Stage, rows: int) -> list[Side]:
    """The side that trains the pair, then the stage's players in order.

    Args:
        pair: The whole pair.
        stage: The stage.
        rows: Rows in the stage's data, which a prior on the weights is divided by.

    Raises:
        ValueError: As :func:`trained`.
    """
    own, others = trained(pair, stage)
    options = stage.training
    found = [Side("pair", stage.objective, own, optimiser_of([{"params": own}], options, rows))]
    for player, theirs in zip(stage.players, others, strict=True):
        if player.module is not None:
            player.module.to(own[0].device)
            theirs += list(player.module.parameters())
        rate = options.learning_rate if player.learning_rate is None else player.learning_rate
        optimiser = optimiser_of([{"params": theirs, "lr": rate}], options, rows)
        found.append(
            Side(player.name, player.objective, theirs, optimiser, player.steps, player.module)
        )
    return found


def trained(pair: Pair, stage: Stage) -> tuple[list[nn.Parameter], list[list[nn.Parameter]]]:
    """The pair's parameters that a stage trains itself, and those of each of its players.

    Raises:
        ValueError: If a name of a parameter fits none, two players share a parameter, or
            nothing is left to train.
    """
    held = {id(p) for p in frozen(pair, stage)}
    taken = dict.fromkeys(held, f"stage {stage.name!r}")
    others = []
    for player in stage.players:
        what = f"player {player.name!r}"
        theirs: dict[int, nn.Parameter] = {}
        for prefix in player.parameters:
            for name, parameter in _below(pair, prefix, f"{what} trains"):
                if id(parameter) in taken:
                    raise ValueError(
                        f"{what} trains {name!r}, which {taken[id(parameter)]} already has"
                    )
                theirs[id(parameter)] = parameter
        taken |= dict.fromkeys(theirs, what)
        others.append(list(theirs.values()))
    if stage.simultaneous and (several := [p for p in stage.players if p.steps > 1]):
        raise ValueError(
            f"player {several[0].name!r} has steps={several[0].steps}, but the sides of stage "
            f"{stage.name!r} move at once; expected steps=1"
        )
    own = [p for p in (stage.pair or pair).parameters() if id(p) not in taken]
    if not own:
        raise ValueError(f"stage {stage.name!r} freezes every parameter, expected one to train")
    return own, others


def frozen(pair: Pair, stage: Stage) -> list[nn.Parameter]:
    """The parameters that a stage leaves as they are.

    A parameter that is reached by several names, as in a network that two sites share, is frozen
    by any of them.

    Raises:
        ValueError: If the stage freezes a name that the pair has no parameter of.
    """
    found = [_below(pair, prefix, f"stage {stage.name!r} freezes") for prefix in stage.freeze]
    return list({id(p): p for named in found for _, p in named}.values())


def _below(pair: Pair, prefix: str, what: str) -> list[tuple[str, nn.Parameter]]:
    """The parameters under a prefix, by every name that ``state_dict`` prints."""
    every = list(pair.named_parameters(remove_duplicate=False))
    found = [(name, p) for name, p in every if under(name, prefix)]
    if found:
        return found
    if any(under(name, prefix) for name, _ in pair.named_buffers(remove_duplicate=False)):
        raise ValueError(
            f"{what} {prefix!r}, which holds buffers alone, and no gradient moves them; expected "
            "a name of parameters"
        )
    parts = [name.split(".") for name, _ in every]
    known = {".".join(path[:n]) for path in parts for n in range(1, len(path) + 1)}
    near = _nearest(prefix, known)
    hint = f"did you mean {near!r}? " if near else ""
    first = ", ".join(sorted({path[0] for path in parts}))
    raise ValueError(
        f"{what} {prefix!r}, which is no parameter of the pair: {hint}expected one of {first}, "
        "or a name below it, as pair.state_dict() prints them"
    )


def _nearest(prefix: str, known: Iterable[str]) -> str:
    """The name that is most like a prefix; one that ends alike goes first."""
    alike = [name for name in known if name.split(".")[-1] == prefix.split(".")[-1]]
    near = difflib.get_close_matches(prefix, sorted(alike), n=1, cutoff=0.0)
    return (near or difflib.get_close_matches(prefix, sorted(known), n=1) or [""])[0]


def under(name: str, prefix: str) -> bool:
    """Whether a parameter's name lies under a prefix, at a dot."""
    return name == prefix or name.startswith(prefix + ".")


@contextlib.contextmanager
def constant(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Parameters that get no gradient meanwhile."""
    held = [p for p in parameters if p.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)
