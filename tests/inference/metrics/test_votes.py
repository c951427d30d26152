"""Scores of votes: against enumeration of all rows, golden values, edge cases, refusals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from worlds.code_tables import SIZES, unit
from worlds.voted_codes import BETA_VAE, FACTOR_VAE, VOTES, golden_sampler, sampler

from ppl_models.inference import metrics
from ppl_models.inference.metrics.disentanglement.votes import distances, least_varying

GRID = np.array(list(itertools.product(range(2), range(3))))
LOOK = np.random.default_rng(5).normal(size=(6, 3))  # codes of a grid of two factors


def uneven():
    """Rows of a population with correlated factors, some of them alike."""
    rows = [0, 0, 1, 2, 3, 3, 3, 4, 5, 5]
    codes = LOOK[rows] + np.random.default_rng(6).normal(size=(10, 3))
    return metrics.from_arrays(codes, GRID[rows])


def look(classes, draw):
    return LOOK[classes @ [3, 1]]


SOURCES = {
    "every cell": (metrics.from_arrays(LOOK, GRID), metrics.from_arrays(LOOK, GRID)),
    "sampler": (sampler(look, (2, 3), 3), metrics.from_arrays(LOOK, GRID)),
    "rows": (uneven(), uneven()),
}


def alike(table, k):
    """Probability of each two rows of which the second is any with the first's value."""
    same = table.factors[:, None, k] == table.factors[None, :, k]
    return same / same.sum(1, keepdims=True) / len(table)


@pytest.mark.parametrize(("source", "table"), SOURCES.values(), ids=SOURCES)
def test_votes_are_as_frequent_as_by_enumeration(source, table):
    votes, draw = 40_000, np.random.default_rng(0)
    apart = table.codes[:, None] - table.codes[None]
    # Of the FactorVAE score: the variance of two rows is half the square of their distance.
    variance = table.codes.var(0, ddof=1)
    voted = (apart**2 / 2 / variance).argmin(-1)
    found = least_varying(source, variance, np.ones(3, bool), votes, 2, draw)
    assert found.sum() == votes
    for k in range(2):
        # Two rows of one value: the value as often as rows have it, then any two that do.
        wanted = np.array([alike(table, k)[voted == d].sum() for d in range(3)])
        of = found[:, k].sum()
        assert np.abs(found[:, k] / of - wanted).max() < 4 * 0.5 / of**0.5
    # Of the BetaVAE score, of one pair: how often each distance is met.
    seen, factor = distances(source, votes, 1, draw)
    keys = np.round(np.abs(apart), 9)
    for k in range(2):
        own = np.round(seen[factor == k], 9)
        for key in np.unique(keys.reshape(-1, 3), axis=0):
            wanted = alike(table, k)[(keys == key).all(-1)].sum()
            assert abs((own == key).all(1).mean() - wanted) < 4 * 0.5 / len(own) ** 0.5
    # And of several, their mean.
    seen, factor = distances(source, 4_000, 16, draw)
    for k in range(2):
        own = seen[factor == k]
        wanted = np.einsum("ij,ijd->d", alike(table, k), np.abs(apart))
        error = own.std(0) / len(own) ** 0.5
        assert (np.abs(own.mean(0) - wanted) < 4 * error).all()


@pytest.mark.parametrize("name", BETA_VAE)
def test_scores_are_those_of_the_reference(name):
    source = golden_sampler(name)
    found = metrics.beta_vae_score(source, **VOTES)
    wanted, within = BETA_VAE[name]
    assert float(found.beta_vae) == pytest.approx(wanted, abs=within)
    assert float(found.beta_vae_train) == pytest.approx(wanted, abs=within)
    found = metrics.factor_vae_score(source, **VOTES)
    wanted, within = FACTOR_VAE[name]
    assert float(found.factor_vae) == pytest.approx(wanted, abs=within)
    assert int(found.factor_vae_active) == (10 if name == "redundant" else 5)


CELLS = np.array(list(itertools.product(*map(range, SIZES))))
ALIGNED = unit(CELLS)
FEW = {"votes": 500, "test_votes": 200}


def scores(codes, factors=CELLS, **options):
    table = metrics.from_arrays(codes, factors)
    beta = metrics.beta_vae_score(table, **FEW)
    return beta.merge(metrics.factor_vae_score(table, **FEW, **options))


def test_constant_codes_have_no_vote():
    constant = np.full((len(CELLS), 2), 1.5)
    constant[:, 1] += 1e-12 * ALIGNED[:, 0]  # but for rounding
    found = scores(np.hstack([constant, ALIGNED]), prune=0.0)
    assert found.factor_vae_kept.values.tolist() == [False, False, *[True] * 5]
    assert int(found.factor_vae_active) == 5 and float(found.factor_vae) == 1
    assert float(found.beta_vae) == 1
    votes = found.factor_vae_votes
    assert (votes[2:].values == np.diag(votes.sum("code"))).all() and int(votes.sum()) == 500
    assert found.factor_vae.attrs["prune"] == 0.0 and found.beta_vae.attrs["batch"] == 64
    assert found.attrs["rows"] == len(CELLS)


