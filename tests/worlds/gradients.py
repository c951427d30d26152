"""Gradients of estimators, once and over many replicates of the same row."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from worlds.linear import LinearPair, draw

from ppl_models.batch import Batch
from ppl_models.inference import Objective

REGIMES = ("unlabelled", "labelled", "mixed")


def batches(pair: LinearPair, regime: str, scale: int, rows: int = 5) -> list[Batch]:
    """Rows of the pair's own story, standing for ``scale`` times as many."""
    made = []
    for place, labelled in enumerate([False, True]):
        if regime in (("unlabelled", "labelled")[labelled], "mixed"):
            x, y = draw(pair, rows + place, seed=3 + place)
            sites = {"x": x, "y": y} if labelled else {"x": x}
            made.append(Batch(sites, size=scale * len(x)))
    return made


def parts_by_hand(pair: LinearPair, batch: Batch, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x, y, z), log q(z | x, y) and log q(y | x), each ``(C or 1, K, B)``, label by label.

    Args:
        pair: The pair.
        batch: The batch.
        z: The draws, in any shape that holds ``(C or 1, K, B, L)``.
    """
    x, rows = batch["x"], batch.count
    labels = [batch["y"]] if "y" in batch else range(pair.config.classes)
    z = z.reshape(len(labels), -1, rows, pair.config.latent)
    net = pair.guide.factors["z"].net
    log_p, log_q = [], []
    for place, label in enumerate(labels):
        y = torch.as_tensor(label).expand(rows)
        loc, scale = pair.posterior_z(x, y)
        q = Normal(loc + net.shift * scale, scale * net.log_widen.exp())
        log_q.append(q.log_prob(z[place]).sum(-1))
        likelihood = Normal(z[place] @ pair.A.T + pair.means[y], pair.noise)
        joint = likelihood.log_prob(x).sum(-1) + pair.prior_logits.log_softmax(0)[y]
        log_p.append(joint + Normal(0.0, 1.0).log_prob(z[place]).sum(-1))
    log_q_y = pair.guide.factors["y"].net(x=x).log_softmax(-1).T.unsqueeze(1)  # C x 1 x B
    if "y" in batch:
        log_q_y = torch.zeros_like(log_q_y[:1])
    return torch.stack(log_p), torch.stack(log_q), log_q_y


def gradient(loss: Tensor, module: nn.Module) -> dict[str, Tensor]:
    """The gradient by name of parameter, zero where there is none."""
    names, parameters = zip(*module.named_parameters(), strict=True)
    grads = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return {
        n: torch.zeros_like(p) if g is None else g
        for n, p, g in zip(names, parameters, grads, strict=True)
    }


def flat(grads: dict[str, Tensor]) -> Tensor:
    """All gradients in one vector."""
    return torch.cat([g.flatten() for g in grads.values()])


def replicated(
    pair: nn.Module, objective: Objective, row: Batch, blocks: int = 40, copies: int = 500
) -> tuple[Tensor, Tensor]:
    """Mean gradient of the loss of one row and its standard error, from blocks of copies."""
    many = Batch({name: v.expand(copies, *v.shape[1:]) for name, v in row.items()})
    torch.manual_seed(0)
    drawn = torch.stack([
        flat(gradient(objective.differentiable_loss(pair.model, pair.guide, many) / copies, pair))
        for _ in range(blocks)
    ])  # fmt: skip
    return drawn.mean(0), drawn.std(0) / blocks**0.5


def largest_z(mean: Tensor, error: Tensor, exact: Tensor) -> float:
    """The largest distance from the exact value in standard errors, over all entries."""
    return float(((mean - exact).abs() / (error + 1e-10)).max())
