r"""Two kinds of points that are moved until a critic tells them apart no more.

The critic is trained by logistic regression; the pair on the same loss with the labels swapped,
through the points of both kinds. That is the non-saturating game of generative adversarial
networks (Goodfellow et al. 2014, arXiv 1406.2661), and with rows that are encoded for the one
kind, and made up for the other, adversarially learned inference (Dumoulin et al. 2017, arXiv
1606.00704; Donahue et al. 2017, arXiv 1605.09782). It has no value to make small: against its
best critic the first kind of points, of density p, is moved by the gradient of
KL(p || q) - 2 JS(p, q), and the second by that of KL(q || p) - 2 JS(p, q) (Arjovsky and Bottou
2017, arXiv 1701.04862).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ppl_models.inference.objectives.arithmetic import zero_loss
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.density_ratio import (
    LogisticCritic,
    Points,
    logistic_loss,
    logits_of,
    told,
)
from ppl_models.inference.objectives.loss_parts import name_of
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.objectives.stage import Player
from ppl_models.inference.traces.evaluation import Evaluation


class SwappedLabels(Objective):
    r"""A critic's loss with its labels swapped, by which points of both kinds are moved.

    :math:`\gamma (\frac12 E_1[\log(1 + e^{D})] + \frac12 E_2[\log(1 + e^{-D})])`; the critic is
    constant in it, see :func:`swapped_labels`.

    Args:
        critic: The network; called with one tensor per site, gives one number per row.
        first: Points that the critic should give large numbers.
        second: Points that it should give small ones.
        weight: :math:`\gamma`, a number or an :class:`Anneal`; at 0 the critic is not called.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Raises:
        ValueError: If the weight is not finite.
    """

    def __init__(
        self,
        critic: nn.Module,
        first: Points,
        second: Points,
        weight: float | Anneal = 1.0,
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(plate_nesting)
        check_range("weight of SwappedLabels", weight)
        self.critic, self.first, self.second, self.weight = critic, first, second, weight

    @property
    def formula(self) -> str:
        """The mean log probability that the critic gives to the wrong kind."""
        first, second = (", ".join(told(points)) for points in (self.first, self.second))
        return (
            f"{written(self.weight)} (1/2 log sigmoid -D({first}) + 1/2 log sigmoid D({second}))"
        )

    @property
    def part_names(self) -> tuple[str, ...]:
        """The loss, with the sites that the critic sees."""
        return (name_of(self, *told(self.first)),)

    def rows(self, run: Evaluation) -> Tensor:
        """Half the loss at each row's point of either kind."""
        weight = value_at(self.weight, self.progress)
        if weight == 0:
            return zero_loss(run)
        first, second = (logits_of(self.critic, kind(run)) for kind in (self.first, self.second))
        return 0.5 * weight * logistic_loss(second, first)


def swapped_labels(
    critic: nn.Module,
    first: Points,
    second: Points,
    weight: float | Anneal = 1.0,
    name: str = "critic",
    **options: Any,
) -> tuple[SwappedLabels, Player]:
    """A term that moves two kinds of points towards each other, and the critic's player.

    Adversarially learned inference, given labels ``y``, is
    ``swapped_labels(critic, Encoded("x", "z", "y"), Generated("x", "z", "y", given=("y",)))``.

    Args:
        critic: The network; called with one tensor per site, gives one number per row.
        first: Points of the first kind.
        second: Points of the second kind.
        weight: Of the term, a number or an :class:`Anneal`.
        name: Of the player.
        options: Of :class:`Player`: ``steps``, ``learning_rate``, ``betas``, ...
    """
    player = Player(name, LogisticCritic(critic, first, second), critic, **options)
    return SwappedLabels(critic, first, second, weight), player
