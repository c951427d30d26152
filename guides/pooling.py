"""One vector of a set, which neither the order of its elements nor padding changes.

Values stand as sites in a plate within the rows have them, ``(..., M, B, D)``: M elements, B rows.
What comes out stands as sites of the rows have it beside these: ``(B, size)``, and with
dimensions left of the plates, such as those of draws, ``(..., 1, B, size)``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ppl_models.config import at_least, unknown
from ppl_models.elements import mean

POOLS = ("mean", "max", "attention")


class Pool(nn.Module):
    """The mean, the largest entries or an attention over the elements that there are.

    The attention is the learnable aggregation of Giannone and Winther (2022, arXiv 2110.12279):
    one query a set, from the mean of its elements; keys and values from each of them; a softmax
    over the elements for each head; the heads side by side, with nothing after them.

    Args:
        kind: ``"mean"``, ``"max"`` or ``"attention"``. A set without elements has zeros.
        size: Size D of a value.
        heads: Heads of the attention, of ceil(D / heads) numbers each.

    Attributes:
        size: Size of what comes out: D, of the attention D up to a multiple of the heads.

    Raises:
        ValueError: If there is no such kind, or a size is below 1.
    """

    def __init__(self, kind: str, size: int, heads: int = 4) -> None:
        super().__init__()
        if kind not in POOLS:
            raise ValueError(unknown("pool", kind, POOLS))
        size, heads = at_least(size=(size, 1), heads=(heads, 1))
        self.kind, self.heads, self.size = kind, heads, size
        if kind == "attention":
            self.size = heads * math.ceil(size / heads)
            self.query, self.key, self.value = (
                nn.Linear(size, self.size, bias=False) for _ in range(3)
            )

    def forward(self, values: Tensor, there: Tensor, within: int = 0) -> Tensor:
        """Pool the elements.

        Args:
            values: ``(..., M, B, D)``, finite in the padding too.
            there: ``(B, M)``.
            within: Dimensions between rows and values, such as two of an element's pixels
                ``(..., M, B, h, w, D)``. An element has one weight of each head for all of them.
        """
        mask = there.T.unsqueeze(-1)  # M x B x 1
        flat = values.flatten(-1 - within)  # ... x M x B x (within x D)
        if self.kind == "max":
            least = torch.finfo(values.dtype).min
            pooled = torch.where(mask, flat, least).amax(-3, keepdim=True)
            pooled = torch.where(mask.any(-3, keepdim=True), pooled, 0.0)
        else:
            pooled = mean(flat.transpose(-3, -2), there).unsqueeze(-3)
        pooled = pooled.unflatten(-1, values.shape[values.dim() - 1 - within :])
        if self.kind == "attention":
            pooled = self._attend(pooled, values, mask, within)
        return pooled.squeeze(0) if pooled.dim() == 3 + within else pooled

    def _attend(self, middle: Tensor, values: Tensor, mask: Tensor, within: int) -> Tensor:
        query, key, value = (  # ... x M (or 1) x B x heads x (within x d)
            net(given)
            .unflatten(-1, (self.heads, -1))
            .movedim(-2, -2 - within)
            .flatten(-1 - within)
            for net, given in ((self.query, middle), (self.key, values), (self.value, values))
        )
        scores = (query * key).sum(-1) / math.sqrt(query.shape[-1])
        scores = torch.where(mask, scores, torch.finfo(scores.dtype).min)
        weights = torch.where(mask, scores.softmax(-3), 0.0)  # none where there is no element
        attended: Tensor = (weights.unsqueeze(-1) * value).sum(-4, keepdim=True)
        attended = attended.unflatten(-1, (*values.shape[values.dim() - 1 - within : -1], -1))
        return attended.movedim(-2 - within, -2).flatten(-2)
