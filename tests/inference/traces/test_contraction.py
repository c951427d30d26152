"""Several labels, in chains and plates, against loops over all their combinations."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from worlds.enumerated import (
    ROWS,
    Bits,
    Chain,
    batch_of,
    elbo_by_loop,
    iwelbo_by_loop,
    same,
    weights_by_loop,
    world,
)

from ppl_models.batch import Batch
from ppl_models.inference import IWELBO, EnumeratedELBO, Evaluation, UnhandledSite

WORLDS = [
    pytest.param(Chain, (), 1, id="chain"),
    pytest.param(Chain, ("a",), 1, id="chain-a-in-model"),
    pytest.param(Bits, (), 2, id="bits"),
    pytest.param(Bits, ("b",), 2, id="bits-in-model"),
    pytest.param(Bits, ("y", "b"), 2, id="label-and-bits-in-model"),
]


@pytest.mark.parametrize("labelled", [False, True], ids=["unlabelled", "labelled"])
@pytest.mark.parametrize("K", [1, 2])
@pytest.mark.parametrize(("kind", "model_only", "nesting"), WORLDS)
def test_enumerated_elbo_is_the_sum_over_all_combinations(kind, model_only, nesting, K, labelled):
    pair = world(kind, model_only)
    batch = batch_of(pair, labelled=labelled)
    run = Evaluation(pair.model, pair.guide, batch, nesting)
    ours = -EnumeratedELBO(K, plate_nesting=nesting).rows(run)
    hand = elbo_by_loop(*weights_by_loop(pair, batch, run.weights(K), K))
    same(ours, hand, pair)


@pytest.mark.parametrize(("K", "lam"), [(1, 0.0), (1, 0.4), (1, 1.0), (3, 0.0)])
@pytest.mark.parametrize(("kind", "model_only", "nesting"), WORLDS)
def test_iwelbo_is_the_sum_over_all_combinations(kind, model_only, nesting, K, lam):
    pair = world(kind, model_only)
    batch = batch_of(pair)
    run = Evaluation(pair.model, pair.guide, batch, nesting)
    ours = -IWELBO(K, lam=lam, distil=0.0, plate_nesting=nesting).rows(run)
    hand = iwelbo_by_loop(*weights_by_loop(pair, batch, run.weights(K), K), lam)
    same(ours, hand, pair)


@pytest.mark.parametrize(("kind", "model_only", "nesting"), WORLDS)
def test_closed_form_kl_is_weighted_over_the_labels_of_its_site(kind, model_only, nesting):
    pair = world(kind, model_only)
    batch = batch_of(pair)
    run = Evaluation(pair.model, pair.guide, batch, nesting)
    objective = EnumeratedELBO(kl="analytic", plate_nesting=nesting)
    w = objective.weights(run)
    hand = elbo_by_loop(*weights_by_loop(pair, batch, w, 1, analytic=True))
    same(-objective.rows(run), hand, pair)


@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize(
    "objective",
    [EnumeratedELBO(plate_nesting=2), IWELBO(2, lam=0.0, distil=0.0, plate_nesting=2)],
    ids=repr,
)
def test_mixed_batches_count_n_over_b_times(objective, scale):
    pair = world(Bits)
    mixed = [batch_of(pair, scale), batch_of(pair, scale, labelled=True)]
    torch.manual_seed(3)
    ours = objective.differentiable_loss(pair.model, pair.guide, mixed)
    torch.manual_seed(3)
    hand = 0.0
    for batch in mixed:
        w = objective.weights(Evaluation(pair.model, pair.guide, batch, 2))
        of = weights_by_loop(pair, batch, w, objective.particles)
        elbo = isinstance(objective, EnumeratedELBO)
        rows = elbo_by_loop(*of) if elbo else iwelbo_by_loop(*of, 0.0)
        hand = hand - scale * rows.sum()
    same(ours, hand, pair, tol=1e-9)


def test_several_draws_inside_the_log_with_lambda_take_the_joint_grid_or_refuse():
    pair = world(Chain)
    batch = batch_of(pair)
    run = Evaluation(pair.model, pair.guide, batch)
    ours = -IWELBO(2, lam=0.4, distil=0.0).rows(run)
    same(ours, iwelbo_by_loop(*weights_by_loop(pair, batch, run.weights(2), 2), 0.4), pair)
    with pytest.raises(UnhandledSite, match=r"'a' \(3 values\), 'b' \(2 values\).* 12 comb"):
        IWELBO(3, lam=0.4, combinations=11).loss(pair.model, pair.guide, batch)
    pair = world(Bits)
    with pytest.raises(UnhandledSite, match="'b' depends on a site that is enumerated inside"):
        IWELBO(3, plate_nesting=2).loss(pair.model, pair.guide, batch_of(pair))


@pytest.mark.parametrize(("kind", "nesting"), [(Chain, 1), (Bits, 2)])
def test_distillation_is_cross_entropy_from_the_joint_posterior(kind, nesting):
    pair = world(kind)
    batch = batch_of(pair)
    run = Evaluation(pair.model, pair.guide, batch, nesting)
    plain, taught = (
        IWELBO(2, lam=0.0, distil=d, plate_nesting=nesting).rows(run) for d in (0.0, 0.7)
    )
    log_w, log_q = weights_by_loop(pair, batch, run.weights(2), 2)
    pi = torch.logsumexp(log_w, 1).softmax(0).detach()
    same(taught - plain, -0.7 * (pi * log_q).sum(0), pair)


# ---- cost and limits ---------------------------------------------------------------------


def test_a_plate_of_many_bits_costs_its_entries():
    """200 bits: 2^201 combinations with the label, four of which meet in one term."""
    pair = world(Bits, (), 200)
    batch = batch_of(pair)
    run = Evaluation(pair.model, pair.guide, batch, 2)
    objective = EnumeratedELBO(plate_nesting=2)
    ours = -objective.rows(run)
    found = run.survey(objective.ask())
    assert {label.name for label in found.largest} == {"y", "b"}
    # Given y the entries are independent: add up bounds of one entry each.
    w, total = objective.weights(run), 0.0
    log_q_y = pair.q_y(x=batch["x"]).log_softmax(-1)
    log_p_y = pair.y.log_softmax(-1)
    for y in range(2):
        b = torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(2, 1, 1)
        own = batch["x"].T
        drawn = w.guide.nodes["w"]["value"][:, min(y, w.guide.nodes["w"]["value"].shape[1] - 1)]
        drawn = drawn.reshape(2, 200, ROWS)
        label = torch.full((200, ROWS), y)
        log_q_b = dist.Bernoulli(logits=pair.q_b(own=own, y=label).squeeze(-1)).log_prob(b)
        loc, log_scale = pair.q_w(own=own, y=label, b=b.expand(2, 200, ROWS)).unbind(-1)
        cost = (
            dist.Bernoulli(logits=pair.to_b[y]).log_prob(b)
            + dist.Normal(0.0, 1.0).log_prob(drawn)
            + dist.Normal(pair.means[y].reshape(2, 1, 1) + drawn, 0.8).log_prob(own)
            - dist.Normal(loc, log_scale.exp()).log_prob(drawn)
            - log_q_b
        )
        inner = (log_q_b.exp() * cost).sum((0, 1))
        total = total + log_q_y[:, y].exp() * (log_p_y[y] - log_q_y[:, y] + inner)
    same(ours, total, pair)


class Switches(torch.nn.Module):
    """A chain of n binary states, each seen through its own entry of x, in the model alone."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n
        self.step, self.means = (torch.nn.Parameter(torch.randn(2, 2)) for _ in range(2))

    def model(self, batch: Batch) -> None:
        logits = self.step[0]
        with batch.plate():
            for t in range(self.n):
                state = pyro.sample(f"s{t}", dist.Categorical(logits=logits))
                logits = self.step[state]
                loc = self.means[0][state]
                pyro.sample(f"x{t}", dist.Normal(loc, 1.0), obs=batch["x"][:, t])

    def guide(self, batch: Batch) -> None:
        return None


