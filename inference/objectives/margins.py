r"""Max-margin terms for a label that the guide scores, and bounds that go with them.

Li, Zhu, Zhang: Max-margin deep generative models, arXiv 1611.07119. With :math:`s_j(x)` the score
of class j, which is what the network of the guide's Categorical factor gives before its softmax,

- :class:`Hinge`, labelled rows: :math:`\max_j\,[\,l\,1(j \ne y) + s_j - s_y\,]` (Crammer-Singer);
- :class:`Hat`, other rows: the same with the best class for y;
- :class:`Balance`, both together:
  :math:`|\,\mathrm{mean}_L\, s \circ 1_y - \mathrm{mean}_U\, s \circ 1_{\arg\max s}\,|_2`.

One convention: a weight stands beside a bound that is averaged over all N rows and a term that is
averaged over its own kind of rows. So every row of a kind of M rows counts N / M times, and where
all rows are labelled the weight C is that of the sums :math:`\sum_n` bound and :math:`C \sum_n`
hinge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_models.guides.factors import Categorical
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.sites import UnhandledSite


def label_scores(run: Evaluation, site: str) -> Tensor:
    """Scores of the classes of a label, at the mean of what the guide samples before it.

    Args:
        run: The run; all terms of a step share the scores.
        site: The label.

    Returns:
        ``(B, C)``.

    Raises:
        UnhandledSite: If the guide scores no such label.
    """
    return run.once(("label scores", site), lambda: _label_scores(run, site))


def _label_scores(run: Evaluation, site: str) -> Tensor:
    guide = cast(Any, run.guide)
    factor = dict(getattr(guide, "factors", {})).get(site)
    if not isinstance(factor, Categorical):
        raise UnhandledSite(
            f"a margin needs scores of the label {site!r}: expected a guides.Factored with "
            f"a factor {site}=guides.Categorical(...), got {type(factor).__name__}"
        )
    given = guide.upstream(site, run.batch)
    scores: Tensor = factor.net(**{name: given[name] for name in factor.given})
    return scores


def multiclass_hinge(scores: Tensor, onehot: Tensor, margin: float = 1.0) -> Tensor:
    r""":math:`\max_j [\,l\,1(j \ne y) + s_j - s_y\,] \ge 0` per row, the class y included.

    Args:
        scores: ``(B, C)``.
        onehot: ``(B, C)``, one in the place of y.
        margin: l, by which y has to win.

    Returns:
        ``(B,)``.
    """
    margins = scores - (scores * onehot).sum(-1, keepdim=True) + margin * (1 - onehot)
    return margins.amax(-1)


def _onehot(label: Tensor, like: Tensor) -> Tensor:
    classes = torch.arange(like.shape[-1], device=like.device)
    return (label.unsqueeze(-1) == classes).to(like.dtype)


def _told(run: Evaluation, site: str, scores: Tensor) -> Tensor:
    """The label as a one-hot vector, the best class where it is missing."""
    label = run.batch[site] if site in run.batch else scores.detach().argmax(-1)
    return _onehot(label, scores)


class _Margin(Objective):
    """A multi-class hinge in one kind of rows."""

    labelled: bool

    def __init__(self, site: str, weight: float | Anneal = 1.0, margin: float = 1.0) -> None:
        super().__init__()
        check_range(f"weight of {type(self).__name__}({site!r})", weight, 0)
        check_range(f"margin of {type(self).__name__}({site!r})", margin, 0)
        self.site, self.weight, self.margin = site, weight, margin

    def __repr__(self) -> str:
        """As written."""
        options = f"weight={written(self.weight)}, margin={self.margin:g}"
        return f"{type(self).__name__}({self.site!r}, {options})"

    @property
    def formula(self) -> str:
        """The term as added to a bound."""
        y, rows = (self.site, "N_labelled") if self.labelled else (f"{self.site}^", "N_unlabelled")
        gap = f"max_j[{self.margin:g} 1(j != {y}) + s_j - s_{y}]"
        where = "" if self.labelled else f", {y} = argmax s"
        return f"-{written(self.weight)} (N / {rows}) {gap}{where}"

    def rows(self, run: Evaluation) -> Tensor:
        """The hinge per row; zero in rows of the other kind."""
        batch, weight = run.batch, value_at(self.weight, self.progress)
        if (self.site in batch) != self.labelled or weight == 0:
            return _nothing(run)
        seen = batch.observed.get(self.site, 0)
        share = batch.total / (seen if self.labelled else batch.total - seen)
        scores = label_scores(run, self.site)
        hinge = multiclass_hinge(scores, _told(run, self.site, scores), self.margin)
        return weight * share * hinge


class Hinge(_Margin):
    """The margin of labelled rows: the known class has to beat every other by ``margin``.

    Args:
        site: The label; the guide has a ``guides.Categorical`` factor for it.
        weight: The paper's C, at least 0, or an :class:`Anneal`; see the module for its units.
        margin: l, the price of a wrong class (the loss augmentation), at least 0.

    Raises:
        ValueError: If an option is out of range.
    """

    labelled = True


class Hat(_Margin):
    """The margin of unlabelled rows: the best class has to beat every other by ``margin``.

    The best class counts as a constant, so the term pushes decision boundaries away from rows.

    Args:
        site: The label; the guide has a ``guides.Categorical`` factor for it.
        weight: At least 0, or an :class:`Anneal`; see the module for its units.
        margin: l, at least 0.

    Raises:
        ValueError: If an option is out of range.
    """

    labelled = False


class Balance(Objective):
    """Keeps class scores of unlabelled rows in the proportions of labelled ones.

    A statistic of the rows of a step, both kinds together: zero where a step has one kind, and
    no part of a loss per row. In several processes each takes its own rows'.

    Args:
        site: The label; the guide has a ``guides.Categorical`` factor for it.
        weight: At least 0, or an :class:`Anneal`; see the module for its units.

    Raises:
        ValueError: If the weight is out of range.
    """

    def __init__(self, site: str, weight: float | Anneal = 1.0) -> None:
        super().__init__()
        check_range(f"weight of Balance({site!r})", weight, 0)
        self.site, self.weight = site, weight

    def __repr__(self) -> str:
        """As written."""
        return f"Balance({self.site!r}, weight={written(self.weight)})"

    @property
    def formula(self) -> str:
        """The term as added to a bound."""
        y = self.site
        return f"-{written(self.weight)} |mean_labelled s 1_{y} - mean_unlabelled s 1_argmax|"

    def rows(self, run: Evaluation) -> Tensor:
        """Zero: no row has a part of it."""
        return _nothing(run)

    def across(self, runs: Sequence[Evaluation]) -> Tensor | float:
        """N times the distance between the two means."""
        kinds = [[run for run in runs if (self.site in run.batch) == seen] for seen in (1, 0)]
        weight = value_at(self.weight, self.progress)
        if not all(kinds) or weight == 0:
            return 0.0
        labelled, unlabelled = (self._mean(kind) for kind in kinds)
        distance: Tensor = torch.linalg.vector_norm(labelled - unlabelled)
        return weight * runs[0].batch.total * distance

    def _mean(self, runs: Sequence[Evaluation]) -> Tensor:
        sums = []
        for run in runs:
            scores = label_scores(run, self.site)
            sums.append(run.batch.scale * (scores * _told(run, self.site, scores)).sum(0))
        return torch.stack(sums).sum(0) / sum(run.batch.size for run in runs)


class _Elsewhere(Objective):
    """A bound that is taken on other rows, or another story, than the terms beside it."""

    def __init__(self, bound: Objective, site: str) -> None:
        super().__init__(bound.max_plate_nesting)
        self.bound, self.site = bound, site

    def move(self, run: Evaluation) -> Evaluation:
        """Where the bound is taken instead."""
        raise NotImplementedError

    def at(self, progress: float) -> None:
        """Hand the progress on."""
        super().at(progress)
        self.bound.at(progress)

    def evaluation(self, run: Evaluation) -> Evaluation:
        """Where the bound is taken instead, once per run."""
        return run.once("moved", lambda: self.move(run), owner=self)

    def rows(self, run: Evaluation) -> Tensor:
        """The bound's loss per row."""
        return self.bound.rows(self.evaluation(run))

    def outside(self, run: Evaluation) -> Tensor | float:
        """The bound's loss outside the data plate."""
        return self.bound.outside(self.evaluation(run))

    def across(self, runs: Sequence[Evaluation]) -> Tensor | float:
        """What of the bound spans kinds of rows."""
        return self.bound.across(runs)


