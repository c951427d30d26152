r"""The arithmetic of the bounds: log weights in, one number per row out.

One row x, missing labels y (all enumerated sites together), draws z_{y,k} ~ q(z | x, y) for
k = 1..K, and w_{y,k} = p(x, y, z_{y,k}) / q(z_{y,k} | x, y). With

- :math:`\ell_y = \log \frac1K \sum_k w_{y,k}` and :math:`\pi = \mathrm{softmax}_y(\ell)`,
- :math:`D_K = \mathrm{logsumexp}_y\, \ell_y` and
  :math:`B_K = \sum_y q(y|x)\,[\ell_y - \log q(y|x)]`,

the identity :math:`D_K = B_K + KL(q(y|x)\,\|\,\pi)` holds draw by draw, and
:math:`L_\lambda = D_K - \lambda KL(q(y|x) \| \pi) = (1 - \lambda) D_K + \lambda B_K` is a
lower bound of log p(x) in expectation for every :math:`\lambda \ge 0`.

Shapes: weights are ``(E_1, ..., E_m, K, B)`` with one dimension per enumerated site, any of
which may have size 1 where a tensor does not depend on it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.weights import Weights

PARTICLE_DIM = -2  # dimension of the K draws in a weight tensor; rows are -1


def log_mean_weight(log_w: Tensor, inside: bool = True) -> Tensor:
    r"""Average the K draws: :math:`\log \frac1K \sum_k w_k`, or the mean of log w.

    Args:
        log_w: ``(..., K, B)``.
        inside: Average inside the log (importance weighting) or outside (plain ELBO).

    Returns:
        ``(..., 1, B)``.
    """
    particles = log_w.shape[PARTICLE_DIM]
    if particles == 1:
        return log_w
    if not inside:
        return log_w.mean(PARTICLE_DIM, keepdim=True)
    return torch.logsumexp(log_w, PARTICLE_DIM, keepdim=True) - math.log(particles)


def lambda_bound(ell: Tensor, log_q: Tensor | None, lam: float) -> Tensor:
    r""":math:`L_\lambda` per row.

    Args:
        ell: ``(E..., 1, B)``, :math:`\ell_y`.
        log_q: log q(y | x), ``(E..., 1, B)``; None where no label is missing, and then
            :math:`L_\lambda` is :math:`\ell`.
        lam: :math:`\lambda \ge 0`.

    Returns:
        ``(B,)``.
    """
    if log_q is None:
        return ell.reshape(ell.shape[-1])
    labels = _labels(ell, log_q)
    if lam == 0:
        return torch.logsumexp(ell, labels).squeeze(0)
    q = log_q.exp()
    bound = (q * (ell - log_q)).sum(labels)
    if lam != 1:
        bound = lam * bound + (1 - lam) * torch.logsumexp(ell, labels)
    return bound.squeeze(0)


def mean_bound(log_w: Tensor, log_q: Tensor | None) -> Tensor:
    r"""The lower bound with the draws averaged outside the log.

    :math:`\frac1K \sum_k \sum_y q(y|x,z_k)\,[\log w_{y,k} - \log q(y|x,z_k)]`: where labels
    depend on the draws, each draw is weighted by its own q, so that K does not change the
    expectation.

    Args:
        log_w: ``(E..., K, B)``.
        log_q: Log q of the labels, ``(E..., K or 1, B)``; None where no label is missing.

    Returns:
        ``(B,)``.
    """
    if log_q is None or log_q.shape[PARTICLE_DIM] == 1:
        return lambda_bound(log_mean_weight(log_w, inside=False), log_q, 1.0)
    return (log_q.exp() * (log_w - log_q)).sum(_labels(log_w, log_q)).mean(0)


def label_posterior(ell: Tensor, labels: tuple[int, ...]) -> Tensor:
    r""":math:`\log \pi = \log \mathrm{softmax}_y(\ell)`, jointly over all label dimensions."""
    return ell - torch.logsumexp(ell, labels, keepdim=True)


def plain_coefficients(log_w: Tensor, log_q: Tensor | None, lam: float) -> Tensor:
    r"""How much each log w counts in the gradient: :math:`\partial L_\lambda / \partial \log w`.

    :math:`(1 - \lambda) W_{y,k} + \lambda\, q(y|x)\, W_{k|y}` with W normalised jointly over
    label and draw and :math:`W_{k|y}` within the label.

    Returns:
        ``(E..., K, B)``; sums to one over labels and draws.
    """
    within = torch.softmax(log_w, PARTICLE_DIM)
    if log_q is None:
        return within
    labels = _labels(log_w, log_q)
    q = log_q.exp() * within
    if lam == 1:
        return q
    joint = log_w - torch.logsumexp(log_w, (*labels, PARTICLE_DIM), keepdim=True)
    return (1 - lam) * joint.exp() + lam * q


def dreg_coefficients(
    log_w: Tensor, log_q: Tensor | None, lam: float, shared: tuple[int, ...] = ()
) -> Tensor:
    r"""How much each path through z counts in the doubly reparameterised gradient.

    :math:`(1 - \lambda) W_{y,k}^2 + \lambda\, q(y|x)\, W_{k|y}^2` (Tucker et al. 2019,
    arXiv 1810.04152, extended to labels). The first W must be normalised jointly over label
    and draw: within a label times :math:`\pi_y` is biased. Where one draw serves several
    labels (``shared`` dimensions) its weight is the sum over them, so the square becomes
    :math:`W_{y,k} \sum_{y'} W_{y',k}`.

    Returns:
        ``(E..., K, B)``.
    """
    within = torch.softmax(log_w, PARTICLE_DIM)
    if log_q is None:
        return within.square()
    labels = _labels(log_w, log_q)
    of_label = log_q.exp() * within.square()
    if lam == 1:
        return of_label
    joint = (log_w - torch.logsumexp(log_w, (*labels, PARTICLE_DIM), keepdim=True)).exp()
    of_draw = joint.sum(shared, keepdim=True) if shared else joint
    return (1 - lam) * joint * of_draw + lam * of_label


def _labels(*tensors: Tensor) -> tuple[int, ...]:
    # Dimensions left of (K, B), counted from the right so that they fit every tensor.
    return tuple(range(-max(t.dim() for t in tensors), PARTICLE_DIM))


def check_unscaled(w: Weights) -> None:
    """Raise a ValueError where a site has a weight, or a label a mask, inside a log."""
    if w.rescaled is not None:
        raise ValueError(
            f"site {w.rescaled!r} carries a weight or mask of its own inside the log, which is "
            "no bound; expected only the plate's N / B"
        )


def zero_loss(run: Evaluation) -> Tensor:
    """A loss of zero for each row ``(B,)``, of the kind and on the device of the data."""
    batch = run.batch
    like = next((v for v in batch.values() if v.is_floating_point()), batch.rows)
    return like.new_zeros(batch.count)
