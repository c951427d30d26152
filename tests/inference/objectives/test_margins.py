"""Margins against loops over classes, and the bounds that go with them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from worlds.enumerated import same

import ppl_models as zoo
from ppl_models import Batch, guides
from ppl_models.inference import (
    ELBO,
    Anneal,
    Balance,
    EnumeratedELBO,
    Evaluation,
    Hat,
    Hinge,
    Imputed,
    LeftOut,
    StopGradient,
    Weighted,
)
from ppl_models.inference.objectives.margins import multiclass_hinge
from ppl_models.networks import Label

SMALL = {"data_dim": 6, "classes": 3, "latent": 2, "hidden": (5,)}
REGIMES = ("labelled", "unlabelled", "mixed")


def built(name="mmdcgm", **settings):
    return zoo.build(name, seed=1, **SMALL, **settings).double()


def batches(regime: str, scale: int = 1) -> list[Batch]:
    """4 labelled rows and 7 others, each standing for ``scale`` rows."""
    g = torch.Generator().manual_seed(2)
    made, counts = [], {"labelled": [4], "unlabelled": [7], "mixed": [4, 7]}[regime]
    total, seen = scale * sum(counts), scale * (4 if regime != "unlabelled" else 0)
    for rows in counts:
        sites = {"x": torch.rand(rows, 6, generator=g, dtype=torch.float64)}
        if rows == 4:
            sites["y"] = torch.tensor([2, 0, 0, 1])
        observed = {"x": total, "y": seen}
        made.append(Batch(sites, size=scale * rows, total=total, observed=observed))
    return made


def scores_of(pair, batch):
    return pair.guide.factors["y"].net(x=batch["x"])


def told(pair, batch):
    return batch["y"] if "y" in batch else scores_of(pair, batch).argmax(-1)


def hinge_by_loop(scores, labels, margin):
    rows = []
    for s, y in zip(scores, labels.tolist(), strict=True):
        others = [margin + s[j] - s[y] for j in range(len(s)) if j != y]
        rows.append(torch.relu(torch.stack(others)).max())
    return torch.stack(rows)


def loss(objective, pair, parts):
    torch.manual_seed(0)
    return objective.differentiable_loss(pair.model, pair.guide, parts)


@pytest.mark.parametrize("margin", [0.0, 1.0, 3.0])
def test_hinge_is_crammer_and_singers(margin):
    g = torch.Generator().manual_seed(0)
    scores = 2 * torch.randn(200, 4, generator=g, dtype=torch.float64)
    labels = torch.arange(200) % 4
    got = multiclass_hinge(scores, torch.eye(4).double()[labels], margin)
    torch.testing.assert_close(got, hinge_by_loop(scores, labels, margin), rtol=1e-14, atol=0)
    won = scores.argmax(-1) == labels
    assert bool((got >= 0).all())
    assert bool((got[~won] > margin).all())  # above the 0-1 loss times the margin
    # Without a margin the rows that are right cost nothing.
    assert margin or torch.equal(got == 0, won)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("scale", [1, 10])
def test_terms_are_the_loops_in_their_units(regime, scale):
    """N times the weight times the mean over the term's own kind of rows."""
    pair, parts = built(), batches(regime, scale)
    rows = sum(b.size for b in parts)
    for term, seen, weight, margin in ((Hinge, True, 2.0, 3.0), (Hat, False, 0.5, 0.7)):
        hand = torch.zeros((), dtype=torch.float64)
        for batch in parts:
            if ("y" in batch) == seen:
                hinges = hinge_by_loop(scores_of(pair, batch), told(pair, batch), margin)
                hand = hand + rows * weight * hinges.mean()
        got = loss(term("y", weight, margin), pair, parts)
        if not hand.requires_grad:
            assert float(got) == 0
        else:
            same(got, hand, pair, tol=1e-10)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("scale", [1, 10])
def test_balance_compares_the_two_kinds_of_rows(regime, scale):
    pair, parts = built(), batches(regime, scale)
    got = loss(Balance("y", 0.3) + EnumeratedELBO(), pair, parts)
    plain = loss(EnumeratedELBO(), pair, parts)
    if regime != "mixed":
        torch.testing.assert_close(got, plain, rtol=1e-14, atol=0)
        return
    means = []
    for batch in parts:
        mean = [torch.zeros(()).double()] * 3
        for s, y in zip(scores_of(pair, batch), told(pair, batch).tolist(), strict=True):
            mean[y] = mean[y] + s[y] / batch.count
        means.append(torch.stack(mean))
    hand = 110 / 10 * scale * 0.3 * (means[0] - means[1]).square().sum().sqrt()
    same(got - plain, hand, pair, tol=1e-8)


