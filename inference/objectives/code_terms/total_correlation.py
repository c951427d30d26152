"""Total correlation of a code over the data, and the three parts of its mean KL term."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_models.inference.objectives.arithmetic import zero_loss
from ppl_models.inference.objectives.base import Objective, check_choice
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.traces.codes import Codes
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.nesting import without_plates
from ppl_models.inference.traces.sites import UnhandledSite

Estimator = Literal["batch", "mws", "mss"]
ESTIMATORS = ("batch", "mws", "mss")


class KLParts(NamedTuple):
    """The sampled KL of a code in three parts that add up to it, ``(B,)`` each, nats.

    Attributes:
        mutual_information: log q(z|x) - log q(z), of code and row.
        total_correlation: log q(z) - sum_j log q(z_j).
        dimension_wise: sum_j log q(z_j) - log p(z), KL of each coordinate to its prior.
    """

    mutual_information: Tensor
    total_correlation: Tensor
    dimension_wise: Tensor


def kl_parts(run: Evaluation, site: str, estimator: Estimator = "batch") -> KLParts:
    r"""Splits KL(q(z|x) || p(z)) of a code, in the mean over rows, into what each part says.

    :math:`E_n KL(q(z|n) \| p(z)) = I(z; n) + KL(q(z) \| \prod_j q(z_j)) + \sum_j KL(q(z_j) \|
    p(z_j))` with :math:`q(z) = \frac1N \sum_n q(z|n)` (Chen et al. 2018, arXiv 1802.04942).

    Args:
        run: The run, whose draws are used.
        site: A vector of independent coordinates under guide and prior.
        estimator: As of :class:`TotalCorrelation`.
    """
    codes = run.codes(site)
    joint, marginals = aggregate(run, codes, estimator)
    given = codes.by_draw(codes.q.log_prob(run.drawn.draws[site]))
    w = run.lead
    prior = w.model.nodes[site]["fn"].log_prob(w.guide.nodes[site]["value"])
    apart = marginals.sum(-1)
    parts = given - joint, joint - apart, apart - codes.by_draw(prior)
    return KLParts(*map(codes.mean, parts))


def aggregate(run: Evaluation, codes: Codes, estimator: Estimator) -> tuple[Tensor, Tensor]:
    """Log density of the draws under the mixture of all rows' posteriors, as a batch tells it.

    Args:
        run: The run.
        codes: Of a site that is a vector of independent coordinates.
        estimator: As of :class:`TotalCorrelation`.

    Returns:
        Log q(z) ``(S, B)``, and that of each coordinate ``(S, B, D)``.
    """
    make, parameters, shares = components(codes)
    every = {name: run.every_row(value, 1) for name, value in parameters.items()}  # C x G x D
    shares = run.every_row(shares.expand(-1, run.batch.count), 1)  # C x G
    rows = shares.shape[1]
    columns = log_row_weights(estimator, run.batch.size, rows, shares)
    own = slice(run.first_row, run.first_row + run.batch.count)
    weights = shares + columns[own].unsqueeze(1)  # B x C x G
    log_q = make(every).log_prob(codes.values[:, :, None, None])  # S x B x C x G x D
    joint = torch.logsumexp((log_q.sum(-1) + weights).flatten(-2), -1)
    marginals = torch.logsumexp((log_q + weights.unsqueeze(-1)).flatten(-3, -2), -2)
    return joint, marginals


def log_row_weights(estimator: Estimator, size: int, rows: int, like: Tensor) -> Tensor:
    """Log of how much row k of a batch counts in the mixture that row i sees, ``(B, B)``.

    Args:
        estimator: As of :class:`TotalCorrelation`.
        size: Rows N that the batch stands for.
        rows: Rows B.
        like: A tensor of the type and on the device that are wanted.
    """
    if estimator == "batch" or (estimator == "mss" and rows == 1):
        return like.new_full((rows, rows), -math.log(rows))
    if estimator == "mws":
        return like.new_full((rows, rows), -math.log(rows * size))
    others = rows - 1
    weights = like.new_full((rows, rows), 1 / others)
    place = torch.arange(rows, device=like.device)
    itself = place.unsqueeze(1) == place
    following = (place.unsqueeze(1) + 1) % rows == place
    weights = weights.masked_fill(following, (size - others) / (size * others))
    return weights.masked_fill(itself, 1 / size).log()


def components(codes: Codes) -> tuple[Any, dict[str, Tensor], Tensor]:
    """What a code's distribution is made of, row by row.

    Returns:
        What makes a distribution of parameters; these ``(C, B, D)``, where a row has C
        components, one for each combination of the labels and draws that the code is given; and
        log of how probable each is ``(C, B or 1)``.

    Raises:
        UnhandledSite: If it is no vector of independent coordinates with parameters.
    """
    fn = codes.q
    base = fn.base_dist if isinstance(fn, dist.Independent) else None
    if base is None or fn.event_dim != 1 or base.event_dim or not base.arg_constraints:
        raise UnhandledSite(
            f"site {codes.site!r} is {type(base or fn).__name__} in the guide with event shape "
            f"{tuple(fn.event_shape)}, expected a vector of independent coordinates, such as "
            "guides.Normal"
        )
    names = [name for name in base.arg_constraints if name != "probs"]
    given = {name: without_plates(getattr(base, name), codes.nesting, 1) for name in names}
    shapes = (value.shape for value in given.values())
    shape = torch.broadcast_shapes(*shapes, (1, codes.values.shape[1], 1))
    shares = codes.log_weights
    by_label = list(shape[:-3])
    draws = len(codes.values) // math.prod(by_label)
    kept = draws if codes.given_draws else 1
    shares = shares.expand(len(codes.values), -1).reshape(-1, draws, shares.shape[-1])
    if kept < draws:
        shares = torch.logsumexp(shares, 1, keepdim=True)
    shares = shares.flatten(0, 1)
    found = {}
    for name, value in given.items():
        value = value.expand((*by_label, max(shape[-3], kept), *shape[-2:]))
        found[name] = value.narrow(-3, 0, kept).reshape(-1, *shape[-2:])

    def make(parameters: Mapping[str, Tensor]) -> Any:
        return type(base)(**parameters, validate_args=False)

    return make, found, shares


class TotalCorrelation(Objective):
    r"""A penalty on the dependence between the coordinates of a code, over the whole data.

    :math:`KL(q(z) \| \prod_j q(z_j))` of the mixture :math:`q(z) = \frac1N \sum_n q(z|x_n)` of
    all rows' posteriors, from those of the batch: beta-TCVAE (Chen et al. 2018,
    arXiv 1802.04942), whose objective at :math:`\beta` is
    ``ELBO(kl="analytic") + TotalCorrelation("z", beta - 1)``. It is taken at the draws of the
    bound beside it. Where a row's code depends on a missing label, its posterior is the mixture
    over the label's values. Labelled and unlabelled rows each have their own. It counts per row
    of the data set, as a bound does; see :func:`kl_parts` for the other parts of the KL.

    Args:
        site: A site of the guide in every row, a vector of independent coordinates.
        weight: A number or an :class:`Anneal`.
        estimator: How rows of the batch stand for the N rows. ``"batch"`` weighs all alike, and
            is biased upwards as each draw meets its own posterior with weight 1 / B. ``"mws"``
            (minibatch-weighted) has the same gradient, with weights 1 / (N B), which shift its
            value by (D - 1) log N. ``"mss"`` (minibatch-stratified) gives the own row 1 / N, and
            is unbiased for q(z), hence low in its log; its rows are distinct rows of the data,
            as in a pass over them.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Raises:
        ValueError: If an option is out of range.
    """

    across_rows = True

    def __init__(
        self,
        site: str,
        weight: float | Anneal = 1.0,
        estimator: Estimator = "batch",
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(plate_nesting)
        check_range(f"weight of TotalCorrelation({site!r})", weight)
        check_choice("estimator", estimator, ESTIMATORS)
        self.site, self.weight, self.estimator = site, weight, estimator

    @property
    def formula(self) -> str:
        """The term as added to a bound."""
        z = self.site
        return f"-{written(self.weight)} KL(q({z}) || prod_j q({z}_j))"

    def rows(self, run: Evaluation) -> Tensor:
        """The term per row."""
        weight = value_at(self.weight, self.progress)
        if weight == 0:
            return zero_loss(run)
        codes = run.codes(self.site)
        joint, marginals = aggregate(run, codes, self.estimator)
        return weight * codes.mean(joint - marginals.sum(-1))
