r"""Max-margin terms for a label that the guide scores.

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

import torch
from torch import Tensor

from ppl_models.guides.protocol import offering
from ppl_models.inference.objectives.arithmetic import zero_loss
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.traces.evaluation import Evaluation


def label_scores(run: Evaluation, site: str) -> Tensor:
    """Scores of the classes of a label, at the mean of what the guide samples before it.

    Args:
        run: The run; all terms of a step share the scores.
        site: The label.

    Returns:
        ``(B, C)``.

    Raises:
        TypeError: If the guide cannot hand out scores.
        ValueError: If it scores no such label.
    """
    return run.once(("label scores", site), lambda: _label_scores(run, site))


def _label_scores(run: Evaluation, site: str) -> Tensor:
    guide = offering(run.guide, site, needs=("upstream", "scores"))
    return guide.scores(site, guide.upstream(site, run.batch))


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


def label_or_best(run: Evaluation, site: str, scores: Tensor) -> Tensor:
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
            return zero_loss(run)
        seen = batch.observed.get(self.site, 0)
        share = batch.total / (seen if self.labelled else batch.total - seen)
        scores = label_scores(run, self.site)
        hinge = multiclass_hinge(scores, label_or_best(run, self.site, scores), self.margin)
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
    no part of a loss per row.

    Args:
        site: The label; the guide has a ``guides.Categorical`` factor for it.
        weight: At least 0, or an :class:`Anneal`; see the module for its units.

    Raises:
        ValueError: If the weight is out of range.
    """

    across_rows = True

    def __init__(self, site: str, weight: float | Anneal = 1.0) -> None:
        super().__init__()
        check_range(f"weight of Balance({site!r})", weight, 0)
        self.site, self.weight = site, weight

    @property
    def formula(self) -> str:
        """The term as added to a bound."""
        y = self.site
        return f"-{written(self.weight)} |mean_labelled s 1_{y} - mean_unlabelled s 1_argmax|"

    def rows(self, run: Evaluation) -> Tensor:
        """Zero: no row has a part of it."""
        return zero_loss(run)

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
            known = run.every_row(scores * label_or_best(run, self.site, scores), 0)
            sums.append(run.batch.size * known.mean(0))
        return torch.stack(sums).sum(0) / sum(run.batch.size for run in runs)
