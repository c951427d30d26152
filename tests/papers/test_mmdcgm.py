"""mmDCGM: its loss by hand, M2 as a special case, and its sites by name."""

from __future__ import annotations

import pytest
import torch
from worlds.enumerated import same

import ppl_models as zoo
from ppl_models import Batch, data, inference

SMALL = {"data_dim": 6, "classes": 3, "latent": 2, "hidden": (5,)}
WEIGHTS = {
    "st_weight": 0.02, "alpha": 0.5, "hinge": 2.0, "hat": 0.7, "balance": 0.4, "decay": 0.1,
    "margin": 1.5,
}  # fmt: skip


def built(**settings):
    return zoo.build("mmdcgm", seed=1, **SMALL, **settings).double()


def batches(regime: str, scale: int) -> list[Batch]:
    g = torch.Generator().manual_seed(2)
    made, counts = [], {"labelled": [4], "unlabelled": [7], "mixed": [4, 7]}[regime]
    observed = {"x": scale * sum(counts), "y": scale * 4 * (4 in counts)}
    for rows in counts:
        sites = {"x": torch.rand(rows, 6, generator=g, dtype=torch.float64)}
        if rows == 4:
            sites["y"] = torch.tensor([2, 0, 0, 1])
        made.append(Batch(sites, size=scale * rows, total=observed["x"], observed=observed))
    return made


def bound_by_hand(pair, x, y, noise):
    """log p(x, y, z) - log q(z | x, y) with the KL in closed form, labels as vectors."""
    q = pair.guide.factor("z", {"x": x, "y": y}).base_dist
    kl = 0.5 * (q.scale.square() + q.loc.square() - 1).sum(-1) - q.scale.log().sum(-1)
    p = pair.decoder(z=q.loc + q.scale * noise, y=y).sigmoid()
    fit = (x * p.log() + (1 - x) * (1 - p).log()).sum(-1)
    return fit - kl - torch.log(torch.tensor(3.0).double())


@pytest.mark.parametrize("regime", ["labelled", "unlabelled", "mixed"])
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("unlabelled", ["argmax", "enumerate"])
def test_the_loss_is_that_by_hand(regime, scale, unlabelled):
    """N times: mean -bound + alpha (hinge + hat + balance + decay), each a mean over its rows."""
    pair, parts = built(missing=unlabelled, **WEIGHTS), batches(regime, scale)
    torch.manual_seed(0)
    ours = pair.objective().differentiable_loss(pair.model, pair.guide, parts)
    torch.manual_seed(0)
    net = pair.guide.factors["y"].net
    matrices = (net.first.weights["x"], net.rest[1].weight)
    extra = 0.1 * sum(w.square().sum() for w in matrices)
    hand, means = torch.zeros((), dtype=torch.float64), {}
    total = sum(batch.size for batch in parts)
    for batch in parts:
        x, n, labelled = batch["x"], batch.count, "y" in batch
        scores = net(x=x)
        onehot = torch.eye(3).double()[batch["y"] if labelled else scores.argmax(-1)]
        if unlabelled == "argmax":
            p = scores.softmax(-1)
            y = onehot + 0.02 * (p - p.detach())
            bound = bound_by_hand(pair, x, y, torch.randn(n, 2, dtype=torch.float64))
        elif labelled:
            bound = bound_by_hand(pair, x, onehot, torch.randn(n, 2, dtype=torch.float64))
        else:
            log_q, noise = scores.log_softmax(-1), torch.randn(3, n, 2, dtype=torch.float64)
            classes = torch.eye(3).double().unsqueeze(1).expand(3, n, 3)
            each = [bound_by_hand(pair, x, y, e) for y, e in zip(classes, noise, strict=True)]
            bound = (log_q.exp() * (torch.stack(each, -1) - log_q)).sum(-1)
        hand = hand - scale * bound.sum()
        own = (scores * onehot).sum(-1, keepdim=True)
        hinge = torch.relu(scores - own + 1.5 * (1 - onehot)).max(-1).values.mean()
        extra = extra + (2.0 if labelled else 0.7) * hinge
        means[labelled] = (scores * onehot).mean(0)
    if len(means) == 2:
        extra = extra + 0.4 * (means[True] - means[False]).norm()
    same(ours, hand + 0.5 * total * extra, pair, tol=1e-8)


@pytest.mark.parametrize("regime", ["labelled", "unlabelled", "mixed"])
def test_with_labels_summed_out_and_without_margins_it_is_m2(regime):
    pair, parts = built(missing="enumerate", alpha=0.0), batches(regime, 10)
    m2 = zoo.build("m2", seed=1, alpha=0.3, **SMALL).double()
    bound = pair.objective() + inference.Classification("y", 0.3)
    losses = []
    for one, objective in ((pair, bound), (m2, m2.objective())):
        torch.manual_seed(0)
        losses.append(objective.differentiable_loss(one.model, one.guide, parts))
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)


def test_the_bound_moves_the_classifier_by_its_weight_alone():
    """Twice the weight, twice the gradient; none at weight 0, nor with the margins off."""
    (batch,) = batches("unlabelled", 1)
    grads = []
    for weight in (0.0, 1e-3, 2e-3):
        pair = built(st_weight=weight, alpha=0.0)
        torch.manual_seed(0)
        loss = pair.objective().differentiable_loss(pair.model, pair.guide, batch)
        parameters = list(pair.guide.factors["y"].parameters())
        grads.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    assert not bool(grads[0].any())
    assert bool(grads[1].any())
    torch.testing.assert_close(grads[2], 2 * grads[1], rtol=1e-10, atol=0)


def test_sites_come_out_by_name_and_classes_can_be_asked_for():
    pair = built()
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(20, 6, generator=g, dtype=torch.float64), torch.arange(20) % 3
    rows = data.Table("t", {"x": x, "y": y}, classes={"y": ("a", "b", "c")})
    scores = pair.guide.factors["y"].net(x=x)
    error = float((scores.argmax(-1) != y).double().mean())
    assert inference.error(pair, rows) == pytest.approx(error, abs=1e-12)
    run = inference.fit(pair, rows, epochs=1, learning_rate=0.0, progress=False)
    idata = run.posterior(rows)
    assert list(idata.variational["y_class"].values) == ["a", "b", "c"]
    assert {"y", "z"} <= set(idata.posterior)
    batch = Batch({"x": x})
    redrawn = [pair.intervene(batch, y=c) for c in range(3)]
    for c, found in enumerate(redrawn):
        z, label = found["z"], torch.full((20,), c)
        expected = pair.decoder(z=z, y=label).sigmoid()
        torch.testing.assert_close(found["x"], expected)
