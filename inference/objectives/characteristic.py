"""The bound for guides whose labels are read off codes: one draw, reweighted by its label."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from ppl_models.config import at_least
from ppl_models.guides.protocol import listed
from ppl_models.inference.objectives.arithmetic import check_unscaled
from ppl_models.inference.objectives.base import Bound, check_choice
from ppl_models.inference.objectives.elbo import EnumeratedELBO
from ppl_models.inference.objectives.loss_parts import ESTIMATE
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.objectives.self_normalised import (
    names_with_classification,
    observed_factors,
    observed_sites,
)
from ppl_models.inference.traces.contraction import Torch
from ppl_models.inference.traces.drawn import Ask
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.per_row import check_inside_plate
from ppl_models.inference.traces.sites import UnhandledSite, latent_sites
from ppl_models.inference.traces.weights import Weights

FEWEST = 32  # draws from which on the value was at most 0.1 nats above log p, see the table below


class FewParticles(UserWarning):
    """An estimate with so few draws that its value says little of what it estimates."""


class CharacteristicELBO(Bound):
    r"""The bound of CCVAE (Joy et al. 2021, arXiv 2006.10102, Section 4): labels after codes.

    For guides :math:`q(z|x)\,q(y|z)`, where q(z | x, y) has no closed form. Bayes' rule under
    the guide makes the bound of log p(x, y) with that q

    :math:`E_{q(z|x)}\left[w(z) \log\frac{p(x,y,z)}{q(y|z)\,q(z|x)}\right]
    + (1 + \alpha) \log q(y|x)`, :math:`\quad w(z) = q(y|z) / q(y|x)`,

    here with one draw for the expectation and K others for
    :math:`q(y|x) = E_{q(z|x)} q(y|z)`. Observed labels that
    hang on different codes are averaged over the draws apart, as their q(y | x) multiply.
    What the guide samples and is discrete is summed out, also beside observed labels; where no
    site of the guide is observed, the bound is the :class:`EnumeratedELBO`.

    Its value is that bound only as K grows, and at few draws no lower bound of log p(x, y). With
    :math:`v = q(y|z)` and b the log in the bracket, the K draws push it up by
    :math:`(E[1/\hat q] - 1/q)\,Cov(v, b)`, where the first factor is positive, and down by
    :math:`(1 + \alpha)(\log q - E \log \hat q)`; together by about

    :math:`\frac{Var(v)}{K q^2} \left[E_{q(z|x,y)} b - E_{q(z|x)} b - \frac{1 + \alpha}2\right]`

    (with ``detach="code"`` the second expectation is left out, and the value far too low where b
    is far below 0). Nats above log p(x, y), exactly, on toys of one code, with the label's
    probability under the guide:

    =====================  =====  =====  =====  =====  =====  =====  ==========
    q(y | x)               K = 1      2      5     10     32    100  the bound
    =====================  =====  =====  =====  =====  =====  =====  ==========
    0.38                   -0.23  -0.44  -0.50  -0.51  -0.51  -0.52       -0.52
    0.27                    0.52  -0.03  -0.20  -0.23  -0.25  -0.25       -0.25
    0.11                    1018   81.4   9.14   2.33   0.10  -0.28       -0.43
    =====================  =====  =====  =====  =====  =====  =====  ==========

    So K should be several times 1 / q(y | x); below 32 a :class:`FewParticles` warns. In curves
    its value is an ``estimate``. :class:`SelfNormalisedELBO` with ``logq="lme"`` has the same
    limit and is a lower bound at any number of draws, for K draws through the decoder.

    Args:
        particles: Draws K for q(y | x).
        detach: Gradients. ``"none"`` is the bound's own; as E[w] = 1, the bracket counts from
            its value at a second draw of the row, which takes most of the variance out of it.
            ``"code"`` is that of the authors' Pyro code: no gradient from q(y | z) into the
            codes, but for the one in q(y | x), and the bracket counts from zero. It is biased
            by a weight of about minus the bracket on log q(y | x).
        alpha: Extra weight of log q(y | x) per row, a number or an :class:`Anneal`; not
            multiplied by N / N_lab.
        gamma: Weight of rows that observe a site of the guide; see :func:`supervision`.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        particles: int = 100,
        detach: Literal["none", "code"] = "none",
        alpha: float | Anneal = 0.0,
        gamma: float | Anneal = 1.0,
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(plate_nesting)
        at_least(particles=(particles, 1))
        if particles < FEWEST:
            # Past this constructor, and that which remembers its arguments.
            warnings.warn(
                FewParticles(
                    f"CharacteristicELBO has particles={particles}: below {FEWEST} draws its "
                    "value can lie nats above log p(x, y); take more, or SelfNormalisedELBO, "
                    "which bounds it from below at any number"
                ),
                stacklevel=3,
            )
        check_choice("detach", detach, ("none", "code"))
        check_range("alpha", alpha, 0)
        check_range("gamma", gamma, 0)
        self.particles, self.detach, self.alpha, self.gamma = particles, detach, alpha, gamma
        self._summed = EnumeratedELBO(plate_nesting=plate_nesting)

    @property
    def formula(self) -> str:
        """For a row with labels."""
        gamma = "" if self.gamma == 1 else f"{written(self.gamma)} "
        bound = "E_q(z|x)[w(z) log p(x,y,z) / q(y,z|x)]"
        label = f"(1 + {written(self.alpha)}) log q(y|x)"
        stopped = ", z in q(y|z) constant" if self.detach == "code" else ""
        return f"{gamma}{{{bound} + {label}}}, w = q(y|z) / q(y|x){stopped}"

    def weights(self, run: Evaluation) -> Weights:
        """The draw of this bound, and the one that its bracket counts from."""
        if not observed_sites(run):
            return self._summed.weights(run)
        return run.weights(2 if self.detach == "none" else 1)

    @property
    def part_names(self) -> tuple[str, ...]:
        """The estimate, and the extra weight of log q(y | x)."""
        return names_with_classification(ESTIMATE, self.alpha, self.gamma)

    def rows_by_part(self, run: Evaluation) -> dict[str, Tensor]:
        """Minus its value per row, and the extra weight of log q(y | x)."""
        if not observed_sites(run):
            loss = self._summed.rows(run)
            losses = loss, loss.new_zeros(loss.shape)
            return dict(zip(self.part_names, losses, strict=False))
        w = self.weights(run)
        check_unscaled(w)
        check_inside_plate(w, type(self).__name__)  # a draw that rows share has no weights by row
        log_q = self.log_q(run)
        draws = {name: site["value"] for name, site in latent_sites(w.guide)}
        if self.detach == "code":
            draws = {name: value.detach() for name, value in draws.items()}
        log_v = _total(_by_draw(run, observed_factors(run, draws)).values())
        bracket = w.elbo_by_draw(Torch(w.cap)) - log_v
        # With draws that are given, the two are one.
        centre = bracket[-1].detach() if self.detach == "none" else 0.0
        bound = (log_v[0] - log_q).exp() * (bracket[0] - centre) + centre
        alpha, gamma = (value_at(n, self.progress) for n in (self.alpha, self.gamma))
        losses = -gamma * (bound + log_q), -gamma * alpha * log_q
        return dict(zip(self.part_names, losses, strict=False))

    def log_q(self, run: Evaluation) -> Tensor:
        """The estimate of log q(y | x) of the observed labels, ``(B,)``."""
        # The guide alone: K draws through the decoder would cost K times as much.
        drawn = run.draw_guide(Ask(self.particles))
        sites = drawn.sites
        draws = {name: site["value"] for name, site in sites.items()}
        factors = _by_draw(run, observed_factors(run, draws))
        parts = []
        for labels in _groups(run, [name for name in sites if name not in drawn.labels]):
            joint = _total(factors[name] for name in labels)
            parts.append(torch.logsumexp(joint, 0) - math.log(len(joint)))
        return _total(parts)


def _by_draw(run: Evaluation, factors: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name, value in factors.items():
        if any(size > 1 for size in value.shape[:-2]):
            raise UnhandledSite(
                f"the factor of the observed site {name!r} is given a label that is missing, "
                "which CharacteristicELBO does not weigh; use SelfNormalisedELBO"
            )
        found[name] = value.reshape(value.shape[-2:])
    return found


def _groups(run: Evaluation, drawn: list[str]) -> list[list[str]]:
    """Observed sites of the guide, those together that depend on a common draw."""
    given = listed(run.guide) or {}

    def above(name: str) -> set[str]:
        direct = [p for p in given.get(name, ()) if p in drawn]
        return set(direct).union(*map(above, direct))

    groups: list[tuple[list[str], set[str]]] = []
    for name in observed_sites(run):
        labels, codes = [name], above(name)
        for other in [g for g in groups if g[1] & codes]:
            groups.remove(other)
            labels, codes = other[0] + labels, other[1] | codes
        groups.append((labels, codes))
    return [labels for labels, _ in groups]


def _total(parts: Iterable[Tensor]) -> Tensor:
    first, *rest = parts
    return sum(rest, first)
