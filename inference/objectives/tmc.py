"""Tensor Monte Carlo: every latent site has draws of its own, and all combinations count."""

from __future__ import annotations

from torch import Tensor

from ppl_models.config import at_least
from ppl_models.inference.objectives.arithmetic import check_unscaled, lambda_bound
from ppl_models.inference.objectives.base import Bound
from ppl_models.inference.objectives.iwelbo import names_with_distillation
from ppl_models.inference.objectives.loss_parts import BOUND, DISTILLATION
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.traces.contraction import Torch
from ppl_models.inference.traces.drawn import Ask, Drawn
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.weights import Weights
from ppl_models.sample_sites import COMBINATIONS, is_local


class TMC(Bound):
    r"""The bound of Tensor Monte Carlo (Aitchison 2018, arXiv 1806.08593).

    Each of the n continuous sites of the guide is drawn K times per row, and

    .. math:: D_K = \log \sum_y \frac{1}{K^n} \sum_{k_1..k_n}
        \frac{p(x, y, z_1^{k_1}, .., z_n^{k_n})}{\prod_i q_i(z_i^{k_i})}

    averages over all :math:`K^n` combinations, contracted site by site where the model allows.
    Where :math:`q(z_i | z_{pa})` depends on earlier draws, draw k is made given draw k of
    those, and :math:`q_i(z) = \frac1K \sum_k q(z | z_{pa}^k)`: the average inside the log is
    then an unbiased estimate of p(x). Labels are summed out exactly; :math:`\lambda` and the
    distillation are those of :class:`IWELBO`, with these weights.

    Args:
        particles: Draws K per site, row and label.
        lam: :math:`\lambda`, a number or an :class:`Anneal`; above 0 the labels' joint grid
            is formed.
        distil: Weight of the distillation.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.
        combinations: Most combinations of draws and labels that are formed jointly.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        particles: int = 8,
        lam: float | Anneal = 1.0,
        distil: float = 1.0,
        plate_nesting: int | None = None,
        combinations: int = COMBINATIONS,
    ) -> None:
        super().__init__(plate_nesting)
        at_least(particles=(particles, 1))
        check_range("lam", lam, 0)
        check_range("distil", distil, 0)
        at_least(combinations=(combinations, 1))
        self.particles, self.lam, self.distil = particles, lam, distil
        self.combinations = combinations

    @property
    def formula(self) -> str:
        """With K and lambda filled in."""
        text = f"log sum_y mean over {self.particles}^n (k1..kn) of p(x,y,z_k1..z_kn) / prod q_i"
        if self.lam != 0:
            text += f" - ({written(self.lam)}) KL(q(y|x) || pi)"
        if self.lam != 1 and self.distil:
            text += f" - {self.distil:g} (1 - lambda) CE(sg(pi), q(y|x))"
        return text

    def weights(self, run: Evaluation) -> Weights:
        """The draws of this bound, a dimension for each site."""
        ask = Ask(self.particles, cap=self.combinations)
        return run.once("weights", lambda: run.weights_anew(ask, moved=own_dimensions), owner=self)

    @property
    def part_names(self) -> tuple[str, ...]:
        """The bound, and the distillation where lambda is ever below 1."""
        return names_with_distillation(self.lam, self.distil)

    def rows_by_part(self, run: Evaluation) -> dict[str, Tensor]:
        """Minus the bound per row, and the distillation of the classifier."""
        w, lam = self.weights(run), value_at(self.lam, self.progress)
        check_unscaled(w)
        labelled = not w.terms["labels"]
        if lam == 0 or labelled:
            loss = -w.log_evidence(Torch(self.combinations))
        else:
            loss = -lambda_bound(w.log_w_labels(Torch(self.combinations)), w.log_q_labels, lam)
        if DISTILLATION not in self.part_names:
            return {BOUND: loss}
        share = self.distil * max(0.0, 1.0 - lam)
        distils = share > 0 and not labelled
        distillation = share * w.distillation() if distils else loss.new_zeros(loss.shape)
        return {BOUND: loss, DISTILLATION: distillation}


def own_dimensions(drawn: Drawn) -> dict[str, int]:
    """A dimension for the draws of each site inside the data plate, left of the labels'."""
    first = drawn.dim - 1 - len(drawn.labels)
    sites = [n for n, site in drawn.sites.items() if n not in drawn.labels and is_local(site)]
    return {name: first - place for place, name in enumerate(sites)}
