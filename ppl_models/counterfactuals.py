"""What rows would have been had some sites had other values, all chance being what it was.

Abduction, action, prediction (Pearl, Causality, 2009, section 7.1): the guide and the model tell
the noise behind every site of the rows as they are; some sites are set; the same noise leads to
what depends on them. See :mod:`ppl_models.exogenous` for what the noise of a site is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import whole
from ppl_models.exogenous import noise_family, noise_of
from ppl_models.sample_sites import base_of
from ppl_models.set_sites import (
    Changed,
    Sites,
    Soft,
    carried,
    check_sites,
    descendants,
    evaluated,
    inferred,
    is_soft,
    model_sites,
    over_draws,
    parents_of,
    set_to,
    sites_at,
)

if TYPE_CHECKING:
    from ppl_models.pair import Pair


def counterfactual(
    pair: Pair,
    batch: Batch,
    values: Mapping[str, Any],
    draws: int | None = None,
    graph: Graph | None = None,
) -> dict[str, Tensor]:
    """See :meth:`ppl_models.Pair.counterfactual`.

    Args:
        pair: The pair.
        batch: The rows.
        values: By site.
        draws: S.
        graph: The pair's and these rows', where it is known: reading it takes time.
    """
    if draws is not None:
        draws = whole("draws", draws, 1)
    with evaluated(pair):
        story = Graph.of(pair, batch) if graph is None else graph
        moved = story.moved_by(values)
        hard, soft = set_to(pair, batch, values, draws, story.sites)

        def run(rows: Batch, here: Mapping[str, Tensor]) -> dict[str, Tensor]:
            abducted = story.abduct(rows, inferred(pair, rows), moved)
            found = story.predict(rows, abducted, here, soft)
            return {name: site["value"] for name, site in found.items()}

        # A callable may hold what has a value for each row: it sees the rows of one draw.
        return over_draws(batch, draws, run, story.sites, hard, apart=bool(soft))


@dataclass(frozen=True)
class Abducted:
    """Rows as they are.

    Attributes:
        values: Of all sites, those that are observed in the shape of the batch.
        noise: The families and the noises behind the sites that may move.
    """

    values: Mapping[str, Tensor]
    noise: Mapping[str, tuple[type | None, Tensor]]


@dataclass(frozen=True)
class Graph:
    """What hangs on what in a pair's story.

    Attributes:
        pair: The pair.
        sites: Its sites where nothing is observed.
        parents: Of each site and covariate, parents before their children.
    """

    pair: Pair
    sites: Sites
    parents: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, pair: Pair, batch: Batch) -> Graph:
        """The graph of a pair.

        Args:
            pair: The pair.
            batch: Some rows with what is observed of them.
        """
        sites = model_sites(pair, batch)
        return cls(pair, sites, parents_of(pair, batch, sites))

    def moved_by(self, values: Mapping[str, Any]) -> set[str]:
        """Sites that move when some are set: what depends on them, and those that change softly.

        Raises:
            ValueError: If there is no such site, or the noise behind one that moves cannot be
                told.
        """
        check_sites(values, self.parents)
        soft = {name for name, value in values.items() if is_soft(value)}
        moved = descendants(self.parents, set(values)) | soft
        for name, site in self.sites.items():
            if name in moved and noise_family(site["fn"]) is None:
                raise ValueError(
                    f"site {name!r} would move, and the noise behind a value of "
                    f"{type(base_of(site['fn'])).__name__} cannot be told; expected a "
                    "distribution that carries a noise to its values, or intervene, which draws "
                    "it anew"
                )
        return moved

    def abduct(
        self, batch: Batch, latent: Mapping[str, Tensor], moved: Collection[str]
    ) -> Abducted:
        """The rows as they are, and the noise behind some sites.

        Args:
            batch: The rows.
            latent: Values of what they do not observe.
            moved: The sites.

        Raises:
            ValueError: If a site is not known, and known ones depend on it.
        """
        known = {n: v for n, v in latent.items() if n in self.parents} | dict(batch)
        for name in self.parents:
            seen = [n for n, given in self.parents.items() if name in given and n in known]
            if name not in known and seen:
                raise ValueError(
                    f"site {name!r} is not sampled by the guide, and {seen} depend on it; put it "
                    "into the batch"
                )
        found = sites_at(self.pair, batch, known, self.sites)
        noise = {
            name: (
                noise_family(site["fn"]),
                noise_of(site["fn"], site["value"], f"site {name!r}"),
            )
            for name, site in found.items()
            if name in moved
        }
        return Abducted({name: site["value"] for name, site in found.items()} | dict(batch), noise)

    def predict(
        self,
        batch: Batch,
        abducted: Abducted,
        hard: Mapping[str, Tensor],
        soft: Mapping[str, Soft],
    ) -> Sites:
        """The sites of the model where some are set, and others follow by their noise."""
        moved = descendants(self.parents, {*hard, *soft}) | set(soft)
        kept = {name: v for name, v in abducted.values.items() if name not in moved} | dict(hard)
        noise = {name: part for name, part in abducted.noise.items() if name in moved}
        with _Pushed(noise), Changed(soft):
            return sites_at(self.pair, batch, kept, self.sites)


class _Pushed(Messenger):
    """Sites take the values that their noises lead to under their distributions here.

    Args:
        noise: Families and noises by site.
    """

    def __init__(self, noise: Mapping[str, tuple[type | None, Tensor]]) -> None:
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name in self.noise:
            msg["value"], msg["done"] = carried(name, msg["fn"], *self.noise[name]), True
