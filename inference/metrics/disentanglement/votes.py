"""BetaVAE and FactorVAE scores: can a classifier tell which factor the rows of a batch share?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr

from ppl_models.config import at_least, check_seed
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.inference.metrics.disentanglement.code_table import CodeTable, from_arrays
from ppl_models.inference.metrics.disentanglement.results import CODE, FACTOR, result
from ppl_models.inference.metrics.disentanglement.sampler import Sampler

Array = np.ndarray[Any, Any]
Source = CodeTable | Sampler
AT_ONCE = 4_096  # rows whose codes are made at once: they fit in a cache, or a few images do
FOR_VARIANCES = 10_000  # rows that a sampler's variances are of
NEWTON = 500  # number of coefficients up to which Newton's method is faster than L-BFGS
REASON = "fewer than two factors have more than one value"


def beta_vae_score(
    source: Source,
    votes: int = 10_000,
    test_votes: int = 5_000,
    batch: int = 64,
    seed: int = 0,
) -> xr.Dataset:
    """Accuracy of a linear classifier of how far apart rows are that share a factor.

    For each vote a factor is drawn, and pairs of rows that share their value of it; each pair
    has a value of its own. From the mean of ``|z - z'|`` over the pairs, a multinomial logistic
    regression (L2, C = 1) tells the factor (Higgins et al. 2017, as in Locatello et al. 2019,
    arXiv 1811.12359).

    The rows of a table stand for the population: first rows are any of them, second rows any
    that have the first one's value, both with replacement. Of a table with every cell of a grid
    this is exactly the sampling of independent factors, of rows that were drawn from it an
    empirical version; factors that are correlated over the rows are so within a pair, too. A
    value that one row alone has pairs that row with itself.

    Args:
        source: A table of codes, or a sampler, which encodes afresh.
        votes: Votes that the classifier is fitted on.
        test_votes: Votes that it is asked.
        batch: Pairs of a vote.
        seed: Of all draws.

    Returns:
        ``beta_vae``, the accuracy in test votes, up to 1, where 1 / K is chance, and
        ``beta_vae_train``. Both are nan where fewer than two factors have several values.

    Raises:
        ValueError: If there are fewer than 100 votes, no test vote or no pair in a vote, or
            codes of the sampler do not fit.
    """
    counts, settings = _checked(source, votes, test_votes, batch, 1, seed)
    found: dict[str, Any] = dict.fromkeys(("beta_vae", "beta_vae_train"), math.nan)
    if source.told.sum() > 1:
        train, test = (
            distances(source, count, batch, numpy_generator(seed, stream))
            for stream, count in enumerate(counts)
        )
        fitted = _regression(train[0].shape[1] * int(source.told.sum())).fit(*train)
        found = {"beta_vae": fitted.score(*test), "beta_vae_train": fitted.score(*train)}
    return result(source, found, **settings)


def factor_vae_score(
    source: Source,
    votes: int = 10_000,
    test_votes: int = 5_000,
    batch: int = 64,
    prune: float = 0.05,
    seed: int = 0,
) -> xr.Dataset:
    """Accuracy of the code that varies least where rows share a factor, in naming that factor.

    For each vote a factor and a value of it are drawn, and rows with that value. The vote is
    for the code with the smallest ratio of its variance there to its variance in the
    population, both of ``n - 1``, the first one of equals. The classifier names for each code
    the factor for which it had most votes (Kim and Mnih 2018, arXiv 1802.05983, as in Locatello
    et al. 2019, arXiv 1811.12359).

    The rows of a table stand for the population, as in :func:`beta_vae_score`. The variance in
    the population is that of all its rows; of a sampler, that of 10,000.

    Args:
        source: A table of codes, or a sampler, which encodes afresh.
        votes: Votes that the classifier is made of.
        test_votes: Votes that it is asked.
        batch: Rows of a vote.
        prune: Standard deviation below which a code has no vote, nor has one that is constant.
            It is in units of the codes, so that the score is not free of their scale.
        seed: Of all draws.

    Returns:
        ``factor_vae``, the accuracy in test votes, up to 1, where about 1 / K is chance, and 0
        where no code is kept; ``factor_vae_train``; ``factor_vae_active``, the number of codes
        that are kept, ``factor_vae_kept``, which these are, and ``factor_vae_votes``, how often
        each of them was voted for given each factor. Both accuracies are nan where fewer than
        two factors have several values.

    Raises:
        ValueError: If there are fewer than 100 votes, no test vote or fewer than two rows in a
            vote, ``prune`` is negative, or codes of the sampler do not fit.
    """
    counts, settings = _checked(source, votes, test_votes, batch, 2, seed)
    if not prune >= 0:
        raise ValueError(f"prune is {prune}, expected a standard deviation of at least 0")
    variance, varying = _population(source, numpy_generator(seed, len(counts)))
    kept = varying & (np.sqrt(variance) >= prune)
    right: dict[str, float] = dict.fromkeys(("factor_vae", "factor_vae_train"), math.nan)
    train = np.zeros((len(kept), len(source.told)), dtype=np.int64)
    if source.told.sum() > 1:
        right = dict.fromkeys(right, 0.0)
        if kept.any():
            train, test = (
                least_varying(source, variance, kept, count, batch, numpy_generator(seed, stream))
                for stream, count in enumerate(counts)
            )
            named = np.arange(len(kept)), train.argmax(1)
            right = {
                "factor_vae": test[named].sum() / test.sum(),
                "factor_vae_train": train[named].sum() / train.sum(),
            }
    found = {
        **right,
        "factor_vae_active": kept.sum(),
        "factor_vae_kept": ((CODE,), kept),
        "factor_vae_votes": ((CODE, FACTOR), train),
    }
    return result(source, found, prune=prune, **settings)


def distances(
    source: Source, votes: int, batch: int, draw: np.random.Generator
) -> tuple[Array, Array]:
    """What the BetaVAE score's classifier sees: mean distances ``(V, D)`` and factors ``(V,)``."""
    factors = draw.choice(np.flatnonzero(source.told), votes)
    found = np.empty((votes, len(source.code_names)))
    for some in _blocks(votes, batch, found.shape[1]):
        apart, other = _pairs(source, np.repeat(factors[some], batch), draw)
        apart -= other
        np.abs(apart, out=apart)
        apart.reshape(-1, batch, found.shape[1]).mean(1, out=found[some])
    return found, factors


