"""A term that makes an observed site count more than once."""

from __future__ import annotations

from torch import Tensor

from ppl_models.inference.objectives.arithmetic import zero_loss
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.per_row import mean_of_draws, observed_site, row_density


class Emphasis(Objective):
    r"""Counts an observed site of the model ``weight`` times, where a bound counts it once.

    Adds :math:`(\lambda - 1)\,E_q[\log p(v | \ldots)]` in rows that observe the site v, nothing
    in others: the label term of Chroma-VAE (Yang et al. 2022, arXiv 2211.15231) and the weights
    of single data sites. The model keeps its density, and so every bound takes the term: a
    weight inside the model would stand inside an importance-weighted bound's log, which is then
    none. For a discrete site and :math:`\lambda \ge 1` the sum is still a lower bound of the
    log evidence, as log p(v | ...) is at most zero. At :math:`\lambda = 0` an ELBO forgets the
    site.

    It is taken at the draws of the bound beside it, on average over them and over missing labels.

    Args:
        site: The site.
        weight: :math:`\lambda`, a number or an :class:`Anneal`, at least 0; not multiplied by
            N / N_lab.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Raises:
        ValueError: If the weight is out of range.
    """

    def __init__(
        self, site: str, weight: float | Anneal, plate_nesting: int | None = None
    ) -> None:
        super().__init__(plate_nesting)
        check_range(f"weight of Emphasis({site!r})", weight, 0)
        self.site, self.weight = site, weight

    @property
    def formula(self) -> str:
        """The term as added to a bound."""
        return f"({written(self.weight)} - 1) E_q[log p({self.site} | ...)]"

    def rows(self, run: Evaluation) -> Tensor:
        """Minus the term per row; zero where the site is missing."""
        batch, extra = run.batch, value_at(self.weight, self.progress) - 1
        if self.site not in batch or extra == 0:
            return zero_loss(run)
        node = observed_site(run, self.site, "Emphasis")
        value = row_density(run, node, node["fn"].log_prob(node["value"]))  # E x K x B
        return -extra * mean_of_draws(run.lead, value).expand(batch.count)