@pytest.mark.parametrize("wrap", [lambda t: Weighted(t), lambda t: LeftOut(t, "y")])
def test_what_spans_the_rows_survives_a_wrapper(wrap):
    pair, parts = built(), batches("mixed")
    same(loss(wrap(Balance("y")), pair, parts), loss(Balance("y"), pair, parts), pair)


def test_what_spans_the_rows_can_be_stopped():
    pair, parts = built(), batches("mixed")
    stopped = StopGradient(Balance("y"), pair.guide.factors["y"], missing="y")
    # Beside a term that has scored the same rows with gradient.
    got, hinge = loss(Hinge("y") + stopped, pair, parts), loss(Hinge("y"), pair, parts)
    same(got, hinge + loss(Balance("y"), pair, parts).detach(), pair)


def test_weights_follow_their_schedule():
    pair, (batch,) = built(), batches("labelled")
    run = Evaluation(pair.model, pair.guide, batch)
    term = Hinge("y", Anneal(0.0, 4.0))
    for progress, weight in ((0.0, 0.0), (0.5, 2.0), (1.0, 4.0)):
        term.at(progress)
        torch.testing.assert_close(term.rows(run), Hinge("y", weight).rows(run))


def test_a_satisfied_margin_sends_no_gradient_at_all():
    pair, (batch,) = built(), batches("labelled")
    with torch.no_grad():
        best = scores_of(pair, batch).argmax(-1)
        gap = scores_of(pair, batch).topk(2).values.diff().abs().min()
    batch = batch.replace({**batch, "y": best})
    for margin, silent in ((0.9 * float(gap), True), (100.0, False)):
        term = loss(Hinge("y", 5.0, margin), pair, batch)
        grads = torch.autograd.grad(term, list(pair.guide.factors["y"].parameters()))
        assert all(not g.any() for g in grads) == silent


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("weight", [0.0, 0.01])
def test_straight_through_gradient_is_that_by_hand(regime, scale, weight):
    """The bound's gradient for the one-hot label, pulled back through w softmax(s)."""
    pair, parts = built(), batches(regime, scale)
    torch.manual_seed(0)
    hand, value = [], torch.zeros((), dtype=torch.float64)
    classifier = list(pair.guide.factors["y"].parameters())
    for batch in parts:
        y = torch.eye(3).double()[told(pair, batch)].requires_grad_()
        noise = torch.randn(batch.count, 2, dtype=torch.float64)
        q = pair.guide.factor("z", {"x": batch["x"], "y": y}).base_dist
        z = q.loc + q.scale * noise
        kl = 0.5 * (q.scale.square() + q.loc.square() - 1 - q.scale.square().log()).sum(-1)
        fit = pair.likelihood(pair.decoder(y=y, z=z)).log_prob(batch["x"])
        part = scale * (kl - fit + torch.log(torch.tensor(3.0).double())).sum()
        value = value + part
        (g,) = torch.autograd.grad(part, y, retain_graph=True)
        p = scores_of(pair, batch).softmax(-1)
        hand.append(torch.autograd.grad(weight * (g * p).sum(), classifier, allow_unused=True))
    got = loss(Imputed(ELBO(kl="analytic"), "y", weight), pair, parts)
    torch.testing.assert_close(got, value, rtol=1e-12, atol=0)
    other = [q for n, q in pair.named_parameters() if "factors.y" not in n]
    for ours, theirs in zip(
        torch.autograd.grad(got, other, retain_graph=True),
        torch.autograd.grad(value, other),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    ours = torch.autograd.grad(got, classifier)
    for place, grad in enumerate(ours):
        torch.testing.assert_close(grad, sum(h[place] for h in hand), rtol=1e-9, atol=1e-12)
        assert bool(grad.any()) == (weight > 0)


def test_imputed_labelled_rows_are_those_of_the_bound():
    pair, (batch,) = built(), batches("labelled", 10)
    same(loss(Imputed(ELBO(), "y", 0.0), pair, batch), loss(ELBO(), pair, batch), pair)


@pytest.mark.parametrize("classes", [3, 9])
def test_imputed_labels_copy_nothing_per_class(classes):
    pair = zoo.build("mmdcgm", **{**SMALL, "classes": classes}).double()
    largest: dict[str, int] = {}

    def note(name, site):
        def hook(module, args, kwargs, out):
            largest[name, site] = max(largest.get((name, site), 0), out.shape[:-1].numel())

        return hook

    networks = {"decoder": pair.decoder, "z": pair.guide.factors["z"].net}
    handles = {}
    for objective, rows in ((pair.objective(), 7), (EnumeratedELBO(), 7 * classes)):
        for name, net in networks.items():
            handles[name] = net.register_forward_hook(note(name, rows), with_kwargs=True)
        loss(objective, pair, batches("unlabelled")).backward()
        for name in networks:
            handles[name].remove()
            assert largest[name, rows] == rows


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("scale", [1, 10])
def test_a_site_left_out_is_summed_out(regime, scale):
    """The label is the story's last, so the bound of log p(x) is the one without it."""
    pair, parts = built("mmdgm"), batches(regime, scale)
    vae = zoo.build("vae", data_dim=6, latent=2, hidden=(5,)).double()
    vae.decoder = pair.decoder
    vae.guide = guides.Factored(z=pair.guide.factors["z"])
    plain = [b.only("x") for b in parts]
    got = loss(LeftOut(ELBO(), "y"), pair, parts)
    torch.testing.assert_close(got, loss(ELBO(), vae, plain), rtol=0, atol=0)


class Unscored(nn.Module):
    """A guide whose label has another factor, or none."""

    def __init__(self, **factors):
        super().__init__()
        self.guide = guides.Factored(z=guides.Normal(2, {"x": 6}, (3,)), **factors)


def test_what_has_no_scores_is_refused():
    (batch,) = batches("labelled")
    for pair, got in (
        (Unscored(), "NoneType"),
        (Unscored(y=guides.Bernoulli({"x": 6}, (3,))), "Bernoulli"),
    ):
        pair.double()
        for term in (Hinge("y"), Imputed(ELBO(), "y")):
            with pytest.raises(ValueError, match=rf"scores of the label 'y'.*got {got}"):
                term.rows(Evaluation(None, pair.guide, batch))


def test_a_label_read_off_a_code_is_scored_at_the_codes_mean():
    (batch,) = batches("labelled")
    net = guides.Categorical(3, {"z": 2, "w": Label(2)}, (4,))
    pair = Unscored(y=net).double()
    batch = batch.replace({**batch, "w": torch.tensor([0, 1, 1, 0])})
    z = pair.guide.factor("z", batch).mean
    scores = net.net(z=z, w=batch["w"])
    got = Hinge("y", 1.0, 2.0).rows(Evaluation(None, pair.guide, batch))
    torch.testing.assert_close(got, hinge_by_loop(scores, batch["y"], 2.0))


def test_terms_are_printed_and_checked():
    terms = (Hinge("y", 15, 3), Hat("y", Anneal(0, 1)), Balance("y", 0.1))
    assert [str(term) for term in terms] == [
        "-15 (N / N_labelled) max_j[3 1(j != y) + s_j - s_y]",
        "-(0 -> 1) (N / N_unlabelled) max_j[1 1(j != y^) + s_j - s_y^], y^ = argmax s",
        "-0.1 |mean_labelled s 1_y - mean_unlabelled s 1_argmax|",
    ]
    assert repr(terms[0]) == "Hinge('y', weight=15, margin=3)"
    bound = ELBO()
    assert str(LeftOut(bound, "y")) == f"{bound.formula} without y"
    assert str(Imputed(bound, "y")).endswith(" at y or argmax s(y), straight through 0.0003")
    for make, words in (
        (lambda: Hinge("y", -1.0), r"weight of Hinge\('y'\) is -1"),
        (lambda: Hat("y", -1.0), r"weight of Hat\('y'\) is -1"),
        (lambda: Hinge("y", 1.0, -2.0), r"margin of Hinge\('y'\) is -2"),
        (lambda: Balance("y", -1.0), r"weight of Balance\('y'\) is -1"),
        (lambda: Imputed(bound, "y", -1.0), r"weight of Imputed\('y'\) is -1"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
