r"""Directions of a trained encoder's codes that are the true factors, found after the training.

Leemann et al. 2023 (arXiv 2206.13872). Where an embedding is e = f(x) with f(g(z)) = M z for some
unknown invertible M, and f has no gradient outside the span of the generator's, then A e equals z
up to order and scale if the rows of A J_f have what the columns of the generator's Jacobian have:
disjoint supports (DMA; the paper's first versions call it DA) or orthogonality (IMA). Nothing is
assumed of how z is distributed: factors may be correlated, and Gaussian.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import NamedTuple

import scipy.linalg
import torch
from torch import Tensor

from ppl_models.config import at_least, check_seed, unknown
from ppl_models.inference.metrics.disentanglement.attributions import (
    Encoder,
    embedding_size,
    jacobians,
)

KINDS = ("dma", "ima")
STARTS = {"dma": 1, "ima": 5}  # IMA has local minima; the first start is the identity
DEAD = 1e-12  # of the largest gradient: a dimension with less is dead
DEPENDENT = 1e-5  # least singular value of gradients of length 1 that are independent
TIED = 1e-6  # magnitude ratios that are closer than this, relatively, are the same


class OrthogonalSolution(NamedTuple):
    """What two points tell of orthogonal mechanisms.

    Attributes:
        directions: A ``(K, K)``.
        ratios: Of each concept ``(K,)``, the ratio of its squared gradient at the second point
            to that at the first, in rising order.
    """

    directions: Tensor
    ratios: Tensor


@dataclass(frozen=True, eq=False)
class Concepts:
    """Directions of an embedding, one a concept, and the encoder of these.

    Attributes:
        kind: ``dma`` or ``ima``.
        directions: A ``(K', K)``, each row of length 1; sign and order mean nothing.
        loss: Mean over all rows of how far their attributions are from disjoint or orthogonal,
            0 where they are so exactly.
        losses: The same of each start ``(restarts,)``.
        curve: Loss of each step's batch ``(steps,)``, of the start with the least loss.
        grouped: Whether there are fewer directions than the embedding has dimensions. The sum of
            two disjoint factors is disjoint from the others: a direction may then stand for a
            group of factors, whatever the loss.
        separation: For IMA, how far the magnitude ratios of the two nearest concepts are apart,
            relatively, at the rows that tell them apart best; near 0 IMA cannot tell some
            directions from their mixtures. None for DMA.
        embedding: The encoder that they were found for.
    """

    kind: str
    directions: Tensor
    loss: float
    losses: Tensor
    curve: Tensor
    grouped: bool
    separation: float | None
    embedding: Encoder = field(repr=False)

    def encode(self, rows: Tensor) -> Tensor:
        """Concepts A e ``(B, K')`` of rows ``(B, ...)``.

        Args:
            rows: As the embedding takes them; its mode, train or eval, is left as it is.
        """
        embedded = self.embedding(rows)
        found: Tensor = embedded @ self.directions.T.to(embedded)
        return found

    def embed(self, concepts: Tensor) -> Tensor:
        """The embedding ``(..., K)`` of concepts ``(..., K')``, for the embedding's decoder.

        Args:
            concepts: Such as :meth:`encode` gives them.

        Raises:
            ValueError: If there are fewer concepts than dimensions: many embeddings have them.
        """
        count, size = self.directions.shape
        if count < size:
            raise ValueError(
                f"{count} concepts of an embedding of {size} dimensions do not tell it, expected "
                f"n_directions={size}"
            )
        found: Tensor = concepts @ torch.linalg.inv(self.directions.to(concepts)).T
        return found


def discover_concepts(
    encode: Encoder,
    rows: Tensor,
    n_directions: int | None = None,
    *,
    kind: str = "dma",
    attribution: str = "gradient",
    steps: int = 2_000,
    batch_size: int = 48,
    learning_rate: float = 2e-2,
    restarts: int | None = None,
    chunk: int = 64,
    seed: int = 0,
) -> Concepts:
    """Find the directions whose attributions are disjoint (DMA) or orthogonal (IMA).

    Of each row, attributions are A J, in absolute value for DMA, each divided by its sum of
    absolute values; the loss is the Frobenius norm of their inner products without those with
    themselves (Leemann et al. 2023, arXiv 2206.13872). RMSprop makes its mean
    small, by steps that fall to 0 as a cosine. They are taken in coordinates of the embedding in
    which gradients have unit size and no correlation on average: what comes out does not depend
    on the scales of the embedding, and IMA ends in fewer local minima.

    Jacobians of all rows are kept, N K P numbers; a few hundred rows do.

    Args:
        encode: Any encoder, rows ``(B, ...)`` to embeddings ``(B, K)``; a module is run in eval
            mode. Of a pair of the zoo, :class:`GuideMean`.
        rows: Floating values ``(N, ...)``, such as the encoder was trained on.
        n_directions: Number K' of directions, at most K; K by default.
        kind: ``dma`` or ``ima``.
        attribution: As of :func:`jacobians`.
        steps: Gradient steps.
        batch_size: Rows of a step.
        learning_rate: Of the first step.
        restarts: Starts, of which that with the least loss over all rows is kept: the identity,
            then random rotations. By default 1 for DMA and 5 for IMA.
        chunk: Rows whose Jacobians are taken at a time.
        seed: Of batches, rotations and noise.

    Returns:
        The concepts, in the type and on the device of the Jacobians.

    Raises:
        ValueError: If an option is out of range, a dimension of the embedding has no gradient, or
            its gradients depend on each other; see also :func:`jacobians`.

    Warns:
        UserWarning: Where IMA cannot tell all directions apart, since the gradients of some have
            the same ratio at all rows.
    """
    if kind not in KINDS:
        raise ValueError(unknown("kind", kind, KINDS))
    restarts = STARTS[kind] if restarts is None else restarts
    at_least(steps=(steps, 1), batch_size=(batch_size, 1), restarts=(restarts, 1))
    check_seed(seed)
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate is {learning_rate!r}, expected a number above 0")
    if n_directions is not None:
        at_least(n_directions=(n_directions, 2))
    size = embedding_size(encode, rows, chunk)
    count = size if n_directions is None else n_directions
    if not 2 <= count <= size:
        raise ValueError(
            f"{count} directions of an embedding of {size} dimensions, expected 2 to {size}"
        )
    slopes = jacobians(encode, rows, attribution, chunk, seed)
    gram = _gram(slopes)
    whiten = _whitening(gram.mean(0))
    separation = None
    if kind == "ima":
        separation = float(_gaps(whiten @ gram @ whiten.T).max())
        _warn_if_tied(separation, slopes.dtype, f"at all {len(slopes)} rows")
    generator = torch.Generator().manual_seed(seed)
    runs = []
    for start in range(restarts):
        first = torch.linalg.inv(whiten)[:count]
        if start:
            drawn = torch.randn(size, size, generator=generator, dtype=torch.float64)
            first = torch.linalg.qr(drawn)[0][:count].to(first)
        first = first / first.norm(dim=1, keepdim=True)
        runs.append(
            _descend(slopes, first, whiten, kind, steps, batch_size, learning_rate, generator)
        )
    losses = torch.stack([loss for _, loss, _ in runs])
    best = int(losses.argmin())
    directions, loss, curve = runs[best]
    directions = directions / directions.norm(dim=1, keepdim=True)
    return Concepts(kind, directions, float(loss), losses, curve, count < size, separation, encode)


def closed_form_dma(jacobian: Tensor) -> Tensor:
    """Directions A ``(K, K)`` of an ideal encoder of a disjoint generator, from one point.

    Each column of the encoder's Jacobian is then a multiple of a column of the mixing M: K
    independent columns are all of them, and their inverse is that of M up to order and scale.

    Args:
        jacobian: ``(K, P)`` at one row.

    Raises:
        ValueError: If it is no such matrix, or no K of its columns are independent.
    """
    values = _matrix("jacobian", jacobian)
    scaled = (values / values.norm(dim=1, keepdim=True).clamp_min(1e-300)).cpu().numpy()
    _, upper, chosen = scipy.linalg.qr(scaled, mode="economic", pivoting=True)
    size, diagonal = len(values), abs(upper.diagonal())
    if len(diagonal) < size or not diagonal[-1] > DEPENDENT * diagonal[0]:
        raise ValueError(
            f"the Jacobian of {size} dimensions has fewer independent columns, expected {size}"
        )
    found: Tensor = torch.linalg.inv(values[:, torch.from_numpy(chosen[:size])])
    return found.to(jacobian.dtype)


def closed_form_ima(first: Tensor, second: Tensor) -> OrthogonalSolution:
    """Directions of an ideal encoder of an orthogonal generator, from two points.

    The directions make J J' diagonal at both points: the inverse Cholesky factor of the first
    one, and the eigenvectors of the second one in its coordinates.

    Args:
        first: Jacobian ``(K, P)`` at a row.
        second: At another row.

    Raises:
        ValueError: If these are no such matrices, or their rows depend on each other.

    Warns:
        UserWarning: If two concepts have the same ratio of gradients: any mixture of them is as
            good, and nothing is found of them.
    """
    one, other = _matrix("the first Jacobian", first), _matrix("the second Jacobian", second)
    if one.shape != other.shape:
        raise ValueError(
            f"Jacobians have shapes {tuple(one.shape)} and {tuple(other.shape)}, expected equal"
        )
    lower, _ = (_whitening(jacobian @ jacobian.T) for jacobian in (one, other))
    seen = lower @ (other @ other.T) @ lower.T
    ratios, turned = torch.linalg.eigh((seen + seen.T) / 2)
    _warn_if_tied(float(_gaps(seen)), first.dtype, "at both points")
    return OrthogonalSolution((turned.T @ lower).to(first.dtype), ratios.to(first.dtype))


def concept_alignment(directions: Tensor, mixing: Tensor) -> float:
    """How far each direction of a known mixing is one factor, 0 to 1.

    Of the absolute values of A M, each row as shares, 1 - their mean entropy / log K: 1 where
    each direction is one factor, 0 where each is all of them alike. Order, sign and scale do not
    count. Two directions that are the same factor do not count either: look at A M.

    Args:
        directions: A ``(K', D)``.
        mixing: M ``(D, K)``, of embeddings M z; of a trained encoder, the slopes of a regression
            of its embeddings on factors of unit variance that are independent.

    Raises:
        ValueError: If shapes do not fit, there are fewer than two factors, or a direction has
            nothing of any.
    """
    if directions.dim() != 2 or mixing.dim() != 2 or directions.shape[1] != len(mixing):
        raise ValueError(
            f"directions have shape {tuple(directions.shape)} and the mixing "
            f"{tuple(mixing.shape)}, expected (K', D) and (D, K)"
        )
    at_least(directions=(len(directions), 1), factors=(mixing.shape[1], 2))
    found = (directions.detach().double() @ mixing.detach().to(directions.device).double()).abs()
    total = found.sum(1, keepdim=True)
    if not bool((total > 0).all() and total.isfinite().all()):
        row = int((~((total > 0) & total.isfinite())).nonzero()[0, 0])
        raise ValueError(f"direction {row} times the mixing is 0 or not finite")
    share = found / total
    entropy = -torch.special.xlogy(share, share).sum(1).mean()
    return float(1 - entropy / math.log(found.shape[1]))


def concept_loss(directions: Tensor, slopes: Tensor, kind: str) -> Tensor:
    """The loss of each row ``(B,)``: how far its attributions are from disjoint or orthogonal.

    Args:
        directions: A ``(K', K)``.
        slopes: Jacobians ``(B, K, P)``.
        kind: ``dma`` takes absolute values before anything else, ``ima`` keeps signs.
    """
    seen = directions @ slopes
    sizes = seen.abs()
    # Without this, A = 0 would be the best; an attribution of 0 stays 0, and is in nobody's way.
    total = sizes.sum(-1, keepdim=True).clamp_min(torch.finfo(seen.dtype).tiny)
    shares = (sizes if kind == "dma" else seen) / total
    inner = shares @ shares.mT
    own = torch.eye(len(directions), dtype=torch.bool, device=inner.device)
    found: Tensor = torch.linalg.vector_norm(inner.masked_fill(own, 0.0), dim=(-2, -1))
    return found


def _descend(
    slopes: Tensor,
    first: Tensor,
    whiten: Tensor,
    kind: str,
    steps: int,
    batch_size: int,
    rate: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Directions, their mean loss over all rows, and the loss of each step's batch."""
    whiten = whiten.to(slopes)
    turned = first.to(slopes).requires_grad_()
    optimiser = torch.optim.RMSprop([turned], rate)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    curve = []
    with torch.enable_grad():
        for _ in range(steps):
            index = torch.randint(len(slopes), (batch_size,), generator=generator)
            optimiser.zero_grad()
            loss = concept_loss(turned @ whiten, slopes[index.to(slopes.device)], kind).mean()
            loss.backward()
            optimiser.step()
            fall.step()
            curve.append(loss.detach())
    found = (turned @ whiten).detach()
    loss = torch.cat([concept_loss(found, part, kind) for part in slopes.split(batch_size)]).mean()
    return found, loss, torch.stack(curve)


def _gram(slopes: Tensor) -> Tensor:
    """J J' of each row ``(N, K, K)``, in double precision and one row at a time."""
    return torch.stack([(row := slope.double()) @ row.T for slope in slopes])


def _whitening(gram: Tensor) -> Tensor:
    """The lower triangular W ``(K, K)`` for which W gram W' is the identity.

    Raises:
        ValueError: Naming dimensions without gradient, or how many are independent.
    """
    norm = gram.diagonal().sqrt()
    dead = (norm <= DEAD * norm.max()).nonzero().flatten().tolist()
    if dead:
        raise ValueError(
            f"embedding dimensions {dead} have no gradient by the rows, expected none; leave "
            "them out of the embedding"
        )
    spread = torch.linalg.eigvalsh(gram / norm / norm[:, None])
    if (rank := int((spread > DEPENDENT**2).sum())) < len(gram):
        raise ValueError(
            f"gradients of the embedding's {len(gram)} dimensions have {rank} independent "
            f"directions, expected {len(gram)}; project it to so many"
        )
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    found: Tensor = torch.linalg.solve_triangular(torch.linalg.cholesky(gram), eye, upper=False)
    return found


def _gaps(gram: Tensor) -> Tensor:
    """How far the two nearest eigenvalues ``(..., K, K)`` are apart, relative to the larger."""
    values = torch.linalg.eigvalsh(gram)
    found: Tensor = (values.diff(dim=-1) / values[..., 1:]).amin(-1)
    return found


def _warn_if_tied(separation: float, dtype: torch.dtype, where: str) -> None:
    # Rounding parts equal ratios by some units of the type that they were computed in.
    if separation <= max(TIED, 100 * torch.finfo(dtype).eps):
        warnings.warn(
            f"gradients of two or more directions have the same ratio {where} (apart by "
            f"{separation:.1e}): IMA cannot tell these directions from their mixtures",
            UserWarning,
            stacklevel=3,
        )


def _matrix(what: str, values: Tensor) -> Tensor:
    if values.dim() != 2 or not values.numel() or not bool(values.isfinite().all()):
        raise ValueError(f"{what} has shape {tuple(values.shape)}, expected finite (K, P)")
    return values.detach().double()
