"""What a stage of training is: an objective, which rows and sites it sees, and how long."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from ppl_models.batch import Batch
from ppl_models.config import Config, names, native, native_entry, setting, unknown, whole
from ppl_models.inference.objectives.base import Objective, check_choice
from ppl_models.inference.objectives.habits import ours
from ppl_models.inference.objectives.learning_rate import learning_rate_factor
from ppl_models.inference.objectives.schedule import Progress, check_range
from ppl_models.inference.traces.sites import Program

ADDED = {"added": True}  # since the first versions
Change = Callable[[Progress], None]


@dataclass(frozen=True)
class Training(Config):
    """How a stage is optimised; every field is a flag of the command line."""

    epochs: int = setting(100, "passes over the largest kind of rows", minimum=1)
    steps: int = setting(
        0, "gradient steps, in place of epochs; 0 goes by epochs", minimum=0, added=True
    )
    batch_size: int = setting(100, "rows per step, of all kinds together", minimum=1)
    labelled_batch_size: int = setting(
        0, "rows per step of each kind with labels, on top; 0 for their share", minimum=0
    )
    optimiser: str = setting(
        "adam",
        "of torch.optim, with options: 'sgd(momentum=0.9)', 'adamw(weight_decay=0.05)'",
        added=True,
    )
    learning_rate: float = setting(1e-3, "of the optimiser", minimum=0)
    schedule: str = setting(
        "constant",
        "of the learning rate: constant, linear, cosine or step, with options: "
        "'step(every=1000, factor=0.5)'",
        added=True,
    )
    warmup: int = setting(
        0, "steps in which the learning rate grows from 0", minimum=0, added=True
    )
    clip_norm: float = setting(
        0.0,
        "clips the gradient of the loss per row to this norm; 0 for no clipping",
        minimum=0,
        added=True,
    )
    beta1: float = setting(0.9, "decay of Adam's mean", minimum=0)
    beta2: float = setting(0.999, "decay of Adam's square", minimum=0)
    weight_prior: float = setting(
        0.0, "precision of a Normal prior on all weights, counted once per data set", minimum=0
    )
    compile: bool = setting(False, "compile the steps; takes about a minute to start with")
    precision: str = setting(
        "full", "of the networks; densities keep the full one", choices=("full", "bf16")
    )
    patience: int = setting(
        0,
        "early stopping: epochs without a better validation loss before it; 0 never stops",
        minimum=0,
    )

    def __post_init__(self) -> None:
        """Check the schedule besides."""
        super().__post_init__()
        learning_rate_factor(self.schedule, self.warmup)

    @property
    def length(self) -> tuple[str, int]:
        """What the stage is long in, ``steps`` or ``epochs``, and how many."""
        return ("steps", self.steps) if self.steps else ("epochs", self.epochs)


@dataclass(frozen=True)
class Stage:
    """One stage of a paper's training; stages run in order.

    Attributes:
        objective: What is made large.
        name: Shown by the progress bar and in the history.
        pair: The part of the pair that this stage trains; the whole pair if None.
        sites: Sites of the data that it sees, beside covariates; all if empty.
        observed: Train only on rows in which this site is observed; all rows if empty.
        start: Called once before the stage with a batch of up to 1,000 rows without labels.
        prepare: Turns each batch into the one that is trained on, without gradient; for draws
            such as augmentations, too. It belongs to the stage: whoever asks the pair itself,
            such as an export, gives it rows as the pair takes them.
        prepare_validation: In its place for validation rows, which are looked at in eval mode;
            by default they are prepared alike, with the same draws at each look.
        after: Called without gradient after each step, with the progress at which it was taken:
            a function or several, such as :func:`moving_average` makes. What they change is
            resumed where it is in buffers or parameters.
        freeze: Prefixes of the names of parameters that stay as they are, by any of the names
            that ``state_dict`` prints.
        rates: Learning rates of the stage's own side by such prefixes, ``{"graph": 1e-2}``; the
            longest prefix counts, and all other parameters have ``training``'s.
        players: Further sides of a game, each with its own loss, parameters and optimiser.
        simultaneous: Take every side's gradient before any moves; by default they move in
            turn, the pair first, and each sees the others' last move.
        training: How it is optimised.
    """

    objective: Objective
    name: str = "fit"
    pair: Program | None = None
    sites: tuple[str, ...] = ()
    observed: str = ""
    start: Callable[[Batch], None] | None = None
    prepare: Callable[[Batch], Batch] | None = None
    prepare_validation: Callable[[Batch], Batch] | None = field(default=None, metadata=ADDED)
    after: Change | tuple[Change, ...] = field(default=(), metadata=ADDED)
    freeze: tuple[str, ...] = ()
    players: tuple[Player, ...] = ()
    simultaneous: bool = False
    training: Training = field(default_factory=Training)
    rates: Mapping[str, float] = field(default_factory=dict, hash=False, metadata=ADDED)

    def __post_init__(self) -> None:
        """Names become a tuple; a single text is none."""
        object.__setattr__(self, "rates", _rates(f"rates of stage {self.name!r}", self.rates))
        for option in ("sites", "freeze"):
            found = names(f"{option} of stage {self.name!r}", getattr(self, option))
            object.__setattr__(self, option, found)
        for option in ("prepare", "prepare_validation"):
            if (given := getattr(self, option)) is not None and not callable(given):
                raise ValueError(
                    f"{option} of stage {self.name!r} is {given!r}, expected a function of a batch"
                )
        after = (self.after,) if callable(self.after) else tuple(self.after)
        object.__setattr__(self, "after", after)

    @property
    def changes(self) -> tuple[Change, ...]:
        """What is called after each step."""
        return (self.after,) if callable(self.after) else self.after


def with_training(stages: tuple[Stage, ...], overrides: Mapping[str, Any]) -> tuple[Stage, ...]:
    """Stages with some training options replaced.

    Args:
        stages: The stages.
        overrides: Fields of :class:`Training`; a tuple gives one value per stage. ``epochs`` take
            the place of a stage's steps, and ``steps`` of its epochs; where both are given, one
            of the steps is 0, and that stage goes by epochs.

    Raises:
        ValueError: If an option does not exist, is out of range or has another number of
            values than there are stages, or a stage is given both epochs and steps.
    """
    known = [f.name for f in dataclasses.fields(Training)]
    overrides = {key: native(value) for key, value in overrides.items()}
    changed = []
    for key, value in overrides.items():
        if key not in known:
            if name := ours(key):
                raise ValueError(f"fit has no option {key!r}; it is {name}")
            raise ValueError(unknown("training option", key, known))
        if isinstance(value, tuple | list) and len(value) not in (1, len(stages)):
            raise ValueError(
                f"{key} has {len(value)} values, expected one or {len(stages)}, one per stage "
                f"({', '.join(s.name for s in stages)})"
            )
    lengths = overrides.get("steps")
    mixed = isinstance(lengths, tuple | list) and 0 in lengths
    for place, stage in enumerate(stages):
        own = {
            key: (value[place % len(value)] if isinstance(value, tuple | list) else value)
            for key, value in overrides.items()
        }
        if own.get("steps") and "epochs" in own and not mixed:
            raise ValueError(
                f"stage {stage.name!r} is given steps={own['steps']} and epochs={own['epochs']}, "
                "expected one of them"
            )
        if "epochs" in own:
            own.setdefault("steps", 0)
        training = dataclasses.replace(stage.training, **own)
        changed.append(dataclasses.replace(stage, training=training))
    return tuple(changed)


@dataclass(frozen=True)
class Player:
    """One more side of a game, beside the one that trains the pair on the stage's objective.

    Its objective is called with the same model, guide and batches; whatever it does not train
    is constant on its turn, buffers included. It draws from random streams of its own, so that
    the other sides draw what they would draw without it.

    Attributes:
        name: Names it in errors, and its parts in the training curve.
        objective: What it makes large.
        module: Networks outside the pair that it trains, e.g. a discriminator. They take the
            device and the precision of the pair.
        parameters: Prefixes of the names of parameters of the pair that it trains instead of
            the stage's own side, e.g. ``("guide.factors.y",)`` for a max-min objective.
        steps: Gradient steps per step of the stage, each with fresh draws.
        learning_rate: In place of the stage's, if given.
        betas: Decays of Adam's mean and square in place of the stage's, if given, for an
            optimiser that has such.
        weight_decay: Of the weights, in place of what the stage's ``weight_prior`` comes to.
        rates: Learning rates by prefix of the names that ``module.state_dict()`` prints, or, for
            a player without a module, those of the pair; the longest prefix counts.
        weights: Where the module's first weights come from: ``"seed"`` draws them anew from the
            run's seed, by the ``reset_parameters`` of its layers (weights of a module that has
            none stay); ``"given"`` takes them as they are, e.g. those of another run.
    """

    name: str
    objective: Objective
    module: nn.Module | None = None
    parameters: tuple[str, ...] = ()
    steps: int = 1
    learning_rate: float | None = None
    betas: tuple[float, float] | None = field(default=None, metadata=ADDED)
    weight_decay: float | None = field(default=None, metadata=ADDED)
    rates: Mapping[str, float] = field(default_factory=dict, hash=False, metadata=ADDED)
    weights: Literal["seed", "given"] = field(default="seed", metadata=ADDED)

    def __post_init__(self) -> None:
        """Check all that can be told without the pair."""
        if not isinstance(self.name, str) or not re.fullmatch(r"\w[\w -]*", self.name):
            raise ValueError(f"name of a player is {self.name!r}, expected letters and digits")
        who = f"player {self.name!r}"
        if not isinstance(self.objective, Objective):
            raise ValueError(f"objective of {who} is {self.objective!r}, expected an Objective")
        parameters = names(f"parameters of {who}", self.parameters)
        object.__setattr__(self, "parameters", parameters)
        if self.module is None and not self.parameters:
            raise ValueError(f"{who} trains nothing, expected a module or names of parameters")
        if self.module is not None and not isinstance(self.module, nn.Module):
            raise ValueError(f"module of {who} is {self.module!r}, expected a torch module")
        object.__setattr__(self, "steps", whole(f"steps of {who}", self.steps, 1))
        if self.betas is not None:
            object.__setattr__(self, "betas", _betas(f"betas of {who}", self.betas))
        for option in ("learning_rate", "weight_decay"):
            if (value := getattr(self, option)) is not None:
                object.__setattr__(self, option, _number(f"{option} of {who}", value))
        object.__setattr__(self, "rates", _rates(f"rates of {who}", self.rates))
        check_choice(f"weights of {who}", self.weights, ("seed", "given"))


def _number(option: str, value: Any) -> float:
    number = native_entry(value)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError(f"{option} is {value!r}, expected a number")
    check_range(option, number, 0)
    return float(number)


def _rates(option: str, value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{option} is {value!r}, expected a mapping such as {{'name': 0.01}}")
    for prefix in names(option, tuple(value)):
        if not prefix:
            raise ValueError(f"{option} has an empty name, expected a parameter's")
    return {prefix: _number(f"{option}, {prefix!r},", rate) for prefix, rate in value.items()}


def _betas(option: str, value: Any) -> tuple[float, float]:
    values = native(value)
    if not isinstance(values, tuple | list) or len(values) != 2:
        raise ValueError(f"{option} is {value!r}, expected two numbers such as (0.5, 0.9)")
    first, second = (_number(option, entry) for entry in values)
    if max(first, second) >= 1:
        raise ValueError(f"{option} is {value!r}, expected numbers below 1")
    return first, second