class Imputed(_Elsewhere):
    r"""A bound at one value of a label: the known one, or the best of the guide's scores.

    The cost does not grow with the number of classes. Networks get the label as a vector
    :math:`\hat y + w\,(\pi - \bar\pi)` whose value is the one-hot :math:`\hat y` and whose
    gradient is w times that of :math:`\pi = \mathrm{softmax}(s)`, also where the label is known:
    straight through, which is the only way that the bound informs the classifier (w = 0: none).
    The entropy of q(y | x) has no part in it, so it is no lower bound of log p(x). Model and guide
    may use the label as an input of :class:`ppl_models.networks.Net`, not as an index.

    Args:
        bound: The bound.
        site: The label; the guide has a ``guides.Categorical`` factor for it.
        weight: w; the paper's are 3e-4 (MNIST), 1e-4 (SVHN), 3e-5 (NORB).

    Raises:
        ValueError: If the weight is out of range.
    """

    def __init__(self, bound: Objective, site: str, weight: float = 3e-4) -> None:
        super().__init__(bound, site)
        check_range(f"weight of Imputed({site!r})", weight, 0)
        self.weight = weight

    def __repr__(self) -> str:
        """As written."""
        return f"Imputed({self.bound!r}, {self.site!r}, weight={self.weight:g})"

    @property
    def formula(self) -> str:
        """The bound, and at which label."""
        y = self.site
        return f"{self.bound.formula} at {y} or argmax s({y}), straight through {self.weight:g}"

    def move(self, run: Evaluation) -> Evaluation:
        """The same rows with the label as a vector."""
        scores = label_scores(run, self.site)
        p = scores.softmax(-1)
        label = _told(run, self.site, scores) + self.weight * (p - p.detach())
        batch = run.batch.replace({**run.batch, self.site: label})
        model = _AsVector(self.site)(run.model)
        return Evaluation(model, run.guide, batch, run.plate_nesting)


