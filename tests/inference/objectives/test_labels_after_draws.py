"""Labels drawn after the code they hang on, and labels that the model alone has."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from worlds.linear import draw, linear

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.inference import Capacity, EnumeratedELBO, Evaluation, Renyi, UnhandledSite

C, B = 4, 3


def after_the_draw():
    """A pair whose guide draws the code first and the label given it, and some rows."""
    pair = linear()
    pair.guide = guides.Factored(
        z=guides.Normal(2, {"x": 3}, (5,)), y=guides.Categorical(C, {"x": 3, "z": 2}, (5,))
    ).double()
    with torch.no_grad():
        for parameter in pair.guide.parameters():
            parameter.mul_(3)  # labels that depend on the draw
    return pair, draw(pair, B)[0]


def by_hand(pair, run, power):
    """1/(1-alpha) log of the mean over draws, or at 0 the mean of logs, label by label."""
    w = run.weights(8)
    z = w.guide.nodes["z"]["value"]  # K x 1... x B x L
    z = z.reshape(-1, B, 2)
    x = run.batch["x"]
    terms, log_q = [], []
    for y in range(C):
        prior = pair.prior_logits.log_softmax(0)[y] + dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
        loc = z @ pair.A.T + pair.means[y]
        log_p = prior + dist.Normal(loc, pair.noise).log_prob(x).sum(-1)
        q_z = pair.guide.factor("z", {"x": x}).log_prob(z)
        q_y = pair.guide.factor("y", {"x": x, "z": z}).logits.log_softmax(-1)[..., y]
        terms.append(log_p - q_z - q_y)
        log_q.append(q_y)
    log_w, q = torch.stack(terms), torch.stack(log_q)
    if power == 0:
        return (q.exp() * log_w).sum(0).mean(0)
    return ((q + power * log_w).logsumexp((0, 1)) - math.log(8)) / power


@pytest.mark.parametrize(
    ("objective", "power"),
    [
        (EnumeratedELBO(8), 0),
        (EnumeratedELBO(8, backend="funsor"), 0),
        (EnumeratedELBO(8, chunk=3), 0),
        (Renyi(8, 1.0), 0),
        (Renyi(8, 0.5), 0.5),
        (Renyi(8, -1.0), 2.0),
    ],
    ids=repr,
)
def test_each_draw_is_weighted_by_its_own_labels(objective, power):
    """Else more draws change the bound: it tends to that of q(z|x) times the mean of q(y|x,z)."""
    if getattr(objective, "backend", "torch") == "funsor":
        pytest.importorskip("funsor")
    pair, x = after_the_draw()
    run = Evaluation(pair.model, pair.guide, Batch({"x": x}))
    torch.manual_seed(0)
    expected = by_hand(pair, run, power)
    torch.manual_seed(0)
    found = -objective.rows(Evaluation(pair.model, pair.guide, Batch({"x": x})))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "objective",
    [
        EnumeratedELBO(beta=0.5),
        EnumeratedELBO(beta={"z": 0.5}),
        EnumeratedELBO(free_bits=0.5),
        EnumeratedELBO(kl="analytic"),
        Capacity("z", 1.0, 1.0),
    ],
    ids=repr,
)
def test_a_prior_that_depends_on_a_label_of_the_model_alone_has_no_kl(objective):
    """KL(q(z|x) || p(z|c)) is not a number per row while c is summed inside the log."""
    means = torch.tensor([[0.0, 1.0], [2.0, -1.0], [1.0, 1.0]])

    def model(batch: Batch) -> None:
        with batch.plate():
            weights = dist.Categorical(means.new_ones(3))
            c = pyro.sample("c", weights, infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(means[c], 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=batch["x"])

    guide = guides.Factored(z=guides.Normal(2, {"x": 2}))
    batch = Batch({"x": torch.ones(B, 2)})
    with pytest.raises(UnhandledSite, match="site 'z' depends on site 'c'"):
        objective.differentiable_loss(model, guide, batch)
