"""Images of a pair at codes of one's own, with all else of the rows as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_models.config import unknown
from ppl_models.data.tables.table import Table
from ppl_models.inference.posterior.rows import chosen, undisturbed
from ppl_models.inference.posterior.support import check_data
from ppl_models.interventions import intervene
from ppl_models.pair import Pair


@dataclass(frozen=True, eq=False)
class PairDecoder:
    """What a pair decodes at given codes of its rows; :func:`decoder` makes one.

    Attributes:
        pair: The pair.
        table: The rows N, as the pair knows their sites.
        site: The site of the codes.
        made: The site of the data.
    """

    pair: Pair
    table: Table
    site: str
    made: str

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.table)

    def __call__(self, codes: Tensor, rows: slice) -> Tensor:
        """Means of the data site ``(n, ...)`` at codes ``(n, D)`` of these rows.

        Args:
            codes: The codes, one for each of the rows.
            rows: Which rows of the table they are.

        Raises:
            ValueError: If the codes have another shape than the site.
        """
        seen = self.table.rows(torch.arange(len(self))[rows])
        like, made, order = self.pair.like(), list[Tensor](), list[Tensor]()
        with undisturbed(self.pair, 0):
            for regime in seen.regimes():
                batch = seen.gather(regime, regime.index).to(like.device, like.dtype)
                values = {self.site: codes[regime.index].to(like.device)}
                made.append(intervene(self.pair, batch, values, codes="mean")[self.made].cpu())
                order.append(regime.index.cpu())
        return torch.cat(made)[torch.cat(order).argsort()]


def decoder(
    pair: Pair,
    table: Table,
    site: str = "z",
    made: str = "x",
    rows: Sequence[int] | Tensor | None = None,
) -> PairDecoder:
    """The mean of a data site as a function of one code, as an intervention on it.

    Labels that a row has stay what they are, and so do the means of all other codes; what the
    model puts below the code follows it (``pair.intervene(batch, codes="mean", z=...)``). Of a
    hierarchy this is said of the one level ``site``.

    Args:
        pair: The pair.
        table: The rows of the table of codes, in its order, with what is known of them.
        site: The site of the codes.
        made: The site of the data.
        rows: Positions in the table; all by default.

    Raises:
        ValueError: If there is no such site, or the rows do not fit the pair.
    """
    table, index = chosen(pair, table, rows)
    if site not in pair.card.latents:
        raise ValueError(f"{pair.card.name}: {unknown('latent site', site, pair.card.latents)}")
    if made not in pair.card.data:
        raise ValueError(f"{pair.card.name}: {unknown('site of the data', made, pair.card.data)}")
    seen = table.rows(index)
    check_data(pair, seen)
    return PairDecoder(pair, seen, site, made)
