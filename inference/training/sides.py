"""Who trains what: the players of a stage, their parameters and their optimisers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ppl_models.inference.training.optimisers import optimiser_of, restore_state
from ppl_models.inference.training.parameter_names import below, by_rate

if TYPE_CHECKING:
    from ppl_models.inference.objectives.base import Objective
    from ppl_models.inference.objectives.stage import Player, Stage
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
    groups, options = by_rate(own, stage.rates, pair, f"stage {stage.name!r}"), stage.training
    found = [_side("pair", stage.objective, groups, optimiser_of(groups, options, rows))]
    for player, theirs in zip(stage.players, others, strict=True):
        if player.module is not None:
            player.module.to(pair.like().device, pair.like().dtype)
        groups = player_groups(pair, player, theirs)
        optimiser = optimiser_of(groups, options, rows)
        found.append(
            _side(player.name, player.objective, groups, optimiser, player.steps, player.module)
        )
    return found


def player_groups(
    pair: Pair, player: Player, parameters: list[nn.Parameter]
) -> list[dict[str, Any]]:
    """A player's parameters as an optimiser takes them, with the options that are its own.

    Args:
        pair: The pair.
        player: The player.
        parameters: All that it trains.

    Raises:
        ValueError: As :func:`by_rate`.
    """
    named: tuple[nn.Module, str] = (pair, "the pair")
    if player.module is not None:
        named = (player.module, "its module")
    groups = by_rate(parameters, player.rates, named[0], f"player {player.name!r}", named[1])
    options = {
        "lr": player.learning_rate,
        "betas": player.betas,
        "weight_decay": player.weight_decay,
    }
    own = {option: value for option, value in options.items() if value is not None}
    return [{**own, **group} for group in groups]


def _side(
    name: str,
    objective: Objective,
    groups: list[dict[str, Any]],
    optimiser: torch.optim.Optimizer,
    steps: int = 1,
    module: nn.Module | None = None,
) -> Side:
    # In the order of the optimiser, by which its state is counted.
    parameters = [p for group in groups for p in group["params"]]
    return Side(name, objective, parameters, optimiser, steps, module)


def trained(pair: Pair, stage: Stage) -> tuple[list[nn.Parameter], list[list[nn.Parameter]]]:
    """The pair's parameters that a stage trains itself, and those of each of its players.

    Raises:
        ValueError: If a name of a parameter fits none, two players share a parameter, or
            nothing is left to train.
    """
    held = {id(p) for p in frozen(pair, stage)}
    taken = dict.fromkeys(held, f"stage {stage.name!r}")
    in_pair = {id(p): name for name, p in pair.named_parameters()}
    others = []
    called = {"pair"}
    for player in stage.players:
        what = f"player {player.name!r}"
        if player.name in called:
            raise ValueError(f"stage {stage.name!r} has two sides named {player.name!r}")
        called.add(player.name)
        theirs: dict[int, nn.Parameter] = {}
        for prefix in player.parameters:
            for name, parameter in below(pair, prefix, f"{what} trains"):
                if id(parameter) in taken:
                    raise ValueError(
                        f"{what} trains {name!r}, which {taken[id(parameter)]} already has"
                    )
                theirs[id(parameter)] = parameter
        for name, parameter in player.module.named_parameters() if player.module else ():
            if id(parameter) in in_pair:
                raise ValueError(
                    f"module of {what} holds {in_pair[id(parameter)]!r} of the pair; expected "
                    f"networks outside it, or parameters=({in_pair[id(parameter)]!r},)"
                )
            if id(parameter) in taken:
                raise ValueError(
                    f"{what} trains {name!r}, which {taken[id(parameter)]} already has"
                )
            theirs[id(parameter)] = parameter
        if not theirs:
            raise ValueError(f"module of {what} has no parameters, expected some to train")
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
    by_rate(own, stage.rates, pair, f"stage {stage.name!r}")  # a name that fits none is told now
    for player, parameters in zip(stage.players, others, strict=True):
        player_groups(pair, player, parameters)
    return own, others


def frozen(pair: Pair, stage: Stage) -> list[nn.Parameter]:
    """The parameters that a stage leaves as they are.

    A parameter that is reached by several names, as in a network that two sites share, is frozen
    by any of them.

    Raises:
        ValueError: If the stage freezes a name that the pair has no parameter of.
    """
    found = [below(pair, prefix, f"stage {stage.name!r} freezes") for prefix in stage.freeze]
    return list({id(p): p for named in found for _, p in named}.values())


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