def least_varying(
    source: Source, variance: Array, kept: Array, votes: int, batch: int, draw: np.random.Generator
) -> Array:
    """Number of votes ``(D, K)`` for each code given each factor, of the FactorVAE score."""
    factors = draw.choice(np.flatnonzero(source.told), votes)
    scale = np.where(kept, variance, 1.0)
    found = np.zeros((len(kept), len(source.told)), dtype=np.int64)
    for some in _blocks(votes, batch, len(kept)):
        codes = _sharing(source, factors[some], batch, draw).reshape(-1, batch, len(kept))
        # Apart from the first row: what all rows of a vote have in common then has variance 0,
        # and no rounding of a mean decides between two such codes.
        codes = codes - codes[:, :1]
        squares = np.einsum("vbd,vbd->vd", codes, codes) - codes.sum(1) ** 2 / batch
        ratio = np.where(kept, squares / (batch - 1) / scale, np.inf)
        np.add.at(found, (ratio.argmin(1), factors[some]), 1)
    return found


def _blocks(votes: int, batch: int, codes: int) -> Iterator[slice]:
    """Parts of the votes, so small that what is made of their codes stays below 200 MB."""
    at_once = max(1, min(AT_ONCE, 2**22 // codes) // batch)
    for first in range(0, votes, at_once):
        yield slice(first, first + at_once)


def _pairs(source: Source, factors: Array, draw: np.random.Generator) -> tuple[Array, Array]:
    """Codes ``(n, D)`` of rows, and of others that share the value of each one's factor."""
    rows = len(factors)
    if isinstance(source, CodeTable):
        order, first, count = _by_value(source)
        place = draw.integers(len(source), size=rows)
        other = first[factors, place] + _below(count[factors, place], draw)
        return source.codes[order[factors, place]], source.codes[order[factors, other]]
    one, other = source.classes(rows, draw), source.classes(rows, draw)
    shared = np.arange(rows), factors
    other[shared] = one[shared]
    return source.encoded(one, draw), source.encoded(other, draw)


def _sharing(source: Source, factors: Array, batch: int, draw: np.random.Generator) -> Array:
    """Codes ``(V * batch, D)`` of rows that, within each vote, share the value of its factor."""
    of = np.repeat(factors, batch)
    if isinstance(source, CodeTable):
        order, first, count = _by_value(source)
        place = np.repeat(draw.integers(len(source), size=len(factors)), batch)
        other = first[of, place] + _below(count[of, place], draw)
        codes: Array = source.codes[order[of, other]]
        return codes
    classes = source.classes(len(of), draw)
    value = classes[np.arange(len(factors)) * batch, factors]
    classes[np.arange(len(of)), of] = np.repeat(value, batch)
    return source.encoded(classes, draw)


def _by_value(table: CodeTable) -> tuple[Array, Array, Array]:
    """Rows in the order of each factor's value, and where those of a value are there.

    Returns:
        ``order``, rows; ``first``, the place of the first row with the value of the row at a
        place; and ``count``, how many have it: each ``(K, N)``.
    """

    def found() -> tuple[Array, Array, Array]:
        order = table.factors.argsort(0, kind="stable").T
        value = np.take_along_axis(table.factors.T, order, 1)
        first, count = np.empty_like(order), np.empty_like(order)
        for k, of in enumerate(value):
            begins = np.flatnonzero(np.r_[True, of[1:] != of[:-1]])
            many = np.diff(begins, append=len(of))
            first[k], count[k] = np.repeat(begins, many), np.repeat(many, many)
        return np.ascontiguousarray(order), first, count

    return table.once("rows by value", found)


def _below(limits: Array, draw: np.random.Generator) -> Array:
    """A whole number below each limit, all of them as likely."""
    return (draw.random(limits.shape) * limits).astype(np.int64)


def _population(source: Source, draw: np.random.Generator) -> tuple[Array, Array]:
    """Variances ``(D,)`` of the codes, and which of them are not constant."""
    table = source
    if isinstance(table, Sampler):
        classes = table.classes(FOR_VARIANCES, draw)
        parts = np.array_split(classes, math.ceil(FOR_VARIANCES / AT_ONCE))
        table = from_arrays(np.concatenate([table.encoded(p, draw) for p in parts]), classes)
    return table.codes.var(0, ddof=min(1, len(table) - 1)), table.varying


def _regression(coefficients: int) -> Any:
    """The classifier of the BetaVAE score, not fitted yet.

    Newton's method is exact whatever the scales of the codes; its cost grows with the square
    of the coefficients.
    """
    from sklearn.linear_model import LogisticRegression

    solver = "newton-cholesky" if coefficients <= NEWTON else "lbfgs"
    return LogisticRegression(solver=solver, max_iter=1_000)


def _checked(
    source: Source, votes: int, test_votes: int, batch: int, least: int, seed: int
) -> tuple[tuple[int, int], dict[str, Any]]:
    """Numbers of votes to fit on and to ask, and the settings that a result records."""
    votes, test_votes, batch = at_least(
        votes=(votes, 100), test_votes=(test_votes, 1), batch=(batch, least)
    )
    settings = {
        "votes": votes,
        "test_votes": test_votes,
        "batch": batch,
        "seed": check_seed(seed),
        "population": (
            "rows of the table" if isinstance(source, CodeTable) else "independent factors"
        ),
    }
    if source.told.sum() < 2:
        settings["reason"] = REASON
    return (votes, test_votes), settings
