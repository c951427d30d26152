"""What all objectives share: terms that add up, per-datum gradients, Pyro's SVI, refusals."""

from __future__ import annotations

import pyro
import pyro.optim
import pytest
import torch
from pyro.infer import SVI
from worlds.linear import ROWS as B, batches, draw, linear

from ppl_models import inference
from ppl_models.batch import Batch
from ppl_models.inference import ELBO, IWELBO, Anneal, Classification, EnumeratedELBO, Evaluation
from ppl_models.inference.diagnostics.tiny_pairs import probe, probe_table


def test_classification_is_in_the_papers_units():
    pair = linear()
    labelled, unlabelled = batches(pair, 10, "mixed")
    loss = Classification("y", 0.1).differentiable_loss(
        pair.model, pair.guide, [labelled, unlabelled]
    )
    log_q = pair.guide.factor("y", labelled).log_prob(labelled["y"])
    total = 10 * B  # alpha N times the mean over labelled rows
    torch.testing.assert_close(loss, -0.1 * total * log_q.mean())


def test_terms_add_up_share_a_trace_and_print_their_formula():
    pair = linear()
    (batch,) = batches(pair, 1, "labelled")
    objective = IWELBO(3) + 2 * Classification("y", 0.5)
    run = Evaluation(pair.model, pair.guide, batch)
    both = objective.rows(run)
    apart = IWELBO(3).rows(run) + 2 * Classification("y", 0.5).rows(run)
    torch.testing.assert_close(both, apart, rtol=0, atol=0)
    assert str(objective) == (
        "log sum_y 1/3 sum_k p(x,y,z_k) / q(z_k|x,y) - (1) KL(q(y|x) || pi)  +  "
        "2 [0.5 (N / N_labelled) log q(y | ...)]"
    )
    assert repr(objective) == ("IWELBO(particles=3) + 2 * Classification('y', weight=0.5)")


def test_lambda_anneals_with_progress():
    objective = IWELBO(2, lam=Anneal(1.0, 0.0, 0.6, 0.8)) + Classification("y")
    seen = []
    for progress in (0.0, 0.5, 0.7, 0.8, 1.0):
        objective.at(progress)
        seen.append(objective.parts[0][1].current_lam)
    assert seen == pytest.approx([1.0, 1.0, 0.5, 0.0, 0.0])


@pytest.mark.parametrize(
    "objective",
    [
        EnumeratedELBO(),
        EnumeratedELBO(kl="analytic") + Classification("y", 0.1),
        IWELBO(3, lam=0.5),
        IWELBO(3, lam=0.5, grad="dreg"),
    ],
    ids=str,
)
@pytest.mark.parametrize("labelled", [True, False])
def test_per_datum_gradients_by_vmap_are_those_of_a_loop(objective, labelled):
    """Noise is the batched one of vmap; the loop gets the same by replaying its draws."""
    pair = linear()
    x, y = draw(pair, B)
    names = [n for n, _ in pair.named_parameters()]

    class Rows(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = pair

        def forward(self, x, y):
            sites = {"x": x[None], "y": y[None]} if labelled else {"x": x[None]}
            batch = Batch(sites, torch.zeros(1, dtype=torch.long), size=B)
            return objective.per_datum(pair.model, pair.guide, batch)[0]

    rows = Rows()
    parameters = {f"pair.{n}": p for n, p in pair.named_parameters()}

    def loss(parameters, x, y):
        return torch.func.functional_call(rows, parameters, (x, y))

    with pyro.validation_enabled(False):
        torch.manual_seed(0)
        batched = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0), randomness="same")(
            parameters, x, y
        )
        for b in range(B):
            torch.manual_seed(0)
            one = torch.func.grad(loss)(parameters, x[b], y[b])
            for name in names:
                torch.testing.assert_close(
                    batched[f"pair.{name}"][b], one[f"pair.{name}"], rtol=1e-8, atol=1e-10
                )


def test_pyros_svi_trains_with_our_objective_and_two_batches():
    pair = linear(dtype=torch.float32)
    mixed = batches(pair, 10, "mixed", torch.float32)
    objective = EnumeratedELBO() + Classification("y", 0.1)
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), loss=objective)
    torch.manual_seed(3)
    losses = [svi.step(mixed) for _ in range(3)]
    pyro.clear_param_store()

    same = linear(dtype=torch.float32)
    adam = torch.optim.Adam(same.parameters(), 0.01)
    torch.manual_seed(3)
    for expected in losses:
        adam.zero_grad()
        loss = objective.differentiable_loss(same.model, same.guide, mixed)
        loss.backward()
        adam.step()
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    for one, other in zip(pair.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_unhandled_sites_are_errors_that_name_them():
    pair = linear()
    (batch,) = batches(pair, 1, "unlabelled")
    with pytest.raises(inference.UnhandledSite, match="'y' is discrete"):
        ELBO().loss(pair.model, pair.guide, batch)

    def poisson(batch):
        with batch.plate():
            pyro.sample("y", pyro.distributions.Poisson(torch.ones(())))

    with pytest.raises(inference.UnhandledSite, match=r"'y' \(Poisson\)"):
        EnumeratedELBO().loss(pair.model, poisson, batch)

    def nothing(batch):
        return None

    with pytest.raises(inference.UnhandledSite, match="'z' is latent in the model"):
        EnumeratedELBO().loss(pair.model, nothing, batch)

    shared = probe("global")
    (numbers,) = probe_table().batches()
    with pytest.raises(inference.UnhandledSite, match="'shared' stands outside the data plate"):
        IWELBO(2, grad="dreg").loss(shared.model, shared.guide, numbers)

    def rescaled(batch):
        with pyro.poutine.scale(scale=0.5):
            pair.model(batch)

    IWELBO(1).loss(rescaled, pair.guide, batch)
    with pytest.raises(ValueError, match="inside the log"):
        IWELBO(2).loss(rescaled, pair.guide, batch)

    # A masked label would count with probability one in a log of several draws.
    keep = torch.arange(batch.count) % 2 == 0
    masked = [pyro.poutine.mask(fn, mask=keep) for fn in (pair.model, pair.guide)]
    for objective in (IWELBO(2), inference.Renyi(2), inference.WakeSleep(2), inference.TMC(2)):
        with pytest.raises(ValueError, match="'y' carries a weight or mask"):
            objective.loss(*masked, batch)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: IWELBO(0), "particles is 0"),
        (lambda: IWELBO(2, lam=-1), "lam is -1"),
        (lambda: IWELBO(2, grad="best"), "grad is 'best'"),
        (lambda: ELBO(kl="exact"), "kl is 'exact'"),
        (lambda: Classification("y", -1), "Classification"),
        (lambda: Anneal(1, 0, 0.9, 0.1), "start"),
    ],
)
def test_options_out_of_range(make, words):
    with pytest.raises(ValueError, match=words):
        make()
