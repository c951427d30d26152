"""Who trains what: the players of a stage, their parameters and their optimisers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from ppl_models.inference.objectives.base import Objective
    from ppl_models.inference.objectives.stage import Stage, Training
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
        for place, held in moments.items():
            # Adam's own kernel reads as many numbers as the parameter has.
            for name, value in held.items():
                shape = self.parameters[place].shape if name != "step" else ()
                if value.shape != shape:
                    raise ValueError(
                        f"{name} of parameter {place} of {self.name!r} has shape "
                        f"{tuple(value.shape)}, expected {tuple(shape)}"
                    )
        own = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": own})
        if self.module is not None:
            self.module.load_state_dict(state["module"])


def sides(pair: Pair, stage: Stage, rows: int) -> list[Side]:
    """The side that trains the pair, then the stage's players in order.

    Args:
        pair: The whole pair.
        stage: The stage.
        rows: Rows in the stage's data, which a prior on the weights is divided by.

    Raises:
        ValueError: If a name of a parameter fits none, two players share a parameter, or
            nothing is left to train.
    """
    names = dict(pair.named_parameters())
    taken: dict[int, str] = {}
    for what, prefix, kind in [
        *((f"stage {stage.name!r}", f, "freezes") for f in stage.freeze),
        *((f"player {p.name!r}", f, "trains") for p in stage.players for f in p.parameters),
    ]:
        named = [n for n in names if under(n, prefix)]
        if not named:
            raise ValueError(f"{what} {kind} {prefix!r}, which is no parameter of the pair")
        for name in named:
            if id(names[name]) in taken and kind == "trains":
                raise ValueError(
                    f"{what} trains {name!r}, which {taken[id(names[name])]} already has"
                )
            taken[id(names[name])] = what
    if stage.simultaneous and (several := [p for p in stage.players if p.steps > 1]):
        raise ValueError(
            f"player {several[0].name!r} has steps={several[0].steps}, but the sides of stage "
            f"{stage.name!r} move at once; expected steps=1"
        )
    own = [p for p in (stage.pair or pair).parameters() if id(p) not in taken]
    if not own:
        raise ValueError(f"stage {stage.name!r} freezes every parameter, expected one to train")
    frozen = {id(names[n]) for f in stage.freeze for n in names if under(n, f)}
    found_sides = [Side("pair", stage.objective, own, _adam(own, stage.training, rows))]
    for player in stage.players:
        theirs = [names[n] for f in player.parameters for n in names if under(n, f)]
        theirs = [p for p in theirs if id(p) not in frozen]
        if player.module is not None:
            player.module.to(own[0].device)
            theirs += list(player.module.parameters())
        optimiser = _adam(theirs, stage.training, rows, player.learning_rate)
        found_sides.append(
            Side(player.name, player.objective, theirs, optimiser, player.steps, player.module)
        )
    return found_sides


def _adam(
    parameters: list[nn.Parameter],
    options: Training,
    rows: int,
    learning_rate: float | None = None,
) -> torch.optim.Optimizer:
    return torch.optim.Adam(
        parameters,
        lr=options.learning_rate if learning_rate is None else learning_rate,
        betas=(options.beta1, options.beta2),
        # Adam adds weight_decay * w to the gradient of the mean loss per row, which is the
        # gradient of the prior's -log density / N.
        weight_decay=options.weight_prior / rows,
        fused=True,
    )


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
