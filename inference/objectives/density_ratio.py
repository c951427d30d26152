r"""Density ratios by a critic: a divergence between two kinds of points, as a game.

A critic D that tells points of one kind from points of another, by logistic regression, is at
its best the log ratio of their densities, and its mean over the first kind their KL divergence
(Sugiyama et al. 2012; Goodfellow et al. 2014, arXiv 1406.2661). The pair's side makes that mean
small, a player trains the critic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro import poutine
from torch import Tensor, nn
from torch.nn import functional

from ppl_models.covariates import emptied
from ppl_models.inference.objectives.arithmetic import zero_loss
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.loss_parts import name_of
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.objectives.stage import Player
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.nesting import owner_of
from ppl_models.inference.traces.sites import UnhandledSite

Points = Callable[[Evaluation], tuple[Tensor, ...]]


class _Sites:
    """Points made of the values of sites; each is an argument of the critic."""

    def __init__(self, *sites: str) -> None:
        if not sites:
            raise ValueError(f"{type(self).__name__}() names no sites, expected at least one")
        self.sites = sites

    def __repr__(self) -> str:
        """As written."""
        return f"{type(self).__name__}({', '.join(map(repr, self.sites))})"


class Encoded(_Sites):
    """Rows as the guide completes them: what they observe, and draws of what they do not.

    Args:
        sites: Sites of the data, and sites that the guide draws once in each row.
    """

    def __call__(self, run: Evaluation) -> tuple[Tensor, ...]:
        """The values ``(B, *event)``, with their gradient."""
        return tuple(
            run.batch[site] if site in run.batch else run.codes(site).only(repr(self))
            for site in self.sites
        )


class Generated(_Sites):
    """Rows that the model makes up, as many as there are.

    Args:
        sites: Sites of the model inside the data plate.
        given: Sites whose values are taken from the rows, beside covariates, which all are.
    """

    def __init__(self, *sites: str, given: tuple[str, ...] = ()) -> None:
        super().__init__(*sites)
        self.given = given

    def __call__(self, run: Evaluation) -> tuple[Tensor, ...]:
        """The values ``(B, *event)``, with their gradient where a draw has one."""
        trace = run.once(("generated", self.given), lambda: self._draw(run))
        if lacking := [site for site in self.sites if site not in trace.nodes]:
            raise UnhandledSite(
                f"{self!r} needs site {lacking[0]!r}, which the model does not have; it has "
                f"{list(trace.stochastic_nodes)}"
            )
        return tuple(trace.nodes[site]["value"] for site in self.sites)

    def _draw(self, run: Evaluation) -> poutine.Trace:
        known = emptied(owner_of(run.model), run.batch)
        return poutine.trace(run.model).get_trace(run.batch.only(*known, *self.given))


def logits_of(critic: nn.Module, points: tuple[Tensor, ...]) -> Tensor:
    """The log ratio that a critic gives at each point, ``(B,)``.

    Args:
        critic: Called with one tensor per site, by name if it has names for its inputs, as a
            :class:`ppl_models.networks.Net` has; gives ``(B,)`` or ``(B, 1)``.
        points: One tensor ``(B, *event)`` per site.

    Raises:
        ValueError: If the critic reads or gives something else.
    """
    named = getattr(critic, "given", None)
    if isinstance(named, tuple) and len(named) != len(points):
        raise ValueError(
            f"critic {type(critic).__name__} reads {list(named)}, but a point is "
            f"{len(points)} tensors; expected one for each"
        )
    by_name = dict(zip(named, points, strict=True)) if isinstance(named, tuple) else {}
    logits: Tensor = critic(**by_name) if by_name else critic(*points)
    rows = len(points[0])
    if logits.shape not in ((rows,), (rows, 1)):
        raise ValueError(
            f"critic {type(critic).__name__} gives shape {tuple(logits.shape)}, "
            f"expected one number per row, ({rows},) or ({rows}, 1)"
        )
    return logits.reshape(rows)


def logistic_loss(first: Tensor, second: Tensor) -> Tensor:
    r"""What it costs a critic to tell points apart: :math:`\log(1+e^{-D_1}) + \log(1+e^{D_2})`.

    Args:
        first: Log ratios that it gives to points of the first kind.
        second: Those of the second; swapped with the first, the cost of the other answer.
    """
    return functional.softplus(-first) + functional.softplus(second)


class DensityRatio(Objective):
    r"""The log ratio that a critic gives to a pair's points: :math:`\gamma\,E[D]`, made small.

    It counts per row, as a bound does. The critic is constant in it: a player trains it, see
    :func:`density_ratio`.

    Args:
        critic: The network; called with one tensor per site, gives one number per row.
        points: The points, :class:`Encoded` or :class:`Generated`, or a function of the run.
        weight: :math:`\gamma`, a number or an :class:`Anneal`, below 0 to make the ratio large;
            at 0 the critic is not called.
        tilt: Weigh each point by the ratio :math:`e^D` itself, held between these two numbers and
            constant in the gradient: with weight -1 at points of the second kind that is the
            gradient of KL(first || second) with respect to the second.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Raises:
        ValueError: If the weight is not finite, or ``tilt`` no two numbers in order.
    """

    def __init__(
        self,
        critic: nn.Module,
        points: Points,
        weight: float | Anneal = 1.0,
        tilt: tuple[float, float] | None = None,
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(plate_nesting)
        check_range("weight of DensityRatio", weight)
        if tilt is not None and not 0 < tilt[0] <= tilt[1]:
            raise ValueError(
                f"tilt of DensityRatio is {tilt}, expected two numbers such as (0.5, 2)"
            )
        self.critic, self.points, self.weight, self.tilt = critic, points, weight, tilt

    @property
    def formula(self) -> str:
        """The term as added to a bound."""
        return f"-{written(self.weight)} log ratio({', '.join(told(self.points))})"

    @property
    def part_names(self) -> tuple[str, ...]:
        """The term, with the sites that it looks at."""
        return (name_of(self, *told(self.points)),)

    def rows(self, run: Evaluation) -> Tensor:
        """The weighted log ratio per row."""
        weight = value_at(self.weight, self.progress)
        if weight == 0:
            return zero_loss(run)
        ratio = logits_of(self.critic, self.points(run))
        if self.tilt is not None:
            ratio = ratio.detach().exp().clamp(*self.tilt) * ratio
        return weight * ratio


class LogisticCritic(Objective):
    r"""What a critic is trained on: telling two kinds of points apart.

    :math:`\frac12 E_1[\log(1 + e^{-D})] + \frac12 E_2[\log(1 + e^{D})]`, which is least where D is
    the log ratio of their densities. The points carry no gradient.

    Args:
        critic: The network.
        first: Points of the first kind.
        second: Of the second.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.
    """

    def __init__(
        self, critic: nn.Module, first: Points, second: Points, plate_nesting: int | None = None
    ) -> None:
        super().__init__(plate_nesting)
        self.critic, self.first, self.second = critic, first, second

    @property
    def formula(self) -> str:
        """The mean log probability that it gives to the right kind."""
        first, second = (", ".join(told(points)) for points in (self.first, self.second))
        return f"1/2 log sigmoid D({first}) + 1/2 log sigmoid -D({second})"

    @property
    def part_names(self) -> tuple[str, ...]:
        """``logistic``: its loss."""
        return ("logistic",)

    def rows(self, run: Evaluation) -> Tensor:
        """Half the loss at each row's point of either kind."""
        first, second = (
            logits_of(self.critic, tuple(value.detach() for value in points(run)))
            for points in (self.first, self.second)
        )
        return 0.5 * logistic_loss(first, second)


def density_ratio(
    critic: nn.Module,
    first: Points,
    second: Points,
    weight: float | Anneal = 1.0,
    name: str = "critic",
    **options: Any,
) -> tuple[DensityRatio, Player]:
    """A term that makes KL(first || second) small by moving the first, and the critic's player.

    Beside a bound, ``Stage(ELBO() + term, players=(player,))``. To move the second kind as well,
    add ``DensityRatio(critic, second, -weight)``, with ``tilt`` for the gradient of the same KL.

    Args:
        critic: The network; called with one tensor per site, gives one number per row.
        first: Points of the first kind, such as ``Encoded("x", "z")``.
        second: Points of the second kind, such as ``Generated("x", "z")``.
        weight: Of the term, a number or an :class:`Anneal`.
        name: Of the player.
        options: Of :class:`Player`: ``steps``, ``learning_rate``, ``betas``, ...
    """
    player = Player(name, LogisticCritic(critic, first, second), critic, **options)
    return DensityRatio(critic, first, weight), player


def told(points: Points) -> tuple[str, ...]:
    """What points are called: the sites that they are made of, or their function's name."""
    sites: tuple[str, ...] = getattr(points, "sites", ())
    return sites or (getattr(points, "__name__", type(points).__name__),)