class _AsVector(Messenger):
    """A Categorical site whose value is a one-hot vector."""

    def __init__(self, site: str) -> None:
        super().__init__()
        self.site = site

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == self.site:
            msg["fn"] = dist.OneHotCategorical(logits=msg["fn"].logits)


class LeftOut(_Elsewhere):
    """A bound of the story without one site, on which no other depends.

    For a label that the story has but this bound is not to be trained on: beside a margin, or a
    loss of another kind. As nothing depends on the site, leaving it out is summing it out.

    Args:
        bound: The bound.
        site: The site.
    """

    def __repr__(self) -> str:
        """As written."""
        return f"LeftOut({self.bound!r}, {self.site!r})"

    @property
    def formula(self) -> str:
        """The bound, and what it does not see."""
        return f"{self.bound.formula} without {self.site}"

    def move(self, run: Evaluation) -> Evaluation:
        """The story without the site; what stands in for a missing value is never looked at."""
        batch = run.batch
        if self.site not in batch:
            batch = batch.replace({**batch, self.site: batch.rows.new_zeros(batch.count)})
        model = poutine.block(run.model, hide=[self.site])
        return Evaluation(model, run.guide, batch, run.plate_nesting)


def _nothing(run: Evaluation) -> Tensor:
    like = next((v for v in run.batch.values() if v.is_floating_point()), run.batch.rows)
    return like.new_zeros(run.batch.count)
