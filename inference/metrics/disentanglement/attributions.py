"""How an embedding moves with each entry of a row: Jacobians of any encoder, a chunk at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ppl_models.batch import Batch
from ppl_models.centres import mean_of
from ppl_models.config import at_least, check_seed, unknown
from ppl_models.guides.protocol import offering
from ppl_models.pair import Pair
from ppl_models.quiet import evaluating, quiet

Encoder = Callable[[Tensor], Tensor]  # rows (B, ...) to embeddings (B, K)
POINTS = 20  # of an integral, and draws of a smoothed gradient
NOISE = 0.02  # of a smoothed gradient, in units of the range of the rows
ALONE = 1e-3  # how far rounding may move a row's embedding with the size of its batch, relatively


class GuideMean(nn.Module):
    """The mean of a code's factor, as a function of one site of the data.

    Args:
        pair: A pair whose guide hands out its factors.
        code: Site of the code; its mean is flattened to ``(B, K)``.
        data: Site that the embedding is a function of. What else the factor is given comes from
            the guide, as means.

    Raises:
        TypeError: If the guide does not hand out its factors.
    """

    def __init__(self, pair: Pair, code: str = "z", data: str = "x") -> None:
        super().__init__()
        self.guide = offering(pair.guide, code, needs=("factor", "upstream"))
        self.pair, self.code, self.data = pair, code, data

    def forward(self, x: Tensor) -> Tensor:
        """Means ``(B, K)`` of the code given values ``(B, ...)``.

        Raises:
            ValueError: If the code has no mean in closed form, or needs another site.
        """
        with quiet(x.device):
            known = self.guide.upstream(self.code, Batch({self.data: x}))
            mean = mean_of(self.guide.factor(self.code, known))
        if mean is None:
            raise ValueError(f"the code {self.code!r} has no mean in closed form")
        return mean.reshape(len(x), -1)


def jacobians(
    encode: Encoder,
    rows: Tensor,
    attribution: str = "gradient",
    chunk: int = 64,
    seed: int = 0,
) -> Tensor:
    """Derivatives of an embedding by the entries of each row ``(N, K, P)``, detached.

    One backward pass for each of the K dimensions and each chunk of rows. A module is put into
    eval mode, and its modes and buffers are afterwards what they were.

    Args:
        encode: Rows ``(B, ...)`` to embeddings ``(B, K)``, each row by itself.
        rows: Floating values ``(N, ...)`` of P entries a row.
        attribution: ``gradient``; ``integrated``, its mean over 20 points from 0 to the row
            (Sundararajan et al. 2017, arXiv 1703.01365, without the factor of the row); or
            ``smooth``, its mean over 20 draws of noise of 0.02 times the range of the rows
            (Smilkov et al. 2017, arXiv 1706.03825).
        chunk: Rows at a time.
        seed: Of the noise.

    Raises:
        ValueError: If rows or embeddings have no such shape, a row's embedding depends on the
            rows beside it, has no gradient, or a derivative is not finite.
    """
    if attribution not in INPUTS:
        raise ValueError(unknown("attribution", attribution, INPUTS))
    noise = torch.Generator(rows.device).manual_seed(check_seed(seed))
    embedding_size(encode, rows, chunk)
    inputs, rows = INPUTS[attribution], rows.detach()
    scale = NOISE * float(rows.max() - rows.min())
    found = []
    with _as_evaluated(encode), torch.enable_grad():
        for part in rows.split(chunk):
            points = [_at(encode, x) for x in inputs(part, scale, noise)]
            found.append(torch.stack(points).mean(0) if len(points) > 1 else points[0])
    whole = torch.cat(found)
    if not bool(whole.isfinite().all()):
        row, dimension, _ = (~whole.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"the derivative of embedding dimension {dimension} at row {row} is not finite"
        )
    return whole


def embedding_size(encode: Encoder, rows: Tensor, chunk: int = 64) -> int:
    """The number K of dimensions of an embedding, whose gradients by the rows can be taken.

    Args:
        encode: As of :func:`jacobians`.
        rows: As of :func:`jacobians`.
        chunk: Rows that are tried.

    Raises:
        ValueError: As :func:`jacobians`, but for derivatives.
    """
    at_least(rows=(len(rows), 2), chunk=(chunk, 2))
    if not rows.is_floating_point():
        raise ValueError(f"rows are {rows.dtype}, expected floating values, such as rows.float()")
    tried = rows[:chunk].detach()
    with _as_evaluated(encode), torch.enable_grad():
        embedding = encode(tried.clone().requires_grad_())
        alone = encode(tried[: (len(tried) + 1) // 2])
    if embedding.dim() != 2 or len(embedding) != len(tried):
        raise ValueError(
            f"encode gives shape {tuple(embedding.shape)} for {len(tried)} rows, expected "
            f"({len(tried)}, K)"
        )
    if not embedding.requires_grad:
        raise ValueError("embeddings have no gradient, expected encode without no_grad or detach")
    beside = embedding[: len(alone)].detach()
    if bool((alone.detach() - beside).abs().max() > ALONE * beside.abs().max()):
        raise ValueError(
            "a row's embedding is random or changes with the rows beside it, expected eval mode, "
            "and means in place of draws"
        )
    return embedding.shape[1]


def _gradient(x: Tensor, scale: float, noise: torch.Generator) -> Iterator[Tensor]:
    yield x


def _integrated(x: Tensor, scale: float, noise: torch.Generator) -> Iterator[Tensor]:
    yield from (x * ((point + 0.5) / POINTS) for point in range(POINTS))


def _smooth(x: Tensor, scale: float, noise: torch.Generator) -> Iterator[Tensor]:
    for _ in range(POINTS):
        drawn = torch.randn(x.shape, generator=noise, dtype=x.dtype, device=x.device)
        yield x + scale * drawn


INPUTS = {"gradient": _gradient, "integrated": _integrated, "smooth": _smooth}


def _as_evaluated(encode: Encoder) -> contextlib.AbstractContextManager[None]:
    return evaluating(encode) if isinstance(encode, nn.Module) else contextlib.nullcontext()


def _at(encode: Encoder, x: Tensor) -> Tensor:
    """Jacobian of each row ``(B, K, P)``; rows do not mix, so that sums over them can be taken."""
    x = x.detach().requires_grad_()
    embedding = encode(x)
    found = []
    for k in range(embedding.shape[1]):
        again = k + 1 < embedding.shape[1]
        total = embedding[:, k].sum()
        (slope,) = torch.autograd.grad(total, x, retain_graph=again, allow_unused=True)
        found.append(torch.zeros_like(x) if slope is None else slope)
    return torch.stack(found, 1).flatten(2)
