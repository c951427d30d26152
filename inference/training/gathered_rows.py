"""All rows of a step's batch, gathered from the processes that share it, with their gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ppl_models.data.streams.stream import Share
from ppl_models.inference.training.processes import reached


class AllRows:
    """Makes a tensor of all rows of a batch from each process's own.

    Shares of any size are put in their places in a tensor of zeros, and these are added up: one
    message forwards and one backwards, however many processes there are. The gradient of a row
    is the sum of what all processes make of it. So where each process takes its own rows' part
    of a loss that looks at all rows, the sum of their gradients is that of one process.

    Args:
        share: The rows of this process. One that counts for nothing adds nothing.
    """

    def __init__(self, share: Share) -> None:
        self.start, self.of, self.share = share.start, share.of, share

    def __call__(self, value: Tensor, dim: int) -> Tensor:
        """All rows, in their order.

        Args:
            value: This process's rows.
            dim: Their dimension.
        """
        dim = dim % value.dim()
        gathered: Tensor = _Gather.apply(value, dim, self.share)  # type: ignore[no-untyped-call]
        return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, dim: int, share: Share) -> Tensor:
        ctx.dim, ctx.share = dim, share
        shape = list(value.shape)
        shape[dim] = share.of
        every = value.new_zeros(shape)
        if share.weight:
            every.narrow(dim, share.start, share.count).copy_(value)
        with reached():
            dist.all_reduce(every)
        return every

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        total = grads[0].contiguous().clone()
        with reached():
            dist.all_reduce(total)
        own = total.narrow(ctx.dim, ctx.share.start, ctx.share.count)
        return own if ctx.share.weight else torch.zeros_like(own), None, None
