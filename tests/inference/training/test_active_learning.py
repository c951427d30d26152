"""Gibbs prediction, acquisition functions and the active-learning loop, against exact answers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from worlds.bayesian import C, D, H, small
from worlds.linear import draw, linear

import ppl_models as zoo
from ppl_models import data, guides
from ppl_models.batch import Batch
from ppl_models.data import Table
from ppl_models.data.render.moons import BORDER, DEVIATION, MEAN
from ppl_models.inference import (
    active_learning,
    bald,
    entropy,
    fit,
    gibbs_posterior,
    gibbs_predict,
)
from ppl_models.inference.posterior.rows import undisturbed
from ppl_models.inference.posterior.shared_sites import draw_outside
from ppl_models.inference.training.active_learning import reveal
from ppl_models.networks import Net, Weightless


def table_of(x):
    return Table("t/test", {"x": x})


def shared_draws(pair, x, count, seed=0):
    """The weights that the chains of a seed have, ``(S, W)``."""
    with undisturbed(pair, seed), torch.no_grad():
        return draw_outside(pair, Batch({"x": x[:2]}), count).values["w"][:-1]


# ---- Gibbs prediction ----------------------------------------------------------------------


@pytest.mark.parametrize("draws", [True, False])
def test_without_the_code_each_chain_is_its_network(draws):
    """p(y | x, z, w) free of z: every step of chain s is softmax(net(x; w_s)), to 1e-6."""
    pair = small()
    net = Net({"x": D}, (H,), C, "relu")
    pair.network = Weightless(net)
    x = torch.randn(7, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pair.guide.globals_ = guides.Globals(pair.model, Batch({"x": x})).double()
    w = shared_draws(pair, x, 4)
    expected = torch.stack([pair.network(one, x=x).softmax(-1) for one in w]).detach()
    probs = gibbs_predict(pair, table_of(x), weights=4, steps=3, draw=draws)
    assert probs.shape == (4, 3, 7, C)
    torch.testing.assert_close(probs, expected[:, None].expand_as(probs), rtol=0, atol=1e-6)
    torch.testing.assert_close(probs.mean((0, 1)), expected.mean(0), rtol=0, atol=1e-6)
    guide = pair.guide.factor("y", {"x": x}).probs.detach()
    assert float((probs.mean((0, 1)) - guide).abs().max()) > 0.01


def transition(pair, w, x):
    """P[y, y'] = E_q(z | x, y) p(y' | x, z, w) of one row, by quadrature over a code of one."""
    nodes, mass = np.polynomial.hermite_e.hermegauss(80)
    nodes = torch.from_numpy(nodes)[:, None]
    mass = torch.from_numpy(mass / mass.sum())
    found = []
    for y in range(C):
        q = pair.guide.factor("z", {"x": x, "y": torch.tensor(y)})
        z = q.base_dist.loc + q.base_dist.scale * nodes
        p = pair.network(w, x=x.expand(len(z), D), z=z).softmax(-1)
        found.append((mass[:, None] * p).sum(0))
    return torch.stack(found)


@pytest.mark.parametrize("draws", [True, False])
def test_with_the_code_a_chain_is_its_markov_chain(draws):
    """On copies of one row the mean of step t is q(y | x) P^t, within its standard error."""
    pair = small(latent=1, seed=6)
    with torch.no_grad():  # codes that tell classes apart
        pair.guide.locals_.factors["z"].net.first.weights["y"].mul_(12)
    copies, steps = 4000, 4
    x = torch.full((1, D), 0.4, dtype=torch.float64)
    with torch.no_grad():
        (w,) = shared_draws(pair, x.expand(2, D), 1)
        P, start = transition(pair, w, x[0]), pair.guide.factor("y", {"x": x[0]}).probs
    many = table_of(x.expand(copies, D))
    probs = gibbs_predict(pair, many, weights=1, steps=steps, draw=draws)[0]
    if not draws:
        start = torch.eye(C, dtype=start.dtype)[start.argmax()]
        steps = 1  # after that each copy takes the best label of its own code
    for t in range(steps):
        expected = start @ torch.linalg.matrix_power(P, t + 1)
        error = probs[t].std(0) / math.sqrt(copies)
        assert bool(((probs[t].mean(0) - expected).abs() < 4 * error + 1e-6).all()), t
    assert float((P[0] - P[1]).abs().max()) > 0.1
    assert float((probs[-1].mean(0) - start).abs().max()) > 0.02


def test_with_an_exact_guide_the_chain_finds_the_posterior_of_a_cause():
    """A label above x, as in M2: after many steps its probabilities are p(y | x)."""
    pair = linear(seed=2, classes=3)
    net = pair.guide.factors["z"].net
    with torch.no_grad():
        net.shift.zero_()
        net.log_widen.zero_()
    x, _ = draw(pair, 1, seed=4)
    joint, evidence = pair.log_evidence(x)
    exact = (joint - evidence[:, None]).exp()[0]
    copies, steps = 3000, 15
    table = table_of(x.expand(copies, -1))
    last = gibbs_predict(pair, table, weights=1, steps=steps)[0, -1]
    error = last.std(0) / math.sqrt(copies)
    assert bool(((last.mean(0) - exact).abs() < 4 * error + 1e-4).all())


def test_chains_have_names_and_an_acquisition():
    pair = small()
    x = torch.randn(5, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    table = Table("t", {"x": x}, numbers=torch.arange(5) + 30)
    idata = gibbs_posterior(pair, table, weights=3, steps=4, acquisition="entropy", seed=1)
    probs = gibbs_predict(pair, table, weights=3, steps=4, seed=1)
    assert idata.posterior["y_probs"].dims == ("chain", "draw", "datum", "y_class")
    np.testing.assert_array_equal(idata.posterior["y_probs"].values, probs.numpy())
    assert list(idata.posterior["datum"].values) == [30, 31, 32, 33, 34]
    hand = entropy(probs.mean(1)).numpy()
    np.testing.assert_array_equal(idata.sample_stats["acquisition"].values, hand)
    with pytest.raises(ValueError, match="unknown acquisition 'balld': did you mean 'bald'"):
        gibbs_posterior(pair, table, acquisition="balld")
    with pytest.raises(ValueError, match="steps is 0, expected at least 1"):
        gibbs_predict(pair, table, steps=0)


# ---- acquisition ---------------------------------------------------------------------------


def test_entropy_and_bald_by_hand():
    """Agreeing coins, opposed certainties, and opposed leanings."""
    probs = torch.tensor(
        [[[0.5, 0.5], [1.0, 0.0], [0.2, 0.8]], [[0.5, 0.5], [0.0, 1.0], [0.8, 0.2]]]
    )
    coin = math.log(2)
    inner = -0.2 * math.log(0.2) - 0.8 * math.log(0.8)
    torch.testing.assert_close(entropy(probs), torch.tensor([coin, coin, coin]))
    torch.testing.assert_close(bald(probs), torch.tensor([0.0, coin, coin - inner]))


# ---- the loop ------------------------------------------------------------------------------


def pool():
    full = data.load("moons", train=40, validation=2, test=2, labelled=None, seed=1)
    some = data.load("moons", train=40, validation=2, test=2, labelled=4, seed=1)
    return some, full.train.sites["y"]


def learn(acquisition, seed=0, **options):
    some, labels = pool()
    asked = []

    def oracle(row):
        asked.append(row)
        return int(labels[row])

    rounds = list(
        active_learning(
            lambda: zoo.build("m2", some, hidden=(4,), latent=2, likelihood="normal"),
            some.train, oracle, 7, acquisition=acquisition, seed=seed, epochs=1,
            progress=False, **options,
        )
    )  # fmt: skip
    return some, labels, rounds, asked


def by_guide(pair, table):
    with torch.no_grad():
        probs = pair.guide.factor("y", {"x": table.sites["x"]}).probs
    return torch.stack([probs, probs.flip(-1)])


@pytest.mark.parametrize("acquisition", ["entropy", "bald", "random", lambda p: p[0, :, 1]])
def test_the_best_unlabelled_row_is_asked_and_all_is_trained_anew(acquisition):
    some, labels, rounds, asked = learn(acquisition, predict=by_guide)
    assert [r.labels for r in rounds] == [4, 5, 6, 7]
    assert [r.query for r in rounds] == [*asked, None] and rounds[-1].scores is None
    assert len(set(asked)) == 3
    for now, after in itertools.pairwise(rounds):
        known = now.table.observed["y"]
        assert not known[now.query]
        assert bool((now.scores[known] == -torch.inf).all())
        if acquisition != "random":
            rate = {"entropy": entropy, "bald": bald}.get(acquisition, acquisition)
            hand = rate(by_guide(now.run.pair, now.table))[~known]
            assert torch.equal(now.scores[~known], hand)
        assert float(now.scores[now.query]) == float(now.scores.max())
        gained = after.table.observed["y"] & ~known
        assert gained.nonzero().flatten().tolist() == [now.query]
        seen = after.table.observed["y"]
        assert torch.equal(after.table.sites["y"], labels.masked_fill(~seen, -1))
    pair = zoo.build("m2", some, hidden=(4,), latent=2, likelihood="normal")
    fit(pair, rounds[-1].table, seed=0, epochs=1, progress=False)
    for ours, again in zip(rounds[-1].run.pair.parameters(), pair.parameters(), strict=True):
        assert torch.equal(ours, again)


def test_the_same_seed_asks_the_same_rows():
    first, again, other = (learn("random", seed=s)[3] for s in (3, 3, 4))
    assert first == again != other


def test_wrong_options_are_named():
    some, _ = pool()
    build = lambda: zoo.build("m2", some)  # noqa: E731
    cases = [
        ("bold", some.train, 7, "unknown acquisition 'bold': did you mean 'bald'"),
        ("bald", some.train, 3, "until is 3, expected between the 4 labels there are"),
        ("bald", some.train, 41, "until is 41"),
        ("bald", some.validation, 7, "expected 'y' to be known in some rows of moons/validation"),
    ]
    for acquisition, table, until, message in cases:
        with pytest.raises(ValueError, match=message):
            active_learning(build, table, lambda i: 0, until, acquisition=acquisition)
    row = int((~some.train.observed["y"]).nonzero()[0])
    with pytest.raises(ValueError, match=r"got 2, expected a label in 0\.\.1"):
        reveal(some.train, "y", row, 2)


# ---- half moons ----------------------------------------------------------------------------


def test_moons_without_noise_are_half_circles():
    moons = data.load("moons", train=400, noise=0.0, labelled=None)
    for table in (moons.train, moons.validation, moons.test):
        points = table.sites["x"].double().numpy() * DEVIATION + MEAN
        upper = table.sites["y"].numpy() == 0
        assert upper.sum() == len(table) // 2
        for rows, centre, sign in ((upper, (0.0, 0.0), 1), (~upper, (1.0, 0.5), -1)):
            arm = points[rows] - centre
            np.testing.assert_allclose(np.hypot(*arm.T), 1.0, atol=1e-6)
            assert (sign * arm[:, 1] > -1e-6).all()
    x = moons.test.sites["x"]
    assert float(x.mean(0).abs().max()) < 0.1 and float((x.std(0) - 1).abs().max()) < 0.1


def test_moons_flip_labels_in_the_region_alone():
    flip, rows = 0.4, 4000
    moons = data.load("moons", train=rows, test=rows, flip=flip, labelled=100, seed=2)
    clean = data.load("moons", train=rows, test=rows, labelled=None, seed=2)
    assert int(moons.train.observed["y"].sum()) == 100
    assert torch.equal(moons.test.sites["x"], clean.test.sites["x"])
    sites = moons.test.sites
    inside = sites["region"] == 1
    points = sites["x"].double() * torch.from_numpy(DEVIATION) + torch.from_numpy(MEAN)
    assert torch.equal(inside, points[:, 0] > BORDER - 1e-6)
    wrong = sites["y"] != sites["clean"]
    assert torch.equal(sites["clean"], clean.test.sites["y"])
    assert not bool(wrong[~inside].any())
    error = math.sqrt(flip * (1 - flip) / int(inside.sum()))
    assert abs(float(wrong[inside].double().mean()) - flip) < 4 * error
    assert not torch.equal(moons.train.sites["x"][: rows // 2], sites["x"][: rows // 2])
    for option, message in (({"noise": -1.0}, "noise is -1"), ({"flip": 2.0}, "flip is 2")):
        with pytest.raises(ValueError, match=message):
            data.load("moons", **option)
