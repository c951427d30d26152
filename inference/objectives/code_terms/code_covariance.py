"""The covariance of a code over the data, as a term that brings it to the identity."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ppl_models.inference.objectives.arithmetic import zero_loss
from ppl_models.inference.objectives.base import Objective, check_choice
from ppl_models.inference.objectives.code_terms.total_correlation import components
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.traces.evaluation import Evaluation

Of = Literal["means", "aggregate"]
OF = ("means", "aggregate")


def code_covariance(run: Evaluation, site: str, of: Of = "means") -> Tensor:
    r"""Covariance of a code over the rows of a batch, of its means or of the code itself.

    With :math:`\mu(x) = E_{q(z|x)}[z]`: :math:`Cov_x[\mu(x)]`, or that of the aggregate posterior
    :math:`q(z) = E_x[q(z|x)]`, which by the law of total covariance is
    :math:`Cov_x[\mu(x)] + E_x[Cov_{q(z|x)}[z]]` (Kumar et al. 2018, arXiv 1711.00848). Both
    divide by the number of rows. Parameters of q(z|x) are read and no draws, but for those of
    another code that it is given. Where a row's code depends on a missing label, q(z|x) is the
    mixture over the label's values.

    Args:
        run: The run.
        site: A vector of independent coordinates under the guide.
        of: ``"means"`` or ``"aggregate"``.

    Returns:
        ``(D, D)``, of all rows of the batch, with its gradient.

    Raises:
        UnhandledSite: If the site is no vector of independent coordinates with parameters.
    """
    make, parameters, log_shares = components(run.codes(site))
    given = make(parameters)
    means = given.mean  # C x B x D, where a row's posterior has C components
    shares = log_shares.exp().expand(means.shape[:2]).unsqueeze(-1)
    if of == "means":
        means = (shares * means).sum(0, keepdim=True)
        shares = torch.ones_like(means[..., :1])
    means, shares = run.every_row(means, 1), run.every_row(shares, 1)
    weights = shares / means.shape[1]
    centred = means - (weights * means).sum((0, 1))
    between = torch.einsum("cbi,cbj->ij", weights * centred, centred)
    if of == "means":
        return between
    return between + torch.diag((weights * run.every_row(given.variance, 1)).sum((0, 1)))


class CodeCovariance(Objective):
    r"""Holds the covariance of a code over the data at the identity: DIP-VAE I and II.

    :math:`\lambda_{od} \sum_{i \neq j} S_{ij}^2 + \lambda_d \sum_i (S_{ii} - 1)^2` of the
    covariance S in :func:`code_covariance` (Kumar et al. 2018, arXiv 1711.00848, where
    :math:`\lambda_d` is 10 :math:`\lambda_{od}` in kind I and :math:`\lambda_{od}` in kind II),
    beside a bound with its whole KL. S is that of the batch, whose noise adds about
    :math:`(\lambda_{od} D^2 + 2 \lambda_d D) / B`: values at two batch sizes are not to be
    compared. Labelled and unlabelled rows each have their own. It counts per row of the data
    set, as a bound does.

    Args:
        site: A site of the guide in every row, a vector of independent coordinates.
        lambda_od: Weight off the diagonal, a number or an :class:`Anneal`.
        lambda_d: Weight on it, likewise.
        of: Whose covariance: that of the ``"means"`` of q(z|x), kind I, which asks every
            coordinate for a mean of variance 1, also one that has nothing to say; or that of the
            ``"aggregate"`` posterior, kind II, to which a coordinate may be the prior's noise.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Raises:
        ValueError: If an option is out of range.
    """

    across_rows = True

    def __init__(
        self,
        site: str,
        lambda_od: float | Anneal,
        lambda_d: float | Anneal,
        of: Of = "means",
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(plate_nesting)
        check_range(f"lambda_od of CodeCovariance({site!r})", lambda_od, 0)
        check_range(f"lambda_d of CodeCovariance({site!r})", lambda_d, 0)
        check_choice("of", of, OF)
        self.site, self.lambda_od, self.lambda_d, self.of = site, lambda_od, lambda_d, of

    @property
    def formula(self) -> str:
        """The term as added to a bound."""
        cov = f"Cov(E[{self.site}|...])" if self.of == "means" else f"Cov({self.site})"
        off, on = written(self.lambda_od), written(self.lambda_d)
        return f"-{off} sum_i!=j {cov}_ij^2 - {on} sum_i ({cov}_ii - 1)^2"

    def rows(self, run: Evaluation) -> Tensor:
        """The term, the same for every row."""
        off, on = (value_at(n, self.progress) for n in (self.lambda_od, self.lambda_d))
        if off == on == 0:
            return zero_loss(run)
        covariance = code_covariance(run, self.site, self.of)
        variances = covariance.diagonal()
        others = covariance - torch.diag(variances)
        parts = others.square().sum(), (variances - 1).square().sum()
        # Weights that change are numbers of double precision in a compiled step.
        apart, spread = (part.expand(run.batch.count) for part in parts)
        return off * apart + on * spread
