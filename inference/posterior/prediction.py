"""Labels, bounds and errors of rows, from a fitted pair."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.centres import mean_of
from ppl_models.config import at_least, check_seed, unknown
from ppl_models.data.tables.table import Table
from ppl_models.guides.protocol import listed, offering
from ppl_models.inference.objectives.arithmetic import log_mean_weight
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.loss_parts import BOUND, parts_of
from ppl_models.inference.posterior.draws import Scores, draw_guide, score
from ppl_models.inference.posterior.label_draws import label_probs
from ppl_models.inference.posterior.rows import find_sites, undisturbed
from ppl_models.inference.posterior.support import as_fitted, checker
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.sites import enumerable, latent_sites
from ppl_models.pair import Pair
from ppl_models.sample_sites import Refused, is_plate, one_line

ROWS = 500  # rows evaluated at a time


class Fitted(Protocol):
    """What has a pair, such as a run."""

    @property
    def pair(self) -> Pair:
        """The pair."""
        ...


def label_probabilities(
    pair: Pair | Fitted,
    table: Table,
    site: str = "y",
    particles: int = 0,
    seed: int = 0,
    shared: bool = False,
    draws: int = 0,
) -> Tensor:
    """Probabilities of a label given the data sites, for every row, other labels summed out.

    Args:
        pair: The pair, or a run of it.
        table: The rows; their labels are not looked at.
        site: The label site; a pair's only label, whatever its name, where this is left out.
        particles: 0 asks the guide, q(y | x): labels that y is given are summed out, continuous
            sites take their mean. A number K asks the model instead: softmax over y of log 1/K
            sum_k w_{y,k}, the posterior that K weighted draws per label imply (for a fully
            labelled M2 the paper's own prediction), summed over all other missing labels. Of a
            label that the guide leaves to the model, 0 gives p(y | x, z) at the mean of the
            guide's sites, and K weighs K draws of them.
        seed: Seed of those draws.
        shared: Draw the guide's label, too, and weigh each draw for all labels; K draws per row
            in all (Thoreau et al. 2022, arXiv 2210.10418).
        draws: Ask the guide by the mean of its probabilities over so many draws of what the
            label is given, as an export does: the same rows, draws and seed give what it writes
            as ``y_probs``, to the last digit. Of a label that the guide leaves to the model, the
            mean of the p(y | x, z) that the export draws it by.

    Returns:
        ``(N, C)``, in the order of the table's rows.

    Raises:
        ValueError: If a site of the guide that should take its mean has none, there is no such
            label, or draws are to be shared and there are none.
    """
    pair, site = _pair_and_label(pair, site)
    if shared and particles < 1:
        raise ValueError(f"shared draws need particles of at least 1, got {particles}")
    (draws,) = at_least(draws=(draws, 0))
    if draws and particles:
        raise ValueError(
            f"particles is {particles} and draws is {draws}, expected one of them: the model is "
            "asked by particles, the guide by draws"
        )
    if draws:
        return label_probs(pair, table, site, draws, check_seed(seed))
    seen = as_fitted(pair, table).only(*pair.card.given)
    given = listed(pair.guide)
    left = given is not None and site not in given and site in pair.card.latents
    if shared or left:
        how = _from_shared_draws
    else:
        how = _from_draws_per_label if particles else _from_the_guide
    return by_rows(pair, seen, lambda batch: how(pair, batch, site, particles), seed)


def _pair_and_label(pair: Pair | Fitted, site: str) -> tuple[Pair, str]:
    """The pair, and the label that is meant: its only one where there is none of name y."""
    pair = pair if isinstance(pair, Pair) else pair.pair
    labels = pair.card.labels
    only = site == "y" and len(labels) == 1 and site not in pair.card.latents
    return pair, labels[0] if only else site


def guide_probabilities(pair: Pair, batch: Batch, site: str) -> Tensor:
    """A label's probabilities ``(B, C)`` under its factor.

    Labels that the factor is given, directly or through codes, are summed out; codes take their
    mean given what is above them.

    Raises:
        TypeError: If the guide cannot hand out factors.
        ValueError: If what it is given has no mean.
    """
    guide = offering(pair.guide, site, needs=("factor", "upstream"))
    given = listed(guide)
    logs: list[Tensor] = []  # of the labels above, with a dimension for each
    values: dict[str, Tensor] = dict(batch) if given else guide.upstream(site, batch)
    for name in _above(given or {}, site, batch):
        q: Any = guide.factor(name, values)
        if enumerable(q):
            values[name], log_q = _listed(q, len(logs))
            logs.append(log_q)
            continue
        mean = mean_of(q) if q.has_rsample else None
        if mean is None:
            raise ValueError(
                f"the label {site!r} needs the site {name!r}, which has no mean; draw it "
                "(draws=200, or particles to weigh the draws)"
            )
        values[name] = mean
    _, log_q = _listed(guide.factor(site, values), len(logs))
    joint = sum(logs, log_q).double().exp()
    probs = joint.flatten(1, -2).sum(1) if logs else joint
    return probs.to(log_q.dtype).expand(-1, batch.count).T


def _above(given: Mapping[str, Sequence[str]], site: str, known: Collection[str]) -> list[str]:
    """What a site's factor is given, directly or through others, in the guide's order."""
    wanted = set(given.get(site, ()))
    for name in reversed(list(given)):  # factors stand after those that they are given
        if name in wanted and name not in known:
            wanted |= set(given[name])
    return [name for name in given if name in wanted and name not in known]


def _listed(q: Any, labels: int) -> tuple[Tensor, Tensor]:
    """The values of a label in a dimension left of rows and labels, and their log densities."""
    support = q.enumerate_support(expand=False)
    values = support.reshape(len(support), *[1] * (labels + 1), *q.event_shape)
    return values, q.log_prob(values)


def _from_the_guide(pair: Pair, batch: Batch, site: str, particles: int) -> Tensor:
    return guide_probabilities(pair, batch, site)


def _from_draws_per_label(pair: Pair, batch: Batch, site: str, particles: int) -> Tensor:
    w = Evaluation(pair.model, pair.guide, batch).weights(particles)
    dims = {label.name: dim for dim, label in w.labels.items() if label.in_guide}
    if site not in dims:
        raise ValueError(unknown("missing label", site, dims))
    ell = log_mean_weight(w.log_w).movedim(dims[site], 0)
    return ell.flatten(1, -2).logsumexp(1).softmax(0).T


def _from_shared_draws(pair: Pair, batch: Batch, site: str, particles: int) -> Tensor:
    r"""Probabilities from draws of the guide, each weighed for every value of the label.

    :math:`p(y|x) \propto \sum_s p(x, y, z_s) / q(z_s | x, y_s)` with :math:`y_s \sim q(y|x)`: each
    :math:`z_s` is weighed for every y, whichever label it was drawn for. Right in the limit, as
    :math:`E\,p(x, y, z_s) / q(z_s | x, y_s) = p(x, y)` for any :math:`y_s`. The guide and what of
    the model does not depend on y run K times per row, not C K times. Thoreau et al. 2022
    (arXiv 2210.10418), who weigh by p(x | y, z) to a power.

    Without draws z takes its mean, which no weight makes right.
    """
    batch = batch.unscaled()
    sites = find_sites(pair, batch)
    if site not in sites.labels:
        raise ValueError(unknown("missing label", site, sites.labels))
    log_q: Tensor | float = 0.0
    if particles:
        draws = draw_guide(pair.guide, batch, sites, particles).without(site)
        values, log_q = draws.values, draws.log_q
    else:
        with one_line(), _Means():
            trace = poutine.trace(pair.guide).get_trace(batch)
        values = {
            name: node["value"].reshape(
                *[1] * (sites.nesting + 1 - len(node["fn"].batch_shape)), *node["value"].shape
            )
            for name, node in latent_sites(trace)
        }
    labels = [name for name in sites.labels if name == site or name not in sites.guided]
    scores = score(pair.model, batch, values, labels, max(1, particles), sites.nesting)
    if not isinstance(scores, Scores):  # labels of plates within the rows have no joint tensor
        row = (scores.marginal() - log_q).reshape(-1, *[1] * (sites.nesting - 1), batch.count, 1)
        probs = (scores.probs(site).log() + row).logsumexp(0).softmax(-1)
        return sites.latents[site].by_row(probs, 1)
    joint = torch.logsumexp(scores.log_joint - log_q, -2, keepdim=True)
    return Scores(joint, scores.labels, {}, ()).probs(site)[0]


def error(
    pair: Pair | Fitted,
    table: Table,
    site: str = "y",
    particles: int = 0,
    seed: int = 0,
    draws: int = 0,
) -> float:
    """Share of the rows with a known label whose most probable label is another.

    Args:
        pair: The pair, or a run of it.
        table: The rows; those in which the label is hidden are left out (``table.counts`` says
            how many are not).
        site: The label site, as of :func:`label_probabilities`.
        particles: As of :func:`label_probabilities`.
        seed: Seed of draws.
        draws: As of :func:`label_probabilities`; the number of an export is that of its draws.

    Raises:
        ValueError: If there is no such label, no row of the table has it, or it is a number.
    """
    table.check_rows()
    pair, site = _pair_and_label(pair, site)
    if site not in pair.card.labels and site not in table.sites:
        raise ValueError(unknown(f"label of {pair.card.name}", site, pair.card.labels))
    if not table.counts.get(site):
        raise ValueError(f"{table.name} has no row with a label {site!r} to compare with")
    known = as_fitted(pair, table).where_observed(site)
    if known.sites[site][:].is_floating_point():
        raise ValueError(f"label {site!r} is a number, which has no share of wrong classes")
    probs = label_probabilities(pair, known, site, particles, seed, draws=draws)
    labels = known.sites[site][:].to(probs.device)
    return float((probs.argmax(-1) != labels).double().mean())


def errors(
    pair: Pair | Fitted, table: Table, particles: int = 0, seed: int = 0, draws: int = 0
) -> dict[str, float]:
    """The :func:`error` of each of the pair's labels that some row of a table has.

    Each is that of the label's own marginal, with all other labels summed out, on the rows in
    which it is known.

    Args:
        pair: The pair, or a run of it.
        table: The rows.
        particles: As of :func:`label_probabilities`.
        seed: Seed of draws.
        draws: As of :func:`label_probabilities`.

    Returns:
        By label, in the card's order.
    """
    pair, _ = _pair_and_label(pair, "y")
    # A label that is a number, such as the light of a face, has no share of wrong classes.
    labels = [s for s in pair.card.labels if table.counts.get(s) and s in table.classes]
    return {site: error(pair, table, site, particles, seed, draws) for site in labels}


def loss_per_row(pair: Pair, table: Table, objective: Objective, seed: int = 0) -> Tensor:
    """An objective's loss of every row ``(N,)``, nats, with what the table observes."""
    return by_rows(pair, table, lambda b: objective.per_datum(pair.model, pair.guide, b), seed)


def bound_per_row(pair: Pair, table: Table, objective: Objective, seed: int = 0) -> Tensor:
    """An objective's bound of every row ``(N,)``, nats: its loss without what is no bound.

    In expectation a lower bound of log p of what the table observes of a row, where
    :func:`loss_per_row` is what training makes small, distillation and further terms included.
    Shared sites, outside the rows, are not in it.

    Args:
        pair: The pair.
        table: The rows.
        objective: The objective.
        seed: Seed of its draws.

    Raises:
        ValueError: If no part of the objective's value is a bound, naming those that it has.
    """
    if BOUND not in objective.part_names:
        raise ValueError(
            f"{objective!r} has the parts {', '.join(objective.part_names)}, expected a bound "
            "among them, as that of EnumeratedELBO, IWELBO or SelfNormalisedELBO"
        )

    def of(batch: Batch) -> Tensor:
        run = objective.run(pair.model, pair.guide, batch)
        bound: Tensor = -parts_of(objective, "rows", run)[BOUND]
        return bound

    return by_rows(pair, table, of, seed)


class _Means(Messenger):
    """Sites that take their mean in place of a draw."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["is_observed"] or is_plate(msg):
            return
        mean = mean_of(msg["fn"]) if msg["fn"].has_rsample else None
        if mean is None:
            raise Refused(f"site {msg['name']!r} has no mean; draw it (draws or particles)")
        msg["value"], msg["done"] = mean, True


def by_rows(
    pair: Pair, table: Table, of: Callable[[Batch], Tensor], seed: int, block: int = ROWS
) -> Tensor:
    """What a function makes of the rows ``(N, ...)``, in the table's order.

    Args:
        pair: The pair, in evaluation mode meanwhile.
        table: The rows.
        of: From a batch to ``(B, ...)``, without gradient.
        seed: Seed of what it draws.
        block: Most rows of a batch.

    Raises:
        ValueError: If a row does not fit the pair, naming site, row and column.
    """
    like, table = pair.like(), as_fitted(pair, table)
    blocks: list[Tensor] = []
    order: list[Tensor] = []
    with undisturbed(pair, seed), torch.no_grad():
        for regime in table.regimes():
            check = checker(pair, table, regime)
            for index in regime.index.split(block):
                batch = table.gather(regime, index)
                check(batch)
                blocks.append(of(batch.to(like.device, like.dtype)))
                order.append(index)
    values = torch.cat(blocks)
    out = torch.empty_like(values)
    out[torch.cat(order).to(values.device)] = values
    return out
