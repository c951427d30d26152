"""Images of a pair at codes of one's own, with all else of the rows as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_models.config import names, unknown
from ppl_models.data.tables.table import Table
from ppl_models.inference.metrics.disentanglement.encoding import code_sites
from ppl_models.inference.posterior.rows import chosen, conditioned, undisturbed
from ppl_models.inference.posterior.support import check_data
from ppl_models.inference.posterior.target import sites_of_rows
from ppl_models.interventions import intervene
from ppl_models.pair import Pair


@dataclass(frozen=True, eq=False)
class PairDecoder:
    """What a pair decodes at given codes of its rows; :func:`decoder` makes one.

    Attributes:
        pair: The pair.
        table: The rows N, as the pair knows their sites.
        shapes: Shape of a row's code by site, in the order of the codes.
        made: The site of the data.
    """

    pair: Pair
    table: Table
    shapes: Mapping[str, tuple[int, ...]]
    made: str

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.table)

    def __call__(self, codes: Tensor, rows: slice) -> Tensor:
        """Means of the data site ``(n, ...)``, on the CPU.

        Args:
            codes: ``(n, D)``, one for each of the rows.
            rows: Which rows of the table they are of.

        Raises:
            ValueError: If there are not as many numbers as the codes have.
        """
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        seen = self.table.rows(torch.arange(len(self))[rows])
        if codes.shape != (len(seen), sum(sizes)):
            raise ValueError(
                f"codes have shape {tuple(codes.shape)}, expected ({len(seen)}, {sum(sizes)}), "
                f"those of {', '.join(self.shapes)}"
            )
        like, made, order = self.pair.like(), list[Tensor](), list[Tensor]()
        with undisturbed(self.pair, 0):
            for regime in seen.regimes():
                batch = seen.gather(regime, regime.index).to(like.device, like.dtype)
                parts = codes[regime.index].to(like.device).split(sizes, 1)
                values = {
                    site: part.reshape(-1, *shape)
                    for (site, shape), part in zip(self.shapes.items(), parts, strict=True)
                }
                made.append(intervene(self.pair, batch, values, codes="mean")[self.made].cpu())
                order.append(regime.index.cpu())
        return torch.cat(made)[torch.cat(order).argsort()]


def decoder(
    pair: Pair,
    table: Table,
    rows: Sequence[int] | Tensor | None = None,
    *,
    sites: Sequence[str] = (),
    made: str = "x",
) -> PairDecoder:
    """The mean of a data site as a function of codes, as an intervention on them.

    Labels that a row has stay what they are, and so do its most probable other labels and the
    means of codes that are not set; what the model puts below a set code follows it
    (``pair.intervene(batch, codes="mean", z=...)``). In a hierarchy, setting one level moves all
    levels below: choose it by ``sites``.

    Args:
        pair: The pair.
        table: The rows of the codes.
        rows: Positions in the table; all by default.
        sites: As of :func:`encode`: the latent sites whose numbers are the codes, side by side.
        made: The site of the data.

    Raises:
        ValueError: If there is no such site, or the rows do not fit the pair.
    """
    asked = names("sites", sites)
    table, index = chosen(pair, table, rows)
    if made not in pair.card.data:
        raise ValueError(f"{pair.card.name}: {unknown('site of the data', made, pair.card.data)}")
    seen = table.rows(index)
    check_data(pair, seen)
    with undisturbed(pair, 0), torch.no_grad():
        few = conditioned(pair, seen, None, torch.arange(1))
        there = sites_of_rows(pair, few, plates_within=True)
        wanted = code_sites(pair, there, asked)
        like, (batch, *_) = pair.like(), few.batches()
        found = intervene(pair, batch.to(like.device, like.dtype), {}, codes="mean")
    return PairDecoder(pair, seen, {n: tuple(found[n].shape[1:]) for n in wanted}, made)
