"""Counterfactuals of exported rows: named interventions, from the same draws as the posterior."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.counterfactuals import Graph
from ppl_models.exogenous import mechanism
from ppl_models.inference.posterior.rows import Site, Sites
from ppl_models.pair import Pair
from ppl_models.sample_sites import in_plates, is_local, plates_within, rows_first
from ppl_models.set_sites import repeated, row_axis, set_to

Do = Mapping[str, Mapping[str, Any]]  # by intervention and site


@dataclass(frozen=True)
class Worlds:
    """What rows would have been under named interventions.

    Attributes:
        graph: What hangs on what.
        do: Values by intervention and site.
        hard: The same as tensors of two rows that are alike.
        moved: Sites that any of them moves.
    """

    graph: Graph
    do: Do
    hard: Mapping[str, Mapping[str, Tensor]]
    moved: frozenset[str]

    @classmethod
    def of(cls, pair: Pair, few: Batch, do: Do) -> Worlds:
        """What the interventions do.

        Args:
            pair: The pair.
            few: Two of the rows, with what is conditioned on.
            do: The interventions.

        Raises:
            ValueError: If one cannot be made, naming it.
        """
        graph = Graph.of(pair, few)
        plain, hard, moved = {}, {}, set()
        for name, values in do.items():
            with _named(name):
                plain[name] = {site: _plain(graph, site, value) for site, value in values.items()}
                moved |= graph.moved_by(plain[name])
                hard[name], _ = set_to(pair, few, plain[name], None, graph.sites)
        return cls(graph, plain, hard, frozenset(moved))

    def stored(self, sites: Sites) -> dict[str, Site]:
        """The sites of the rows that any intervention sets or moves."""
        changed = self.moved.union(*self.do.values())
        every = {**sites.data, **sites.latents}
        return {name: site for name, site in every.items() if name in changed}

    def draw(
        self,
        batch: Batch,
        values: Mapping[str, Tensor],
        shared: Mapping[str, Tensor],
        sites: Sites,
    ) -> dict[str, Tensor]:
        """Counterfactuals of rows, at draws of what they do not observe.

        Args:
            batch: The rows B.
            values: Draws ``(S, P, B, *event)`` of latent sites.
            shared: One draw of those that all rows share.
            sites: The random variables.

        Returns:
            ``(S, I, B, *shape)`` by site, as they are stored, for I interventions.
        """
        draws = next((len(value) for value in values.values()), 1)
        rows = repeated(batch, draws)
        latent = {name: self._rows_of(sites.latents[name], v) for name, v in values.items()}
        abducted = self.graph.abduct(rows, {**latent, **shared}, self.moved)
        found: dict[str, list[Tensor]] = {name: [] for name in self.stored(sites)}
        for hard in self.hard.values():
            wide = {n: _of_rows(v, self.graph.sites.get(n), rows.count) for n, v in hard.items()}
            made = self.graph.predict(rows, abducted, wide, {})
            for name, worlds in found.items():
                node, site = made[name], self.stored(sites)[name]
                value = rows_first(node, node["value"], len(node["fn"].event_shape))
                value = site.places(value) if site.support is not None else value
                worlds.append(value.unflatten(0, (draws, batch.count)))
        return {name: torch.stack(worlds, 1) for name, worlds in found.items()}

    def _rows_of(self, site: Site, value: Tensor) -> Tensor:
        """Draws ``(S, P, B, *event)`` as rows ``(P, S B, *event)``."""
        flat = site.by_row(value, len(site.event)).flatten(0, 1)
        node = self.graph.sites[site.name]
        return in_plates(node, flat) if plates_within(node) else flat

    def attributes(self) -> dict[str, Any]:
        """The interventions, the graph and the mechanisms that counterfactuals hang on."""
        parents = {name: list(given) for name, given in self.graph.parents.items()}
        kinds = {name: mechanism(site["fn"]) for name, site in self.graph.sites.items()}
        return {"do": dict(self.do), "graph": parents, "mechanisms": kinds}


def interventions_of(given: Any) -> Do:
    """Interventions by name, each with values of at least one site; none for None.

    Raises:
        ValueError: If they are not that.
    """
    for name, values in (given or {}).items():
        if not isinstance(name, str) or not isinstance(values, Mapping) or not values:
            raise ValueError(
                f"counterfactual {name!r} is {values!r}, expected a name with values of sites, "
                "such as {'thin': {'thickness': 1.5}}"
            )
    return dict(given or {})


@contextmanager
def _named(intervention: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"counterfactual {intervention!r}: {error}") from None


def _plain(graph: Graph, site: str, value: Any) -> Any:
    """A value as it is written beside the rows: one for all of them."""
    if isinstance(value, str | bool | int | float):
        return value
    try:
        plain = np.asarray(value.tolist() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError):
        plain = np.asarray(None)
    if plain.dtype.kind not in "biuf":
        raise ValueError(
            f"site {site!r} is set to {value!r}, expected a number, the name of a class or a list "
            "of numbers, which a file can hold"
        )
    node = graph.sites.get(site)
    event = 1 if node is None else len(node["fn"].event_shape)
    if plain.ndim > event:
        raise ValueError(
            f"the value for site {site!r} has shape {plain.shape}, expected one value for all rows"
        )
    return plain.tolist()


def _of_rows(value: Tensor, site: Any, rows: int) -> Tensor:
    """A value of two rows that are alike, for more of them."""
    if site is not None and not is_local(site):
        return value
    axis = row_axis(value, site)
    shape = list(value.shape)
    shape[axis] = rows
    return value.narrow(axis, 0, 1).expand(shape)