@pytest.mark.parametrize("backend", ["torch", "funsor"])
def test_a_long_chain_is_summed_link_by_link(backend):
    """2^20 combinations, the evidence by the forward recursion."""
    pair = world(Switches, 20)
    x = torch.randn(ROWS, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    run = Evaluation(pair.model, pair.guide, Batch({"x": x}))
    step = pair.step.log_softmax(-1)
    alpha = step[:1].expand(ROWS, 2)
    for t in range(20):
        if t:
            alpha = torch.logsumexp(alpha.unsqueeze(-1) + step, 1)
        alpha = alpha + dist.Normal(pair.means[0], 1.0).log_prob(x[:, t : t + 1])
    same(-EnumeratedELBO(backend=backend).rows(run), alpha.logsumexp(-1), pair)


class Together(torch.nn.Module):
    """n binary sites (or one vector of them) that all feed one observation."""

    def __init__(self, n: int, vector: bool = False) -> None:
        super().__init__()
        self.n, self.vector = n, vector
        self.prior, self.weight = (torch.nn.Parameter(torch.randn(n)) for _ in range(2))
        self.q = torch.nn.Linear(1, n)

    def bits(self, logits: torch.Tensor) -> list[torch.Tensor]:
        if self.vector:
            value = pyro.sample("v", dist.Bernoulli(logits=logits).to_event(1))
            return list(value.unbind(-1))
        return [pyro.sample(f"v{j}", dist.Bernoulli(logits=logits[..., j])) for j in range(self.n)]

    def model(self, batch: Batch) -> None:
        with batch.plate():
            loc = sum(w * v for w, v in zip(self.weight, self.bits(self.prior), strict=True))
            pyro.sample("x", dist.Normal(loc, 0.5), obs=batch["x"][:, 0])

    def guide(self, batch: Batch) -> None:
        with batch.plate():
            self.bits(self.q(batch["x"]))

    def by_loop(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        log_w, log_q = [], []
        for v in torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * self.n):
            log_p = dist.Bernoulli(logits=self.prior).log_prob(v).sum()
            log_w.append(log_p + dist.Normal(self.weight @ v, 0.5).log_prob(x[:, 0]))
            log_q.append(dist.Bernoulli(logits=self.q(x)).log_prob(v).sum(-1))
        return torch.stack(log_w).unsqueeze(1), torch.stack(log_q)


@pytest.mark.parametrize("vector", [False, True], ids=["sites", "vector"])
def test_bits_that_meet_in_one_decoder_are_summed_jointly_up_to_a_cap(vector):
    pair = world(Together, 4, vector)
    x = torch.randn(ROWS, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batch = Batch({"x": x})
    log_w, log_q = pair.by_loop(x)
    for objective, hand in (
        (EnumeratedELBO(), elbo_by_loop(log_w, log_q)),
        (IWELBO(1, lam=0.3, distil=0.0), iwelbo_by_loop(log_w, log_q, 0.3)),
    ):
        same(-objective.rows(Evaluation(pair.model, pair.guide, batch)), hand, pair)
    words = r"'v' \(Bernoulli, \(20,\)\).* 4096" if vector else r"'v19' \(2 values\).*=4096"
    large = world(Together, 20, vector)  # refused before any of 2^20 rows exists
    for objective in (EnumeratedELBO(), IWELBO(1, lam=0.0)):
        for _ in range(2):  # also where the answer is known
            with pytest.raises(UnhandledSite, match=words):
                objective.loss(large.model, large.guide, batch)
    with pytest.raises(UnhandledSite, match=r"16 combinations|more than 15 combinations"):
        EnumeratedELBO(combinations=15).loss(pair.model, pair.guide, batch)


class Pairwise(torch.nn.Module):
    """Bits, of which each two are seen together and no three."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def model(self, batch):
        half = torch.full((), 0.5, dtype=torch.float64)
        with batch.plate():
            b = [pyro.sample(f"b{n}", dist.Bernoulli(half)) for n in range(self.bits)]
            for i in range(self.bits):
                for j in range(i):
                    loc = b[i] - 0.3 * b[j] + 0.1 * b[i] * b[j]
                    pyro.sample(f"x{i}_{j}", dist.Normal(loc, 1.5), obs=batch["x"])

    def guide(self, batch):
        third = torch.full((), 0.3, dtype=torch.float64)
        with batch.plate():
            for n in range(self.bits):
                pyro.sample(f"b{n}", dist.Bernoulli(third))


@pytest.mark.parametrize("bits", [3, 6])
def test_products_of_the_contraction_are_refused_by_count(bits):
    """No term has more than four combinations, but a sum over one bit joins all of its terms."""
    pair, count = Pairwise(bits), 2**bits
    batch = Batch({"x": torch.tensor([0.0, 0.7], dtype=torch.float64)})
    log_p = []
    for b in torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * bits):
        loc = torch.stack(
            [b[i] - 0.3 * b[j] + 0.1 * b[i] * b[j] for i in range(bits) for j in range(i)]
        )
        log_p.append(dist.Normal(loc, 1.5).log_prob(batch["x"].unsqueeze(-1)).sum(-1))
    hand = torch.logsumexp(torch.stack(log_p), 0) - math.log(count)
    run = Evaluation(pair.model, pair.guide, batch)
    ours = -IWELBO(1, lam=0.0, distil=0.0, combinations=count).rows(run)
    torch.testing.assert_close(ours, hand, rtol=0, atol=1e-10)
    with pytest.raises(
        UnhandledSite, match=f"'b1' .* have {count} comb.*combinations={count - 1}"
    ):
        IWELBO(1, lam=0.0, combinations=count - 1).loss(pair.model, pair.guide, batch)


def test_a_survey_uses_no_random_numbers():
    pair = world(Chain)
    batch = batch_of(pair)
    objective = EnumeratedELBO(combinations=11)  # 12 in the guide, at most 6 in one term
    losses = []
    for _ in range(2):  # the first surveys, the second knows
        torch.manual_seed(0)
        losses.append(objective.loss(pair.model, pair.guide, batch))
    torch.manual_seed(0)
    assert losses == [EnumeratedELBO().loss(pair.model, pair.guide, batch)] * 2


@pytest.mark.parametrize("backend", ["torch", "funsor"])
def test_entries_of_a_plate_coupled_from_outside_are_refused(backend):
    pair = world(Bits, ("y",))  # all b_j of the guide meet in the model's own y
    with pytest.raises(UnhandledSite, match=r"'b'.*depend on each other"):
        EnumeratedELBO(plate_nesting=2, backend=backend).loss(
            pair.model, pair.guide, batch_of(pair)
        )
    pair = world(Bits)

    def summed(batch: Batch) -> None:
        with batch.plate():
            with pyro.plate("bits", 3, dim=-2):
                b = pyro.sample("b", dist.Bernoulli(pair.y[0].sigmoid()))
            pyro.sample("x", dist.Normal(b, 1.0), obs=batch["x"][:, 0])

    def nothing(batch: Batch) -> None:
        return None

    with pytest.raises(UnhandledSite, match=r"'x' depends on site 'b'.*outside that plate"):
        EnumeratedELBO(plate_nesting=2, backend=backend).loss(summed, nothing, batch_of(pair))


def test_a_masked_row_counts_nothing():
    pair = world(Bits)
    mask = torch.tensor([True, False, True])
    masked = [pyro.poutine.mask(fn, mask=mask) for fn in (pair.model, pair.guide)]
    batch = batch_of(pair)
    torch.manual_seed(0)
    objective = EnumeratedELBO(plate_nesting=2)
    ours = objective.rows(Evaluation(*masked, batch, 2))
    torch.manual_seed(0)
    same(ours, objective.rows(Evaluation(pair.model, pair.guide, batch, 2)) * mask, pair)
