r"""Coordinates of a code that stand for known attributes, by networks that read them: a game.

A head tells attribute t from its own coordinate :math:`z_t` and is helped to it (excitation); an
adversary tells it from all other coordinates, which are trained to say nothing of it (inhibition;
Guided-VAE, Ding et al. 2020, arXiv 2004.01255, Section 3.3). All of these networks stand outside
the pair, and are done with when it is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn
from torch.nn import functional

from ppl_models.inference.objectives.arithmetic import zero_loss
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.loss_parts import name_of
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.objectives.stage import Player
from ppl_models.inference.traces.evaluation import Evaluation

CONFUSED = 0.5  # what an adversary should say of an attribute that is 0 or 1


class _Read(Objective):
    """Networks that read attributes of 0 or 1 off a code; rows without one count nothing for it.

    Args:
        networks: By label, from its own coordinate ``(..., 1)`` or from all others
            ``(..., D - 1)`` to one logit.
        site: A site that the guide draws in every row, a vector.
        places: Place of each label's own coordinate.
        weight: A number or an :class:`Anneal`, at least 0.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Raises:
        ValueError: If the weight is below 0, or labels, networks and places do not fit; in the
            first step of a fit, if a label is neither 0 nor 1.
    """

    def __init__(
        self,
        networks: nn.ModuleDict,
        site: str,
        places: Mapping[str, int],
        weight: float | Anneal = 1.0,
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(plate_nesting)
        check_range(f"weight of {type(self).__name__}({site!r})", weight, 0)
        if set(networks) != set(places) or not places:
            raise ValueError(
                f"networks of {type(self).__name__}({site!r}) are of {sorted(networks)}, expected "
                f"one for each of {sorted(places)}"
            )
        self.networks, self.site, self.places, self.weight = networks, site, dict(places), weight

    @property
    def part_names(self) -> tuple[str, ...]:
        """The term, with its labels."""
        return (name_of(self, *self.places),)

    def read(self, run: Evaluation, others: bool, confused: bool, detach: bool) -> Tensor:
        """The weighted cross-entropy per row ``(B,)``, on average over the bound's draws.

        Args:
            run: The run.
            others: Read the other coordinates, not the label's own.
            confused: Compare with one half, not with the label.
            detach: Let no gradient through the code.
        """
        weight = value_at(self.weight, self.progress)
        known = [label for label in self.places if label in run.batch]
        if weight == 0 or not known:
            return zero_loss(run)
        codes = run.codes(self.site)
        z = codes.values.detach() if detach else codes.values  # S x B x D
        losses = []
        for label in known:
            logit = self._logit(label, coordinates(z, self.places[label], others))
            target = torch.full_like(logit, CONFUSED)
            if not confused:
                target = self._target(label, run.batch[label]).to(logit).expand_as(logit)
            losses.append(
                functional.binary_cross_entropy_with_logits(logit, target, reduction="none")
            )
        return weight * codes.mean(torch.stack(losses).sum(0))

    def _target(self, label: str, value: Tensor) -> Tensor:
        # In the first step of a fit: the look reads values on the host.
        if is_validation_enabled() and len(other := value[(value != 0) & (value != 1)]):
            raise ValueError(
                f"label {label!r} has the value {other[0].item():g}, expected 0 or 1: "
                f"{type(self).__name__} reads attributes that are there or not"
            )
        return value.reshape(-1)

    def _logit(self, label: str, part: Tensor) -> Tensor:
        network = self.networks[label]
        named = getattr(network, "given", None)
        logit: Tensor = network(**{named[0]: part}) if named else network(part)
        if logit.shape != (*part.shape[:-1], 1):
            raise ValueError(
                f"the network of {label!r} gives shape {tuple(logit.shape)}, expected one logit "
                f"per code, {(*part.shape[:-1], 1)}"
            )
        return logit.squeeze(-1)


def coordinates(z: Tensor, place: int, others: bool) -> Tensor:
    """One coordinate of codes ``(..., D)`` as ``(..., 1)``, or all others ``(..., D - 1)``.

    Raises:
        ValueError: If the code has no such place.
    """
    if not -1 < place < z.shape[-1]:
        raise ValueError(f"a place is {place}, expected 0 to {z.shape[-1] - 1} in the code")
    if others:
        return torch.cat((z[..., :place], z[..., place + 1 :]), -1)
    return z[..., place : place + 1]


class Excitation(_Read):
    r"""Makes each label readable in its own coordinate: :math:`w\,E_q[-\log p(y_t | z_t)]`.

    Of rows that have the label, without N / N_lab. The heads are constant in it; a player
    trains them, see :func:`guided_attributes`, which also says what the arguments are.
    """

    @property
    def formula(self) -> str:
        """The term as added to a bound."""
        own = (f"log p({label} | {self.site}[{t}])" for label, t in self.places.items())
        return f"{written(self.weight)} E_q[{' + '.join(own)}]"

    def rows(self, run: Evaluation) -> Tensor:
        """The cross-entropy of each row's labels."""
        return self.read(run, others=False, confused=False, detach=False)


