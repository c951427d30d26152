"""Tensor Monte Carlo against loops over all combinations and against a known evidence."""

from __future__ import annotations

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal
from worlds.enumerated import same, world

from ppl_models.batch import Batch
from ppl_models.inference import IWELBO, TMC, Evaluation, UnhandledSite

ROWS = 3


class Steps(torch.nn.Module):
    """y -> z1 -> z2 -> z3 -> x, linear and Gaussian given y; q(z2 | z1), q(z3 | z1, z2)."""

    def __init__(self, label: bool = False) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor([0.9, -0.7, 0.8]))
        self.shift = torch.nn.Parameter(torch.tensor([0.2, 0.5]))
        self.prior = torch.nn.Parameter(torch.tensor([0.3, -0.2]))
        self.q = torch.nn.Parameter(torch.tensor([0.3, 0.5, -0.3, 0.2, 0.4, -0.1, -0.2]))
        self.label = label

    def model(self, batch: Batch) -> None:
        zero = self.a.new_zeros(())
        with batch.plate():
            loc = zero
            if self.label:
                prior = dist.Categorical(logits=self.prior)
                loc = self.shift[pyro.sample("y", prior, obs=batch.get("y"))]
            z1 = pyro.sample("z1", dist.Normal(loc, 1.0))
            z2 = pyro.sample("z2", dist.Normal(self.a[0] * z1, 0.7))
            z3 = pyro.sample("z3", dist.Normal(self.a[1] * z2, 0.6))
            pyro.sample("x", dist.Normal(self.a[2] * z3, 0.5), obs=batch.get("x"))

    def guide(self, batch: Batch) -> None:
        x, q = batch["x"], self.q
        with batch.plate():
            y = batch.get("y", x.new_zeros(()))
            if self.label and "y" not in batch:
                y = pyro.sample("y", dist.Categorical(logits=torch.stack([x, -x], -1) * q[5]))
            z1 = pyro.sample("z1", dist.Normal(q[0] * x + q[5] * y, 1.1))
            z2 = pyro.sample("z2", dist.Normal(q[1] * z1 + q[2] * x, 0.9))
            pyro.sample("z3", dist.Normal(q[3] * z1 + q[4] * z2 + q[6] * x, 0.8))

    def log_evidence(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a.detach()
        variance = a[2] ** 2 * (a[1] ** 2 * (a[0] ** 2 + 0.49) + 0.36) + 0.25
        return Normal(0.0, variance.sqrt()).log_prob(x)


def rows_of(pair: Steps, scale: int = 1, labelled: bool = False) -> Batch:
    x = torch.randn(ROWS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sites = {"x": x, "y": torch.tensor([0, 1, 1])} if labelled else {"x": x}
    return Batch(sites, size=scale * ROWS)


def ell_by_loop(pair: Steps, batch: Batch, z: dict[str, torch.Tensor], y) -> torch.Tensor:
    """log of the mean of K^3 weights; each z is (K, B) at a label y (B,)."""
    x, q, a, K = batch["x"], pair.q, pair.a, len(z["z1"])
    z1, z2, z3 = z["z1"], z["z2"], z["z3"]
    first = pair.shift[y] if pair.label else x.new_zeros(())
    terms = []
    for i, j, k in itertools.product(range(K), repeat=3):
        log_p = (
            Normal(first, 1.0).log_prob(z1[i])
            + Normal(a[0] * z1[i], 0.7).log_prob(z2[j])
            + Normal(a[1] * z2[j], 0.6).log_prob(z3[k])
            + Normal(a[2] * z3[k], 0.5).log_prob(x)
        )
        of_z2 = [Normal(q[1] * z1[m] + q[2] * x, 0.9).log_prob(z2[j]) for m in range(K)]
        of_z3 = [
            Normal(q[3] * z1[m] + q[4] * z2[m] + q[6] * x, 0.8).log_prob(z3[k]) for m in range(K)
        ]
        log_q = Normal(q[0] * x + q[5] * y, 1.1).log_prob(z1[i])
        for mixture in (of_z2, of_z3):
            log_q = log_q + torch.logsumexp(torch.stack(mixture), 0) - math.log(K)
        terms.append(log_p - log_q)
    return torch.logsumexp(torch.stack(terms), 0) - 3 * math.log(K)


def draws(objective: TMC, run: Evaluation) -> dict[str, torch.Tensor]:
    """The draws by site, (labels, K, B)."""
    guide = objective.weights(run).guide
    return {
        n: guide.nodes[n]["value"].reshape(-1, objective.particles, ROWS)
        for n in ("z1", "z2", "z3")
    }


@pytest.mark.parametrize("K", [1, 4])
def test_it_is_the_average_over_all_combinations(K):
    pair = world(Steps)
    batch = rows_of(pair)
    run = Evaluation(pair.model, pair.guide, batch)
    objective = TMC(K)
    z = {n: v[0] for n, v in draws(objective, run).items()}
    hand = ell_by_loop(pair, batch, z, torch.zeros(ROWS, dtype=torch.long))
    same(-objective.rows(run), hand, pair)


@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("labelled", [False, True], ids=["unlabelled", "labelled"])
@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_labels_are_summed_out_exactly(lam, labelled, scale):
    pair = world(Steps, True)
    batch = rows_of(pair, scale, labelled)
    objective = TMC(3, lam=lam, distil=0.5)
    torch.manual_seed(2)
    ours = objective.differentiable_loss(pair.model, pair.guide, batch)
    torch.manual_seed(2)
    z = draws(objective, Evaluation(pair.model, pair.guide, batch))
    log_prior = pair.prior.log_softmax(-1)
    if labelled:
        y = batch["y"]
        hand = -(log_prior[y] + ell_by_loop(pair, batch, {n: v[0] for n, v in z.items()}, y))
    else:
        of = [{n: v[c] for n, v in z.items()} for c in range(2)]
        label = [torch.full((ROWS,), c) for c in range(2)]
        ell = torch.stack(
            [log_prior[c] + ell_by_loop(pair, batch, of[c], label[c]) for c in range(2)]
        )
        x = batch["x"]
        log_q = (torch.stack([x, -x]) * pair.q[5]).log_softmax(0)
        log_pi = ell.log_softmax(0)
        hand = -torch.logsumexp(ell, 0) + lam * (log_q.exp() * (log_q - log_pi)).sum(0)
        hand = hand - 0.5 * (1 - lam) * (log_pi.exp().detach() * log_q).sum(0)
    same(ours, scale * hand.sum(), pair, tol=1e-9)


def bounds_at_one_x(objective, n: int = 40_000) -> tuple[torch.Tensor, float]:
    """The bound at n draws for the same x, and log p(x)."""
    pair = world(Steps)
    batch = Batch({"x": torch.full((n,), 0.9, dtype=torch.float64)})
    with torch.no_grad(), pyro.validation_enabled(False):
        torch.manual_seed(0)
        bound = -objective.rows(Evaluation(pair.model, pair.guide, batch))
    return bound, float(pair.log_evidence(batch["x"][:1]))


def bias(objective) -> tuple[float, float]:
    """Relative bias of exp(bound) and its standard error."""
    bound, exact = bounds_at_one_x(objective)
    ratio = (bound - exact).exp()
    return float(ratio.mean()) - 1, float(ratio.std()) / math.sqrt(len(ratio))


def test_the_estimate_of_the_evidence_is_unbiased_and_tighter_than_iwelbo():
    error, deviation = bias(TMC(4))
    assert abs(error) < 4 * deviation
    assert deviation < 0.01
    (ours, exact), (iwelbo, _) = (bounds_at_one_x(o) for o in (TMC(4), IWELBO(4)))
    gap = ours - iwelbo
    assert float(gap.mean()) > 4 * float(gap.std()) / math.sqrt(len(gap))
    assert float(ours.mean()) < exact


def test_sites_in_a_plate_within_the_row_are_averaged_entry_by_entry():
    """Entries are independent: the bound is the sum of one-site bounds."""
    loc = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)

    def guide(batch: Batch) -> None:
        with batch.plate(), pyro.plate("entries", 3, dim=-2):
            pyro.sample("z", dist.Normal(loc.unsqueeze(-1), 1.0))

    def model(batch: Batch) -> None:
        with batch.plate(), pyro.plate("entries", 3, dim=-2):
            z = pyro.sample("z", dist.Normal(loc.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 0.7), obs=batch["x"].T)

    x = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    objective = TMC(5, plate_nesting=2)
    run = Evaluation(model, guide, Batch({"x": x}), 2)
    ours = -objective.rows(run)
    z = objective.weights(run).guide.nodes["z"]["value"].reshape(5, 3, ROWS)
    log_w = (
        Normal(0.0, 1.0).log_prob(z)
        + Normal(z, 0.7).log_prob(x.T)
        - Normal(loc.unsqueeze(-1), 1.0).log_prob(z)
    )
    hand = (torch.logsumexp(log_w, 0) - math.log(5)).sum(0)
    torch.testing.assert_close(ours, hand, rtol=0, atol=1e-10)


class Many(torch.nn.Module):
    """A row's n codes: a chain, a ladder of which each sees all before it, or one sum of all."""

    def __init__(self, kind: str, n: int, label: bool = False) -> None:
        super().__init__()
        self.kind, self.n, self.label = kind, n, label
        self.a = torch.nn.Parameter(torch.full((n + 1,), 0.6, dtype=torch.float64))

    def model(self, batch: Batch) -> None:
        z: list[torch.Tensor] = [self.a.new_zeros(())]
        with batch.plate():
            if self.label:
                z = [pyro.sample("y", dist.Categorical(logits=self.a[:3])).to(self.a)]
            for place in range(self.n):
                above = {"chain": z[-1:], "ladder": z, "sum": z[:1]}[self.kind]
                loc = self.a[place] * sum(above[1:], above[0]) / len(above)
                z.append(pyro.sample(f"z{place}", dist.Normal(loc, 0.8)))
            seen = z[-1] if self.kind == "chain" else sum(z[1:], z[0])
            pyro.sample("x", dist.Normal(self.a[-1] * seen, 0.5), obs=batch.get("x"))

    def guide(self, batch: Batch) -> None:
        x = batch["x"]
        with batch.plate():
            if self.label:
                pyro.sample("y", dist.Categorical(logits=x.unsqueeze(-1) * self.a[:3]))
            for place in range(self.n):
                pyro.sample(f"z{place}", dist.Normal(self.a[place] * x / 4, 0.9))


# n codes of K draws: the numbers of sites, draws and combinations that are named.
REFUSED = [
    pytest.param("ladder", 36, 8, False, r"'z0' \(8 draws\), .*'z4' \(8 draws\) have 32768 ",
                 id="36 in a ladder"),
    pytest.param("ladder", 70, 2, False, r"'z7' \(2 draws\), and 5 others have 8192 ", id="70"),
    pytest.param("sum", 36, 8, False, r"'z7' \(8 draws\), and 28 others have 3.25e\+32 ",
                 id="36 at once"),
    pytest.param("ladder", 7, 4, True, r"'y' \(3 values\), 'z0' \(4 draws\), .* have 12288 ",
                 id="with a label"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "n", "K", "label", "words"), REFUSED)
def test_too_many_combinations_of_draws_are_refused_before_they_are_formed(
    kind, n, K, label, words
):
    pair = Many(kind, n, label)
    batch = Batch({"x": torch.linspace(-1, 1, 2, dtype=torch.float64)})
    with pytest.raises(UnhandledSite, match=words) as error:
        TMC(K).loss(pair.model, pair.guide, batch)
    assert "\n" not in str(error.value) and "combinations=" in str(error.value)


def test_the_cap_counts_draws_that_meet_and_no_others():
    pair = Many("sum", 3)
    batch = Batch({"x": torch.linspace(-1, 1, 2, dtype=torch.float64)})
    loss = []
    for cap in (64, 65):  # 4^3 meet in x
        torch.manual_seed(0)
        loss.append(TMC(4, combinations=cap).loss(pair.model, pair.guide, batch))
    assert loss[0] == loss[1]
    with pytest.raises(UnhandledSite, match=r"have 64 combinations .*fewer particles"):
        TMC(4, combinations=63).loss(pair.model, pair.guide, batch)


def test_a_long_chain_of_codes_is_averaged_link_by_link():
    """8^30 combinations, of which 64 meet: the forward recursion over the links."""
    pair, K = Many("chain", 30), 8
    batch = Batch({"x": torch.tensor([0.4, -1.0], dtype=torch.float64)})
    objective = TMC(K)
    run = Evaluation(pair.model, pair.guide, batch)
    ours = -objective.rows(run)
    guide = objective.weights(run).guide
    z = torch.stack([guide.nodes[f"z{n}"]["value"].reshape(K, 2) for n in range(pair.n)])
    a, x = pair.a, batch["x"]
    log_w = Normal(0 * x, 0.8).log_prob(z[0]) - Normal(a[0] * x / 4, 0.9).log_prob(z[0])
    for n in range(1, pair.n):
        step = Normal(a[n] * z[n - 1], 0.8).log_prob(z[n].unsqueeze(1))  # later x earlier x B
        mean = torch.logsumexp(step + log_w, 1) - math.log(K)
        log_w = mean - Normal(a[n] * x / 4, 0.9).log_prob(z[n])
    log_w = log_w + Normal(a[-1] * z[-1], 0.5).log_prob(x)
    hand = torch.logsumexp(log_w, 0) - math.log(K)
    torch.testing.assert_close(ours, hand, rtol=0, atol=1e-9)


def test_a_refusal_moves_no_random_number():
    pair = Many("ladder", 6)
    state = torch.get_rng_state()
    with pytest.raises(UnhandledSite, match="combinations=4096"):
        TMC().loss(pair.model, pair.guide, Batch({"x": torch.zeros(2, dtype=torch.float64)}))
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_averaged_is_refused():
    pair = world(Steps)

    def poisson(batch: Batch) -> None:
        with batch.plate():
            pyro.sample("z1", dist.Poisson(torch.ones(())))

    with pytest.raises(UnhandledSite, match=r"'z1' \(Poisson\)"):
        TMC().loss(pair.model, poisson, rows_of(pair))
    for options, words in (
        ({"particles": 0}, "particles is 0"),
        ({"lam": -1.0}, "lam"),
        ({"combinations": 0}, "combinations is 0"),
    ):
        with pytest.raises(ValueError, match=words):
            TMC(**options)