def test_codes_that_are_nearly_dead_win_unless_pruned():
    dead = 0.01 * np.sign(ALIGNED[:, :1])  # it never varies but with the first factor
    noise = np.random.default_rng(0).normal(size=(len(CELLS), 5))
    found = scores(np.hstack([ALIGNED[:, 1:] + 2 * noise[:, 1:], dead]), prune=0.0)
    assert int(found.factor_vae_votes[4, 0]) == int(found.factor_vae_votes[:, 0].sum()) > 0
    pruned = scores(np.hstack([ALIGNED[:, 1:] + 2 * noise[:, 1:], dead]))
    assert int(pruned.factor_vae_votes[4].sum()) == 0 and int(pruned.factor_vae_active) == 4
    # The deviation is that of n - 1: of two rows 0.05 is 0.1 / sqrt(2), not 0.1 / 2.
    for size, kept in ((0.0708, 1), (0.0706, 0)):
        found = scores(np.array([[0.0], [size]]), np.array([[0, 0], [1, 1]]))
        assert int(found.factor_vae_active) == kept


def test_no_code_that_is_kept_scores_nothing():
    found = scores(0.04 * ALIGNED)
    assert float(found.factor_vae) == float(found.factor_vae_train) == 0
    assert int(found.factor_vae_active) == int(found.factor_vae_votes.sum()) == 0
    assert float(scores(0.04 * ALIGNED, prune=0.0).factor_vae) == 1


def test_one_code_tells_one_factor():
    # Of five factors, and the others are all the same to it: it is right in a fifth.
    found = scores(ALIGNED[:, :1])
    share = found.factor_vae_votes.sum("code").max() / 500
    assert float(found.factor_vae_train) == pytest.approx(float(share))
    assert 0.1 < float(found.factor_vae) < 0.3


def test_one_factor_is_undefined_and_one_value_is_left_out():
    found = scores(ALIGNED, CELLS[:, :1])
    assert np.isnan([found.beta_vae, found.factor_vae, found.factor_vae_train]).all()
    assert found.beta_vae.attrs["reason"] == "fewer than two factors have more than one value"
    assert int(found.factor_vae_active) == 5
    still = np.insert(CELLS, 1, 7, axis=1)
    found = scores(ALIGNED, still)
    assert found.attrs["excluded_factors"] == "y[1]"
    assert int(found.factor_vae_votes[:, 1].sum()) == 0
    assert float(found.factor_vae) == float(found.beta_vae) == 1
    source = sampler(lambda y, _: unit(y[:, [0, 2]], (3, 4)), (3, 1, 4), 2)
    found = metrics.factor_vae_score(source, **FEW)
    assert float(found.factor_vae) == 1 and found.attrs["excluded_factors"] == "y[1]"
    assert "rows" not in found.attrs
    assert found.factor_vae.attrs["population"] == "independent factors"


def test_a_seed_says_all_and_order_of_codes_nothing():
    codes = ALIGNED @ np.random.default_rng(1).normal(size=(5, 5))
    before = np.random.get_state()[1].copy()
    one, again, other = (
        metrics.factor_vae_score(metrics.from_arrays(codes, CELLS), **FEW, seed=s)
        for s in (0, 0, 1)
    )
    assert one.identical(again)
    assert (one.factor_vae_votes.values != other.factor_vae_votes.values).any()
    assert (np.random.get_state()[1] == before).all()
    turned = metrics.from_arrays(codes[:, ::-1], CELLS)
    backwards = metrics.factor_vae_score(turned, **FEW)
    assert (backwards.factor_vae_votes.values[::-1] == one.factor_vae_votes.values).all()


def test_scales_change_what_is_pruned_and_nothing_else():
    codes = ALIGNED @ np.random.default_rng(1).normal(size=(5, 5))
    scale, move = np.array([1e-3, 1, 10, 0.1, 100]), np.arange(5)
    moved = scores(codes * scale + move, prune=0.0)
    assert float(moved.factor_vae) == float(scores(codes, prune=0.0).factor_vae)
    assert int(scores(codes * scale + move).factor_vae_active) == 4


TABLE = metrics.from_arrays(ALIGNED, CELLS)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.beta_vae_score(TABLE, votes=99), "votes is 99, expected at least 100"),
        (lambda: metrics.beta_vae_score(TABLE, test_votes=0), "test_votes is 0, expected at lea"),
        (lambda: metrics.beta_vae_score(TABLE, batch=0), "batch is 0, expected at least 1"),
        (lambda: metrics.factor_vae_score(TABLE, batch=1), "batch is 1, expected at least 2"),
        (lambda: metrics.factor_vae_score(TABLE, prune=-1), "prune is -1, expected a standard"),
        (lambda: metrics.factor_vae_score(TABLE, seed=-1), "seed is -1, expected"),
        (
            lambda: metrics.beta_vae_score(sampler(look, (2, 3), 2)),
            r"codes of 4096 rows have shape \(4096, 3\), expected \(4096, 2\)",
        ),
        (
            lambda: metrics.factor_vae_score(
                sampler(lambda y, draw: look(y, draw) / y[:, :1], (2, 3), 3)
            ),
            r"code 'z\[0\]' is -?inf of classes \[0, \d\], expected a finite one",
        ),
        (
            lambda: metrics.Sampler((2, 3), ("a",), ("z",), lambda y, _: y),
            "factor_names are 1, expected one for each of 2 factors",
        ),
        (
            lambda: metrics.Sampler((2, 0), ("a", "b"), ("z",), lambda y, _: y),
            "the size of b is 0, expected at least 1",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(call, words):
    with (
        np.errstate(divide="ignore", invalid="ignore"),
        pytest.raises(ValueError, match=words) as told,
    ):
        call()
    assert "\n" not in str(told.value)
