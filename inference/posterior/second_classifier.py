"""A second classifier, on what a fitted pair makes of rows: parts of its code, or redrawn data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import at_least, unknown
from ppl_models.data.tables.table import Table
from ppl_models.guides.protocol import offering
from ppl_models.inference.posterior.prediction import by_rows
from ppl_models.inference.posterior.support import as_fitted
from ppl_models.pair import Pair

Features = Callable[[Batch], Tensor]


def code_features(pair: Pair, sites: Sequence[str], draw: bool = False) -> Features:
    """Some continuous sites of the guide, side by side.

    Args:
        pair: The pair.
        sites: Their names; each site's factor is given data alone.
        draw: A fresh draw of them in place of their means. A dimension that the model does not
            use has a mean near zero that may still tell a label faintly: in a draw that is
            drowned in noise, while a network on means turns it up.

    Returns:
        From rows to ``(B, F)``.
    """

    def features(batch: Batch) -> Tensor:
        factors = [offering(pair.guide, site).factor(site, batch) for site in sites]
        return torch.cat([q.sample() if draw else q.mean for q in factors], -1)

    return features


def exchanged_features(pair: Pair, pool: Batch, sites: Sequence[str], data: str = "x") -> Features:
    """Data decoded with some sites as they are in random rows of a pool.

    Args:
        pair: The pair.
        pool: Rows, whose posterior draws stand for the aggregate posterior.
        sites: Names of the sites that are exchanged; see :meth:`ppl_models.Pair.transfer`.
        data: The site of the data that is decoded.

    Returns:
        From rows to the mean of the data ``(B, D)``.
    """

    def features(batch: Batch) -> Tensor:
        rows = torch.randint(pool.count, (batch.count,)).to(pool.rows.device)
        source = Batch({name: value[rows] for name, value in pool.items()}, pool.rows[rows])
        return pair.transfer(source.to(batch.rows.device), batch, sites)[data]

    return features


class Secondary:
    """A classifier of scikit-learn on features of rows, the second stage of some papers.

    Args:
        pair: The fitted pair; it stays as it is.
        estimator: A classifier of scikit-learn, which :meth:`fit` fits.
        features: From rows with the data sites alone to ``(B, F)``, such as
            :func:`code_features` and :func:`exchanged_features`.
        label: The label site.
        draws: Draws of the features that the probabilities of a row are averaged over.
        seed: Seed of the features that are drawn.
    """

    def __init__(
        self,
        pair: Pair,
        estimator: Any,
        features: Features,
        *,
        label: str = "y",
        draws: int = 1,
        seed: int = 0,
    ) -> None:
        (draws,) = at_least(draws=(draws, 1))
        self.pair, self.estimator, self.features = pair, estimator, features
        self.label, self.draws, self.seed = label, draws, seed

    def fit(self, table: Table, passes: int = 0) -> Secondary:
        """Fit the classifier on the rows that have the label.

        Args:
            table: The rows.
            passes: 0 calls the estimator's ``fit`` once; a number calls its ``partial_fit`` that
                often, each time on fresh draws of the features.

        Raises:
            ValueError: If there is no such label, or ``passes`` is asked of a classifier that
                has no ``partial_fit``.
        """
        if passes and not hasattr(self.estimator, "partial_fit"):
            raise ValueError(
                f"passes is {passes}, but {type(self.estimator).__name__} has no partial_fit; "
                "expected passes=0"
            )
        if self.label not in table.sites:
            raise ValueError(f"{table.name}: {unknown('site', self.label, table.sites)}")
        rows = as_fitted(self.pair, table).where_observed(self.label)
        y = rows.sites[self.label].cpu().numpy()
        if not passes:
            self.estimator.fit(self._features(rows, 0), y)
        for place in range(passes):
            classes = range(len(rows.classes[self.label]))
            self.estimator.partial_fit(self._features(rows, place), y, classes=list(classes))
        return self

    def probabilities(self, table: Table) -> Tensor:
        """Probabilities ``(N, C)`` of the estimator's ``classes_``; labels are not looked at."""
        told = [
            torch.from_numpy(self.estimator.predict_proba(self._features(table, place))).double()
            for place in range(self.draws)
        ]
        return torch.stack(told).mean(0)

    def predict(self, table: Table) -> Tensor:
        """The most probable class ``(N,)`` of each row."""
        classes = torch.from_numpy(self.estimator.classes_).long()
        return classes[self.probabilities(table).argmax(-1)]

    def error(self, table: Table) -> float:
        """Share of rows whose predicted class is not the table's."""
        table = as_fitted(self.pair, table)
        return float((self.predict(table) != table.sites[self.label][:].cpu()).double().mean())

    def _features(self, table: Table, place: int) -> Any:
        seen = as_fitted(self.pair, table).only(*self.pair.card.given)
        return by_rows(self.pair, seen, self.features, self.seed + place).cpu().numpy()
