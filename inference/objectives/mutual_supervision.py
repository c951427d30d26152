"""Two encoders, each the posterior of one direction and the prior of the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import at_least, names
from ppl_models.guides.protocol import offering
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.loss_parts import ESTIMATE
from ppl_models.inference.objectives.schedule import check_range
from ppl_models.inference.traces.drawn import Ask
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.sites import UnhandledSite, random_sites
from ppl_models.modalities import has, only


class MutualSupervision(Objective):
    r"""The bound of MEME: each of two sites supervises the code of the other.

    Of rows that have both (Joy et al. 2022, arXiv 2106.12570, eq. 5), the mean over both
    directions (a, b) of

    :math:`E_{q(z|a)}[w \{\log p(a|z) + \log q(z|b) - \log p(b|z) - \log q(z|a)\}] + \log q(b|a)`,

    with :math:`w = p(b|z) / q(b|a)` and :math:`q(b|a) = E_{q(z|a)}\, p(b|z)`: the encoder of b is
    the prior of z, and the decoder of b a classifier. It bounds log p(a, b) up to the density of
    b, which is nobody's to learn. Of rows that have a alone it is the evidence lower bound with
    the story's own prior of z in such rows.

    In the paper one draw of z stands in the bracket, and q(b|a) is the mean over K fresh draws
    and that one, without which w has no bound (with it, K + 1). Here each of the K + 1 stands in
    the bracket in turn, and their mean is taken: as any of them could be the paper's, this is its
    expectation given all of them. With hundreds of pixels w is K + 1 at one draw and 0 at the
    others, so that ten of eleven single draws would teach nothing. No gradient goes through w.

    In expectation the derivative of log p(b|z) in the bracket undoes that of log q(b|a), so that
    at weight 1 no decoder learns from codes of the other site. The paper's code gives log q(b|a)
    a weight of 10, which its text does not have.

    Args:
        sites: The two sites of the data.
        particles: Fresh draws K.
        classifier: Weight of log q(b|a) beside the bracket; 1 is the bound.
        site: The site of the guide that is the code, the only one that it samples.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Raises:
        ValueError: If there are not two sites, or ``particles`` is below 1.
    """

    def __init__(
        self,
        sites: Sequence[str] = ("s", "t"),
        particles: int = 10,
        classifier: float = 1.0,
        site: str = "z",
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(plate_nesting)
        at_least(particles=(particles, 1))
        self.sites = names("sites of MutualSupervision", sites)
        if len(set(self.sites)) != 2:
            raise ValueError(f"sites of MutualSupervision are {self.sites}, expected two")
        check_range("classifier of MutualSupervision", classifier, 0)
        self.particles, self.classifier, self.site = particles, classifier, site

    @property
    def formula(self) -> str:
        """One direction, and the mean over both."""
        a, b = self.sites
        z, half = self.site, f"{self.classifier / 2:g}"
        return (
            f"1/2 E_q({z}|{a})[w (log p({a}|{z}) + log q({z}|{b}) - log p({b}|{z}) - "
            f"log q({z}|{a}))] + {half} log q({b}|{a}) + the same with {a} and {b} "
            f"swapped, w = sg(p({b}|{z}) / q({b}|{a})), q({b}|{a}) = mean of p({b}|{z}) over "
            f"{self.particles} + 1 draws, of each of which w takes its turn"
        )

    @property
    def part_names(self) -> tuple[str, ...]:
        """A weight from finitely many draws makes it an estimate of the bound."""
        return (ESTIMATE,)

    def rows(self, run: Evaluation) -> Tensor:
        """The loss per row ``(B,)``."""
        total: Tensor | None = None
        for a, b in (self.sites, self.sites[::-1]):
            with_a, with_b = has(run.batch, a), has(run.batch, b)
            if with_a is False:
                continue
            value = self._direction(run, a, b, with_a, with_b)
            total = value if total is None else total + value
        if total is None:
            raise UnhandledSite(
                f"the batch has neither {self.sites[0]!r} nor {self.sites[1]!r}, expected one"
            )
        return -total

    def _direction(
        self, run: Evaluation, a: str, b: str, with_a: Tensor | bool, with_b: Tensor | bool
    ) -> Tensor:
        """What is made large of one direction, 0 in the rows without a."""
        of_a = only(run.batch, {a}, self.sites)
        z, log_q = self._drawn(run, of_a)  # K + 1 x B x L
        story = _story(run, of_a, {self.site: z})
        gain = story[a]["fn"].log_prob(run.batch[a]) - log_q  # K + 1 x B
        alone = both = gain[0]
        if with_b is not True:
            # One draw is enough, where nothing is weighed.
            prior = _story(run, of_a, {self.site: z[0]})[self.site]["fn"]
            alone = gain[0] + prior.log_prob(z[0])
        if with_b is not False:
            of_b = only(run.batch, {b}, self.sites)
            said = _story(run, of_b, {self.site: z})[b]["fn"].log_prob(run.batch[b])  # K + 1 x B
            posterior = offering(run.guide, self.site).factor(self.site, of_b)
            inside = gain + posterior.log_prob(z)
            both = 0.5 * bracket(inside, said, self.classifier)
        if isinstance(with_b, Tensor):
            value = torch.where(with_b, both, alone)
        else:
            value = both if with_b else alone
        return torch.where(with_a, value, 0) if isinstance(with_a, Tensor) else value

    def _drawn(self, run: Evaluation, batch: Batch) -> tuple[Tensor, Tensor]:
        """Draws of the code ``(K + 1, B, L)`` given one site, and their log q ``(K + 1, B)``."""
        count = self.particles + 1
        drawn = run.like(batch=batch).draw_guide(Ask(count))
        if list(drawn.sites) != [self.site]:
            raise UnhandledSite(
                f"the guide samples {list(drawn.sites)}, expected {self.site!r} alone"
            )
        node = drawn.sites[self.site]
        z, event = node["value"], node["fn"].event_dim
        log_q = node["fn"].log_prob(z)
        rows = run.batch.count
        z = z.expand(count, rows, *z.shape[z.dim() - event :])
        return z, log_q.expand(count, rows)


def bracket(inside: Tensor, said: Tensor, classifier: float = 1.0) -> Tensor:
    r"""mean_k w_k (inside_k - log p(b|z_k)) + c log q(b|a) of a direction, ``(B,)``.

    Args:
        inside: log p(a|z) + log q(z|b) - log q(z|a) at all draws ``(K + 1, B)``.
        said: log p(b|z) at all draws ``(K + 1, B)``.
        classifier: The weight c.
    """
    log_q = said.logsumexp(0) - math.log(len(said))
    w = (said - log_q).detach().exp()
    return (w * (inside - said)).mean(0) + classifier * log_q


def _story(run: Evaluation, batch: Batch, values: dict[str, Tensor]) -> dict[str, Any]:
    """The model's sites where the code has given values."""
    model = poutine.trace(poutine.condition(run.model, data=values))
    return dict(random_sites(model.get_trace(batch)))
