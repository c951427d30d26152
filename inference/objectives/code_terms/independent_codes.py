r"""Codes made independent of each other given a label, by a critic or in closed form.

A critic tells rows of codes from rows in which one code was exchanged among rows of the same
label; where it cannot, the code is independent of the others given the label (conditional mutual
information, Funke et al. 2022, arXiv 2112.14754). Exchanged among all rows it is independent of
the others without condition (mutual information). Of Gaussian codes both have a closed form.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppl_models.config import unknown
from ppl_models.inference.objectives.arithmetic import zero_loss
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.code_terms.permuted_codes import row_noise
from ppl_models.inference.objectives.density_ratio import logistic_loss, logits_of
from ppl_models.inference.objectives.loss_parts import name_of
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.objectives.stage import Player
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.sites import UnhandledSite


def order_within(groups: Tensor, noise: Tensor) -> Tensor:
    """An order of rows ``(B,)`` in which each group keeps its places.

    Args:
        groups: The group of each row ``(B,)``, numbers that are equal or not.
        noise: ``(B,)``, independent and of one continuous distribution: every order of the rows
            of a group is then equally likely, whatever those of other groups are.
    """
    places = groups.argsort(stable=True)
    by_noise = noise.argsort(stable=True)
    rows = by_noise[groups[by_noise].argsort(stable=True)]
    return torch.empty_like(places).scatter(0, places, rows)


def group_sizes(groups: Tensor) -> Tensor:
    """How many rows are of the group of each row ``(B,)``."""
    ordered = groups.sort().values
    last = torch.searchsorted(ordered, groups, right=True)
    return last - torch.searchsorted(ordered, groups)


class _Exchanged(Objective):
    """The logits of a critic at rows, and at rows of which one code was exchanged."""

    across_rows = True

    def __init__(
        self,
        critic: nn.Module,
        site: str,
        others: tuple[str, ...],
        within: str = "",
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(plate_nesting)
        self.critic, self.site, self.others = critic, site, tuple(others)
        self.within = within
        if not self.others:
            raise ValueError(f"{type(self).__name__}({site!r}) has no others, expected some sites")

    def asks(self, run: Evaluation) -> bool:
        """Whether the rows have the label, in whose groups the code is exchanged."""
        if not self.within or self.within in run.batch:
            return True
        if self.within not in run.drawn.guide.nodes:
            raise UnhandledSite(
                f"{type(self).__name__} exchanges {self.site!r} within {self.within!r}, which is "
                f"no site of these rows; they have {list(run.batch)}"
            )
        return False

    def exchanged(self, run: Evaluation, detach: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Logits at the rows and at exchanged ones, and how much each counts, ``(B,)`` each.

        A group's rows count together as all rows of the batch do; rows alone in theirs not.
        """
        codes = {s: run.codes(s).only(type(self).__name__) for s in (self.site, *self.others)}
        if detach:
            codes = {s: value.detach() for s, value in codes.items()}
        every = run.every_row(codes[self.site], 0)
        noise = row_noise(run, 1, every).squeeze(-1)
        label = {self.within: run.batch[self.within]} if self.within else {}
        groups = torch.zeros_like(noise)
        if self.within:
            groups = run.every_row(label[self.within], 0)
        own = slice(run.first_row, run.first_row + run.batch.count)
        moved = {**codes, self.site: every[order_within(groups, noise)[own]]}
        both = {s: torch.cat((codes[s], moved[s])) for s in codes}
        both |= {s: torch.cat((value, value)) for s, value in label.items()}
        found = logits_of(self.critic, self._points(both))
        sizes = group_sizes(groups)[own]
        counts = torch.where(sizes > 1, len(groups) / sizes, 0).to(found.dtype)
        as_seen, as_moved = found.chunk(2)
        return as_seen, as_moved, counts

    def _points(self, values: dict[str, Tensor]) -> tuple[Tensor, ...]:
        named = getattr(self.critic, "given", None)
        if not isinstance(named, tuple):
            return tuple(values.values())
        if set(named) != set(values):
            raise ValueError(
                f"the critic of {self.site!r} reads {list(named)}, expected {list(values)}"
            )
        return tuple(values[name] for name in named)

    @property
    def seen(self) -> str:
        """The points, in formulas."""
        return ", ".join((self.site, *self.others, *((self.within,) if self.within else ())))

    @property
    def groups(self) -> str:
        """The sum over groups, in formulas."""
        return f"sum_{self.within} " if self.within else ""