class Inhibition(_Read):
    r"""Makes all other coordinates say nothing of a label, by an adversary that would tell it.

    :math:`w\,E_q[-\frac12 \log a(z_{-t}) - \frac12 \log(1 - a(z_{-t}))]`, which is least, w log 2,
    where the adversary gives one half: the confused target of the paper's code, bounded where the
    paper's max-min is not. Of rows that have the label. The adversaries are constant in it.
    """

    @property
    def formula(self) -> str:
        """The term as added to a bound."""
        site = self.site
        told = (f"log a(1 - a), a = a({site} without {site}[{t}])" for t in self.places.values())
        return f"{written(self.weight)} / 2 E_q[{' + '.join(told)}]"

    def rows(self, run: Evaluation) -> Tensor:
        """The cross-entropy of one half under what each adversary says."""
        return self.read(run, others=True, confused=True, detach=False)


class AttributeReaders(_Read):
    """What heads and adversaries are trained on: telling labels; codes carry no gradient.

    Args:
        networks: As of :class:`Excitation`.
        site: The code.
        places: Place of each label's own coordinate.
        others: Whether they read the other coordinates, as adversaries do.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.
    """

    def __init__(
        self,
        networks: nn.ModuleDict,
        site: str,
        places: Mapping[str, int],
        others: bool = False,
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(networks, site, places, plate_nesting=plate_nesting)
        self.others = others

    @property
    def formula(self) -> str:
        """The log probability that they give to the labels."""
        part = "{0} without {0}[{1}]" if self.others else "{0}[{1}]"
        told = (f"log p({y} | {part.format(self.site, t)})" for y, t in self.places.items())
        return f"E_q[{' + '.join(told)}]"

    @property
    def part_names(self) -> tuple[str, ...]:
        """``logistic``: their loss."""
        return ("logistic",)

    def rows(self, run: Evaluation) -> Tensor:
        """The cross-entropy of each row's labels."""
        return self.read(run, others=self.others, confused=False, detach=True)


def guided_attributes(
    heads: Mapping[str, nn.Module],
    adversaries: Mapping[str, nn.Module],
    site: str,
    places: Mapping[str, int],
    excitation: float | Anneal = 200.0,
    inhibition: float | Anneal = 200.0,
    **options: Any,
) -> tuple[Objective, tuple[Player, ...]]:
    """Terms by which coordinates of a code stand for labels and others do not, and their players.

    Beside a bound, ``Stage(ELBO() + terms, players=players)``. Labels are 0 or 1 and need be no
    sites of the story; rows that lack one are left to the bound. A label that is known in some
    rows only counts in these, without N / N_lab. With weights of 0 the pair is trained as by the
    bound alone, bit for bit.

    Args:
        heads: By label, a network from one number to a logit; called by keyword where it has
            names for its inputs, as a :class:`ppl_models.networks.Net` has.
        adversaries: By label, a network from all other coordinates to a logit; with none there
            is no inhibition.
        site: A site that the guide draws in every row, a vector.
        places: By label, the place of its coordinate.
        excitation: Weight of the heads' cross-entropy, nats per row.
        inhibition: Weight of the confusion of the adversaries.
        options: Of the adversaries' :class:`Player`: ``steps``, ``learning_rate``, ...

    Raises:
        ValueError: If a label has no network or place, or two labels share a place.
    """
    if len(set(places.values())) < len(places):
        raise ValueError(f"places are {dict(places)}, expected another one for each label")
    own = nn.ModuleDict(dict(heads))
    terms: Objective = Excitation(own, site, places, excitation)
    players = (Player("heads", AttributeReaders(own, site, places), own),)
    if not adversaries:
        return terms, players
    others = nn.ModuleDict(dict(adversaries))
    theirs = AttributeReaders(others, site, places, others=True)
    adversary = Player("adversaries", theirs, others, **options)
    return terms + Inhibition(others, site, places, inhibition), (*players, adversary)
