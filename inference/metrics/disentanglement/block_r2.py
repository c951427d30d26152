r"""What each block of a code tells of each known factor: R2 and rank correlation (CITRIS).

One network predicts all factors from a code in which all blocks but one are 0, and from which one
that is; it is trained on one half of the rows and judged on the other. Rows should be independent
of each other, and factors as well: what two factors share a block that holds one of them tells of
both (Lippe et al. 2022, arXiv 2202.03169, section 6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from ppl_models.config import at_least
from ppl_models.networks import Net

RATE = 4e-3


@dataclass(frozen=True)
class BlockScores:
    """How well each factor is predicted from each block.

    Attributes:
        factors: Names of the factors F.
        r2: ``(K + 2, F)``: from block 0, from each of the K others, and from the whole code; 1 is
            exact, 0 no better than the mean, which is also the least that is given.
        spearman: Rank correlations of factor and prediction, likewise, without their sign; means
            over the numbers of a factor of several.
    """

    factors: tuple[str, ...]
    r2: np.ndarray
    spearman: np.ndarray

    def diagonal(self, count: int | None = None) -> float:
        """Mean R2 of each factor from its own block: the i-th factor's is block i.

        Args:
            count: Number of factors that have a block; all by default.
        """
        own = self.r2[1 : len(self.r2) - 1]
        return float(np.diagonal(own)[:count].mean())

    def off_diagonal(self, count: int | None = None) -> float:
        """Mean over blocks, block 0 left out, of the largest R2 of another block's factor.

        Args:
            count: As of :meth:`diagonal`.
        """
        own = self.r2[1 : len(self.r2) - 1, :count].copy()
        np.fill_diagonal(own, 0.0)
        return float(own.max(1).mean())


def block_r2(
    codes: Tensor,
    blocks: Tensor,
    factors: Mapping[str, Tensor],
    count: int | None = None,
    hidden: tuple[int, ...] = (128, 128),
    steps: int = 800,
    batch_size: int = 512,
    seed: int = 0,
) -> BlockScores:
    """Train the predictor and score it.

    Args:
        codes: ``(N, M)``.
        blocks: The block of each dimension ``(M,)``, from 0 to K.
        factors: Values by name, ``(N,)`` or ``(N, size)``; of angles sine and cosine.
        count: Number K of blocks; that of the factors by default.
        hidden: Units of its hidden layers, with tanh between.
        steps: Gradient steps; the rate falls to 0.
        batch_size: Rows of a step.
        seed: Of weights, halves and batches.

    Raises:
        ValueError: If rows are too few or do not fit each other.
    """
    count = len(factors) if count is None else count
    at_least(rows=(len(codes), 4), steps=(steps, 1), batch_size=(batch_size, 1), count=(count, 1))
    for name, value in factors.items():
        if len(value) != len(codes):
            raise ValueError(f"factor {name!r} has {len(value)} rows, the codes {len(codes)}")
    if blocks.shape != codes.shape[1:]:
        raise ValueError(f"blocks have shape {tuple(blocks.shape)}, expected ({codes.shape[1]},)")
    truth = torch.cat([v.reshape(len(v), -1).float() for v in factors.values()], 1)
    owner = np.repeat(np.arange(len(factors)), [v[0].numel() for v in factors.values()])
    seen = torch.arange(count + 1).unsqueeze(-1) == blocks.cpu()
    masks = torch.cat([seen, torch.ones_like(seen[:1])]).float()  # K + 2 x M
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        order = torch.randperm(len(codes))
        codes, truth = codes.detach().cpu().float()[order], truth.cpu()[order]
        half = len(codes) // 2
        codes = (codes - codes[:half].mean(0)) / codes[:half].std(0).clamp(min=1e-8)
        centre, spread = truth[:half].mean(0), truth[:half].std(0).clamp(min=1e-8)
        scaled = (truth - centre) / spread
        net = _trained(codes[:half], scaled[:half], masks, hidden, steps, batch_size)
        with torch.no_grad():
            told = net(code=masks.unsqueeze(1) * codes[half:], mask=masks.unsqueeze(1))
    kept = scaled[half:]
    error = (told - kept).square().mean(1).numpy()
    single = 1 - error / kept.var(0, unbiased=False).clamp(min=1e-12).numpy()
    ranks = _spearman(told.numpy(), kept.numpy())
    shares = [[row[owner == f].mean() for f in range(len(factors))] for row in single]
    return BlockScores(
        tuple(factors),
        np.maximum(np.array(shares), 0.0),
        np.array([[row[owner == f].mean() for f in range(len(factors))] for row in ranks]),
    )


def _trained(
    codes: Tensor, truth: Tensor, masks: Tensor, hidden: tuple[int, ...], steps: int, size: int
) -> nn.Module:
    sizes = {"code": codes.shape[1], "mask": codes.shape[1]}
    net = Net(sizes, hidden, truth.shape[1], "tanh")
    adam = torch.optim.Adam(net.parameters(), RATE)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        rows = torch.randint(len(codes), (size,))
        mask = masks[torch.randint(len(masks), (size,))]
        loss = (net(code=mask * codes[rows], mask=mask) - truth[rows]).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        fall.step()
    return net


def _spearman(told: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Rank correlations ``(masks, numbers)``, without their sign; 0 of constants."""
    one, other = rankdata(told, axis=1), rankdata(kept, axis=0)
    one, other = one - one.mean(1, keepdims=True), other - other.mean(0)
    norm = np.sqrt((one**2).sum(1) * (other**2).sum(0))
    found: np.ndarray = np.abs((one * other).sum(1)) / np.maximum(norm, 1e-12)
    return found
