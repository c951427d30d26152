"""The self-normalised bound: labels first, labels last by quadrature, two labels by loops."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal
from worlds.gradients import batches, flat, gradient
from worlds.linear import linear
from worlds.two_labels import Toy, Two, quadrature

from ppl_models.batch import Batch
from ppl_models.inference import (
    ELBO,
    Anneal,
    EnumeratedELBO,
    Evaluation,
    SelfNormalisedELBO,
    supervision,
)

S = 4


@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("logq", ["lme", "jensen"])
def test_with_labels_first_it_is_m2s_bound_plus_the_classifier(logq, scale):
    pair = linear(seed=1)
    unlabelled, labelled = batches(pair, "mixed", scale)

    def loss(objective, batch):
        torch.manual_seed(0)
        return objective.differentiable_loss(pair.model, pair.guide, batch)

    objective = SelfNormalisedELBO(S, logq, alpha=0.3, gamma=2.0)
    log_q_y = pair.guide.factor("y", labelled).log_prob(labelled["y"]).sum()
    for batch, bound, extra, weight in (
        (labelled, ELBO(S), -0.3 * scale * log_q_y, 2.0),
        (unlabelled, EnumeratedELBO(S), 0.0, 1.0),
    ):
        ours, theirs = loss(objective, batch), weight * (loss(bound, batch) + extra)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(flat(gradient(ours, pair)), flat(gradient(theirs, pair)))
        run = Evaluation(pair.model, pair.guide, batch)
        weighed = objective.effective_draws(run)
        torch.testing.assert_close(weighed, torch.full_like(weighed, float(S)))


@pytest.mark.parametrize(("x", "y"), [(0.8, 1.0), (0.8, 0.0)])
def test_with_labels_last_it_tends_to_the_quadrature(x, y):
    toy, repeats = Toy(), 200
    exact, log_q_y, mean_log_v = quadrature(x, y)
    batch = Batch({"x": torch.full((repeats,), x), "y": torch.full((repeats,), y)})

    def bound(particles, logq, alpha=0.0):
        torch.manual_seed(0)
        run = Evaluation(toy.model, toy.guide, batch)
        rows = -SelfNormalisedELBO(particles, logq, alpha).rows(run).detach()
        return float(rows.mean()), float(rows.std() / repeats**0.5)

    lme, error = bound(1000, "lme")
    assert abs(lme - exact) < 0.02 and error < 0.005
    jensen, _ = bound(1000, "jensen")
    assert abs((lme - jensen) - (log_q_y - mean_log_v)) < 0.02
    assert log_q_y - mean_log_v > 0.04  # the two are told apart
    one, error = bound(1, "lme")
    assert one < exact - 4 * error
    assert abs(bound(1000, "lme", alpha=0.5)[0] - (exact + 0.5 * log_q_y)) < 0.02


def test_effective_draws_fall_as_the_label_contradicts_the_guide():
    toy = Toy()
    x, y = torch.tensor([0.8, 0.8, 6.0]), torch.tensor([1.0, 0.0, 0.0])
    torch.manual_seed(0)
    run = Evaluation(toy.model, toy.guide, Batch({"x": x, "y": y}))
    objective = SelfNormalisedELBO(50)
    got = objective.effective_draws(run)
    z = objective.weights(run).guide.nodes["z"]["value"].reshape(50, 3)
    v = torch.sigmoid((1.4 * z - 0.2) * (2 * y - 1))
    torch.testing.assert_close(got, v.sum(0).square() / v.square().sum(0))
    assert got[0] > got[1] > got[2] > 1


@pytest.mark.parametrize("observed", [("y",), ("t",), ("t", "y"), ()])
def test_missing_labels_are_summed_beside_observed_ones(observed):
    torch.manual_seed(0)
    two = Two().double()
    x = torch.tensor([0.3, -1.2], dtype=torch.float64)
    labels = {"t": torch.tensor([2, 0]), "y": torch.tensor([0, 1])}
    batch = Batch({"x": x, **{name: labels[name] for name in observed}})
    run = Evaluation(two.model, two.guide, batch)
    objective = SelfNormalisedELBO(S, alpha=0.2)
    got = objective.rows(run)
    w = objective.weights(run)
    z = w.guide.nodes["z"]["value"].reshape(-1, S, 2)  # t x S x B
    for b in range(2):
        row = {"x": x[b]}
        terms, weights = [], []
        for place, t in enumerate([labels["t"][b]] if "t" in observed else range(3)):
            row["t"] = torch.as_tensor(t)
            log_q_t = two.guide.factor("t", row).log_prob(row["t"])
            for y in [labels["y"][b]] if "y" in observed else range(2):
                row["y"] = torch.as_tensor(y)
                for s in range(S):
                    row["z"] = z[place, s, b : b + 1]
                    log_q_z = two.guide.factor("z", row).log_prob(row["z"])
                    log_q_y = two.guide.factor("y", row).log_prob(row["y"])
                    factors = {"t": log_q_t, "y": log_q_y}
                    log_v = sum((factors[n] for n in observed), torch.zeros(()).double())
                    drawn = sum(factors[n] for n in factors if n not in observed)
                    loc = row["z"].squeeze() + two.means[t, y]
                    log_p = Normal(loc, 1.0).log_prob(x[b]) - torch.tensor(6.0).double().log()
                    log_p = log_p + Normal(0.0, 1.0).log_prob(row["z"]).squeeze()
                    terms.append(log_p - log_q_z - log_q_t - log_q_y)
                    weights.append((log_v + drawn).exp() / S)
        total = sum(weights)
        bound = sum(a * t for a, t in zip(weights, terms, strict=True)) / total
        torch.testing.assert_close(-got[b], bound + 1.2 * total.log())


def test_weights_follow_their_schedules():
    pair, batch = linear(seed=1), batches(linear(seed=1), "labelled", 1)[0]
    objective = SelfNormalisedELBO(S, alpha=Anneal(0.0, 1.0), gamma=Anneal(1.0, 3.0))
    for progress in (0.0, 0.5):
        objective.at(progress)
        both = []
        for bound in (objective, SelfNormalisedELBO(S, alpha=progress, gamma=1 + 2 * progress)):
            torch.manual_seed(0)
            both.append(bound.rows(Evaluation(pair.model, pair.guide, batch)))
        assert torch.equal(*both)


def test_supervision_rate():
    gamma = supervision(0.3, labelled=100, unlabelled=2900)
    assert gamma * 100 / (2900 + gamma * 100) == pytest.approx(0.3)
    assert supervision(100 / 3000, 100, 2900) == pytest.approx(1)
    with pytest.raises(ValueError, match="rate is 1"):
        supervision(1.0, 100, 100)


def test_what_it_cannot_do_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="logq is 'mean'"):
        SelfNormalisedELBO(logq="mean")
    with pytest.raises(ValueError, match="gamma is -1"):
        SelfNormalisedELBO(gamma=-1)
    toy = Toy()
    run = Evaluation(toy.model, lambda batch: toy.guide(batch), Batch({"x": torch.zeros(2)}))
    with pytest.raises(TypeError, match="has no given, no factor"):
        SelfNormalisedELBO(2).rows(run)
