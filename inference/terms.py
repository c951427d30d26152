"""Terms that are added to a bound."""

from __future__ import annotations

from torch import Tensor

from ppl_models.inference.evaluation import Evaluation
from ppl_models.inference.objectives import Objective


class Classification(Objective):
    r"""Supervised log-likelihood of a label under the guide: the alpha term of M2.

    Adds :math:`\alpha \frac{N}{N_{lab}} \log q(y|x)` per labelled row, so that ``weight`` is
    the paper's: :math:`\alpha N` times the mean over labelled rows (Kingma et al. 2014,
    arXiv 1406.5298, eq. 9, where 0.1 is used). Leaving out N / N_lab is a factor of 500 at 100
    labels. Rows without the label add nothing.

    Args:
        site: The label site; the guide must have a factor for it.
        weight: The paper's :math:`\alpha`, at least 0.
    """

    def __init__(self, site: str, weight: float = 1.0) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"weight of Classification({site!r}) is {weight}, expected >= 0")
        self.site, self.weight = site, weight

    def __repr__(self) -> str:
        """As written."""
        return f"Classification({self.site!r}, weight={self.weight:g})"

    @property
    def formula(self) -> str:
        """The term as added to a bound."""
        return f"{self.weight:g} (N / N_labelled) log q({self.site} | ...)"

    def rows(self, run: Evaluation) -> Tensor:
        """Minus the term per row; zero where the label is missing."""
        batch = run.batch
        if self.site not in batch or self.weight == 0:
            like = next((v for v in batch.values() if v.is_floating_point()), batch.rows)
            return like.new_zeros(batch.count)
        weight = self.weight * batch.total / batch.observed[self.site]
        loss: Tensor = -weight * run.factor(self.site).log_prob(batch[self.site])
        return loss