class IndependentCodes(_Exchanged):
    r"""A penalty on what a critic can tell: a code is made independent of others, given a label.

    :math:`\sum_v E_{s=v}[-\log\sigma(D(\tilde z_k, z_{-k}, v)) - \log\sigma(-D(z_k, z_{-k}, v))]`
    with the labels of the critic's loss swapped, as the paper's code has it; both terms carry a
    gradient. The sum over the values of the label is none of shares: each counts as much as all
    rows would. It counts per row in which the label is known, and the weight is the paper's
    beside a bound averaged over rows. The critic is constant in it, see
    :func:`independent_codes`.

    Args:
        critic: The network: of the code, the others and the label, one number per row.
        site: The code :math:`z_k`, which the guide draws once in each row.
        others: The other codes.
        within: The label of whose values each has its own exchange; without, the whole batch.
        weight: A number or an :class:`Anneal`; at 0 the critic is not called.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Attributes:
        draws: It draws numbers of its own, beside those of the guide.
    """

    draws = True

    def __init__(
        self,
        critic: nn.Module,
        site: str,
        others: tuple[str, ...],
        within: str = "",
        weight: float | Anneal = 1.0,
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(critic, site, others, within, plate_nesting)
        check_range(f"weight of IndependentCodes({site!r})", weight)
        self.weight = weight

    @property
    def formula(self) -> str:
        """The term as added to a bound."""
        told = f"log sigmoid D({self.seen}, {self.site} exchanged) + log sigmoid -D({self.seen})"
        return f"{written(self.weight)} {self.groups}[{told}]"

    @property
    def part_names(self) -> tuple[str, ...]:
        """``independent_codes``, with its code and the label."""
        return (name_of(self, self.site, *((self.within,) if self.within else ())),)

    def rows(self, run: Evaluation) -> Tensor:
        """The penalty at each row, by what its group counts."""
        weight = value_at(self.weight, self.progress)
        if weight == 0 or not self.asks(run):
            return zero_loss(run)
        seen, moved, counts = self.exchanged(run, detach=False)
        return weight * counts * logistic_loss(moved, seen)


class ExchangedCritic(_Exchanged):
    """What the critic of :func:`independent_codes` is trained on; codes carry no gradient.

    Args:
        critic: The network.
        site: The code that is exchanged.
        others: The other codes.
        within: The label, as of :class:`IndependentCodes`.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.
    """

    @property
    def formula(self) -> str:
        """The log probability that it gives to the right kind."""
        told = f"log sigmoid D({self.seen}) + log sigmoid -D({self.seen}, {self.site} exchanged)"
        return f"{self.groups}[{told}]"

    @property
    def part_names(self) -> tuple[str, ...]:
        """``logistic``: its loss, 2 log 2 for each value of the label where it cannot tell."""
        return (f"logistic({self.within or self.site})",)

    def rows(self, run: Evaluation) -> Tensor:
        """The loss at each row, by what its group counts."""
        if not self.asks(run):
            return zero_loss(run)
        seen, moved, counts = self.exchanged(run, detach=True)
        return counts * logistic_loss(seen, moved)


def independent_codes(
    critics: Mapping[str, nn.Module] | nn.ModuleDict,
    sites: Sequence[str],
    within: Mapping[str, str] | None = None,
    weight: float | Anneal = 1.0,
    name: str = "critic",
    **options: Any,
) -> tuple[Objective, Player]:
    """A term that makes codes independent, each given a label or not, and the critics' player.

    Args:
        critics: By code that is exchanged, the network that tells exchanged rows: called with
            the code, the other codes in the order of ``sites`` and the label, in this order or
            by the names of its inputs; gives one number per row. Without BatchNorm or dropout.
        sites: All codes, which the guide draws once in each row.
        within: By code, the label in whose groups it is exchanged; rows without the label do not
            count. A code without one is exchanged among all rows.
        weight: Of each term, a number or an :class:`Anneal`.
        name: Of the player, which trains all critics.
        options: Of :class:`Player`: ``steps``, ``learning_rate``, ``betas``, ...

    Raises:
        ValueError: If no code is exchanged, or one that is no site.
    """
    within = within or {}
    for code in (*critics, *within):
        if code not in sites:
            raise ValueError(unknown("code", code, sites))
    if not critics:
        raise ValueError("critics is empty, expected a network by code that is exchanged")
    parts = []
    for code, critic in critics.items():
        others = tuple(s for s in sites if s != code)
        label = within.get(code, "")
        parts.append(
            (
                IndependentCodes(critic, code, others, label, weight),
                ExchangedCritic(critic, code, others, label),
            )
        )
    term, theirs = (functools.reduce(operator.add, side) for side in zip(*parts, strict=True))
    return term, Player(name, theirs, nn.ModuleDict(dict(critics.items())), **options)
