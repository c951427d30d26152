"""The turns of a game: what stays as it is while one side moves, and what players start from."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils import parametrize

from ppl_models.data.tables.seeds import START, generator
from ppl_models.inference.objectives.composition import networks_in
from ppl_models.inference.training.parameter_names import under
from ppl_models.inference.training.sides import Side, constant
from ppl_models.quiet import Slot, kept

if TYPE_CHECKING:
    from ppl_models.inference.objectives.stage import Player, Stage
    from ppl_models.pair import Pair


Turn = Callable[[], contextlib.AbstractContextManager[None]]


def turns(pair: Pair, stage: Stage, sides: Sequence[Side]) -> list[Turn]:
    """The turns of a stage's sides: in each, all that is not its own is constant.

    Parameters of the others, and of nobody, get no gradient; their buffers, such as the running
    statistics of BatchNorm, have their old values again after it.

    Args:
        pair: The pair.
        stage: The stage.
        sides: Its sides, the pair's own first.
    """
    objectives = [networks_in(side.objective) for side in sides]
    roots: list[nn.Module] = [pair, *(m for held in objectives for m in held)]
    roots += [side.module for side in sides if side.module is not None]
    every = {id(p): p for root in roots for p in root.parameters()}
    modules = {id(m): m for root in roots for m in root.modules()}
    slots = [(m._buffers, name) for m in modules.values() for name in m._buffers]
    players = [_buffers(pair, player) for player in stage.players]
    claimed = {i for own in players for i in own}
    whole = {id(b) for b in pair.buffers()} - claimed
    claimed |= whole
    found: list[Turn] = []
    for side, owned, held in zip(sides, [whole, *players], objectives, strict=True):
        # A moving average that an objective keeps goes with the side that is trained on it.
        own = owned | {id(b) for m in held for b in m.buffers()} - claimed
        mine = {id(p) for p in side.parameters}
        parameters = [p for i, p in every.items() if i not in mine]
        theirs = [(held, name) for held, name in slots if id(held[name]) not in own]
        found.append(functools.partial(_turn, parameters, theirs))
    return found


@contextlib.contextmanager
def _turn(parameters: Sequence[nn.Parameter], slots: Sequence[Slot]) -> Iterator[None]:
    put_back = kept(slots)
    with constant(parameters):
        yield
    put_back()


def _buffers(pair: Pair, player: Player) -> set[int]:
    named = pair.named_buffers(remove_duplicate=False)
    own = [b for name, b in named if any(under(name, prefix) for prefix in player.parameters)]
    return {id(b) for b in (*own, *(player.module.buffers() if player.module else ()))}


def draw_weights(pair: Pair, stages: Sequence[Stage], place: int, seed: int) -> None:
    """Give the modules of a stage's players their first weights, by the run's seed.

    Those that an earlier stage has trained go on with its weights.

    Args:
        pair: The pair, whose precision they have.
        stages: The plan.
        place: Place of the stage in it.
        seed: The run's.
    """
    known = {id(m) for stage in stages[:place] for p in stage.players for m in _parts(p)}
    for number, player in enumerate(stages[place].players):
        if player.weights == "given" or player.module is None:
            continue
        player.module.to("cpu", pair.like().dtype)  # the same numbers, wherever it is trained
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(
                generator(seed, START, place, number).initial_seed()
            )
            # Inner layers first: a module that knows better then has the last word.
            for module in reversed(_parts(player)):
                if id(module) not in known:
                    _reset(module)


def networks_beside(pair: Pair, stages: Sequence[Stage], place: int) -> list[nn.Module]:
    """The networks outside the pair and the sides of a stage that it may look at.

    They are those of the players of the stages before it, and those that objectives hold, such as
    a target that follows the pair.

    Args:
        pair: The pair.
        stages: The plan.
        place: Place of the stage in it.
    """
    players = [p.module for stage in stages for p in stage.players if p.module is not None]
    known = {id(m) for root in (pair, *players) for m in root.modules()}
    before = [p.module for stage in stages[:place] for p in stage.players if p.module is not None]
    objectives = [stage.objective for stage in stages]
    objectives += [player.objective for stage in stages for player in stage.players]
    held = {id(m): m for objective in objectives for m in networks_in(objective)}
    return [*before, *(m for i, m in held.items() if i not in known)]


def _parts(player: Player) -> list[nn.Module]:
    return [] if player.module is None else list(player.module.modules())


def _reset(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
    if not callable(reset):
        return
    if not parametrize.is_parametrized(module):
        reset()
        return
    names = list(module.parametrizations)  # type: ignore[arg-type]
    with parametrize.cached():  # the layer fills what it is shown, and that is then kept
        shown = {name: getattr(module, name) for name in names}
        reset()
    for name, value in shown.items():
        setattr(module, name, value.detach().clone())
