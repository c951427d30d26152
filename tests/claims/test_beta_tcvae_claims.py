"""Chen et al. 2018: estimators of the parts of the KL, and what a weight on one of them does."""

from __future__ import annotations

import math
import time
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from claims.blob_codes import SETTINGS, fitted
from claims.code_pictures import parts_and_codes
from claims.measuring import run_all, spread
from worlds.located import Located, LocatedConfig

from ppl_models import Batch
from ppl_models.data import Table
from ppl_models.inference import ELBO, kl_parts, metrics
from ppl_models.inference.objectives.code_terms.total_correlation import log_row_weights

matplotlib.use("Agg")
pytestmark = pytest.mark.claims
SEEDS = (0, 1, 2)

# ---- estimators -------------------------------------------------------------------------------

POSTERIORS, ROWS, REPETITIONS = 2_000, 256, 60
# Of a world of which all is known but its draws: mean TC and E log q at 256 rows.
TABLE = {"mws": (23.15, -13.03), "mss": (0.11, -5.72), "batch": (0.35, -5.43)}
WITHIN = 0.1


def posteriors(rho: float = 0.67, size: float = 1.03, seed: int = 0) -> torch.Tensor:
    """Means ``(2000, 4)``: two coordinates correlated, one independent, one nearly dead."""
    g = torch.Generator().manual_seed(seed)
    u = torch.randn(POSTERIORS, 4, generator=g, dtype=torch.float64)
    second = rho * u[:, 0] + math.sqrt(1 - rho**2) * u[:, 1]
    return torch.stack((size * u[:, 0], size * second, size * u[:, 2], 0.05 * u[:, 3]), 1)


def estimated(pair: Located, batch: Batch, estimator: str) -> tuple[float, float]:
    """TC and E log q, of one draw of each row."""
    with torch.no_grad():
        run = ELBO().run(pair.model, pair.guide, batch)
        parts = kl_parts(run, "z", estimator)
        given = run.codes("z").q.log_prob(run.drawn.draws["z"]).reshape(-1)
    log_q = given - parts.mutual_information
    return float(parts.total_correlation.mean()), float(log_q.mean())


def test_estimators_are_as_far_off_as_tabulated(record):
    pair = Located(LocatedConfig((0.3, 0.3, 0.3, 1.0))).double()
    means = posteriors()
    exact = metrics.kl_decomposition(pair, Table("posteriors", {"x": means}), draws=3)
    truth = float(exact.total_correlation)
    of_draws = [torch.distributions.Normal(0.0, s).entropy() for s in (0.3, 0.3, 0.3, 1.0)]
    log_q = -float(sum(of_draws)) - float(exact.mutual_information)
    g = torch.Generator().manual_seed(1)
    batches = [torch.randperm(POSTERIORS, generator=g)[:ROWS] for _ in range(REPETITIONS)]
    found = {}
    for name in TABLE:
        torch.manual_seed(7)  # the same draws for all, of another stream than the posteriors'
        of = [estimated(pair, Batch({"x": means[b]}, size=POSTERIORS), name) for b in batches]
        found[name] = np.mean(of, 0)
    weights = log_row_weights("mss", POSTERIORS, ROWS, means).exp()
    assert torch.allclose(weights.sum(1), torch.ones(ROWS).double())
    assert torch.allclose(weights.diagonal(), torch.full((ROWS,), 1 / POSTERIORS).double())
    off = max(float(np.abs(found[n] - of).max()) for n, of in TABLE.items())
    shift = found["mws"][0] - 3 * math.log(POSTERIORS) - found["batch"][0]
    told = {n: f"{n} {tc:.2f}, {lq:.2f}" for n, (tc, lq) in found.items()}
    record(
        "beta_tcvae: 1, TC and E log q of 256 rows as tabulated, within 0.1",
        paper="own run of the same recipe: "
        + "; ".join(f"{n} {tc}, {lq}" for n, (tc, lq) in TABLE.items()),
        ours="; ".join(told.values()),
        baseline=f"exact {truth:.3f}, {log_q:.3f}",
        holds="yes" if off < WITHIN and abs(shift) < 1e-6 else "no",
        note="the table's posteriors are not given, and its exact TC is 0.255; ours have means of "
        "deviation 1.03, a correlation of 0.67 and a dead coordinate of deviation 1. Its exact "
        "E log q, -5.751, cannot be: the stratified estimate is below the exact one in "
        "expectation, and above it there (-5.60 of 1,024 rows)",
        settings="2,000 posteriors in 4 dimensions, 60 batches of 256, one draw of each row",
    )
    assert off < WITHIN and abs(shift) < 1e-6
    assert found["mss"][1] < log_q < found["batch"][1]


def test_the_parts_add_up_to_the_kl_of_all_rows(record):
    pair, means = Located(LocatedConfig((0.3, 0.3, 0.3, 1.0))).double(), posteriors()[:512]
    torch.manual_seed(7)  # another stream than that of the posteriors
    run = ELBO().run(pair.model, pair.guide, Batch({"x": means}))
    with torch.no_grad():
        parts = kl_parts(run, "z")
        z = run.drawn.draws["z"].reshape(512, 4)
        noise = torch.tensor((0.3, 0.3, 0.3, 1.0), dtype=torch.float64)
        q = torch.distributions.Normal(means, noise).log_prob(z)
        kl = (q - torch.distributions.Normal(0.0, 2.0).log_prob(z)).sum(-1)
    off = abs(float(sum(part.mean() for part in parts) - kl.mean()))
    exact = metrics.kl_decomposition(pair, Table("rows", {"x": means}), draws=40)
    apart = [
        abs(float(part.mean() - exact[name])) / float(part.std() / math.sqrt(512))
        for name, part in parts._asdict().items()
    ]
    record(
        "beta_tcvae: 2, I + TC + DW = KL of 512 rows at once, to 1e-4",
        paper="an identity",
        ours=f"{off:.1e} apart",
        baseline="",
        holds="yes" if off < 1e-4 else "no",
        settings="512 posteriors in 4 dimensions in one batch, one draw of each row, float64",
    )
    assert off < 1e-4 and max(apart) < 4


# ---- blob, positions correlated ---------------------------------------------------------------

WAYS = {  # name, weight of the likelihood, settings
    "beta-VAE, w 1": ("beta_vae", 1.0, (("beta", 4.0),)),
    "beta-TCVAE, w 1": ("beta_tcvae", 1.0, (("beta", 4.0),)),
    "VAE": ("beta_vae", 4.0, (("beta", 1.0),)),
    "beta-TCVAE": ("beta_tcvae", 4.0, (("beta", 10.0),)),
    "beta-VAE": ("beta_vae", 4.0, (("beta", 4.0),)),
}


@pytest.fixture(scope="module")
def fits():
    began = time.monotonic()
    asked = [(name, s, weight, opts) for name, weight, opts in WAYS.values() for s in SEEDS]
    found = iter(run_all(fitted, asked))
    return {way: [next(found) for _ in SEEDS] for way in WAYS}, (time.monotonic() - began) / 60


def of(fits, way: str, what: str) -> list[float]:
    return [fit[what] for fit in fits[0][way]]


LONGER = 5_000


def told_of(seed: int) -> str:
    """What was tried where beta-TCVAE keeps less than it should at likelihood weight 1."""
    name, weight, options = WAYS["beta-TCVAE, w 1"]
    asked = {
        f"{LONGER:,} steps": (name, seed, weight, options, LONGER),
        "`mss`": (name, seed, weight, (*options, ("estimator", "mss"))),
    }
    tried = {"as above": (name, seed, weight, options), **asked}
    fits = zip(tried, run_all(fitted, tried.values()), strict=True)
    return (
        f"the code of seed {seed} stays with one number in use, a local optimum in which a second "
        "pays nothing; numbers in use, information and reconstruction "
        + "; ".join(
            f"{way}: {in_use(fit)}, {fit['mutual_information']:.2f}, {fit['reconstruction']:.1f}"
            for way, fit in fits
        )
    )


def in_use(fit: dict[str, Any], nats: float = 0.1) -> int:
    """How many numbers of the code have a mean KL above this."""
    codes, scale = fit["codes"], fit["scale"]
    kl = (codes**2 + scale**2 - 1) / 2 - np.log(scale)
    return int((kl.mean(0) > nats).sum())


def test_information_is_kept_where_beta_vae_loses_it(fits, record, picture):
    """Likelihood weight 1, beta 4 of both."""
    keys = ("mutual_information", "reconstruction", "total_correlation")
    told = {way: {key: of(fits, way, key) for key in keys} for way in WAYS}
    ours, other = told["beta-TCVAE, w 1"], told["beta-VAE, w 1"]
    more = [a - b for a, b in zip(ours[keys[0]], other[keys[0]], strict=True)]
    less = [b - a for a, b in zip(ours[keys[1]], other[keys[1]], strict=True)]
    row = {"settings": f"{SETTINGS}; weight 1, beta 4", "minutes": round(fits[1], 1)}
    held = {"information": min(more) >= 1, "reconstruction": min(less) >= 3}
    note = "" if all(held.values()) else told_of(more.index(min(more)))
    record(
        "beta_tcvae: 3, blob, information at least 1 nat above beta-VAE's at beta 4",
        paper="own run of the same recipe: 3.05, 3.12 against 1.32, 1.27",
        ours=", ".join(f"{value:.2f}" for value in ours[keys[0]]) + " nats",
        baseline=f"beta-VAE {spread(other[keys[0]], unit='nats')}",
        holds="yes" if held["information"] else "no",
        note=note if not held["information"] else "",
        **row,
    )
    record(
        "beta_tcvae: 3, blob, reconstruction error at least 3 nats below beta-VAE's at beta 4",
        paper="own run of the same recipe: 25.3, 25.2 against 32.7, 33.0",
        ours=", ".join(f"{value:.1f}" for value in ours[keys[1]]) + " nats",
        baseline=f"beta-VAE {spread(other[keys[1]], digits=1, unit='nats')}",
        holds="yes" if held["reconstruction"] else "no",
        note=note if not held["reconstruction"] else "",
        **row,
    )
    picture(parts_and_codes(fits[0], ("beta-VAE", "beta-TCVAE")), "beta_tcvae")
    assert all(a > b for a, b in zip(ours[keys[0]], other[keys[0]], strict=True))
    assert all(a < b for a, b in zip(ours[keys[1]], other[keys[1]], strict=True))
    assert sorted(more)[1] >= 1 and sorted(less)[1] >= 3  # in two of three seeds


def test_total_correlation_goes_where_positions_are_correlated(fits, record):
    """Likelihood weight 4, beta 10."""
    ours, vae = (of(fits, way, "total_correlation") for way in ("beta-TCVAE", "VAE"))
    kept = of(fits, "beta-TCVAE", "mutual_information")
    share = [a / b for a, b in zip(ours, vae, strict=True)]
    others = {way: of(fits, way, "mutual_information") for way in ("VAE", "beta-VAE")}
    row = {"settings": f"{SETTINGS}; weight 4, beta 10", "minutes": round(fits[1], 1)}
    record(
        "beta_tcvae: 3, blob, total correlation at most 0.2 of the VAE's in every seed",
        paper="own run of the same recipe: 0.02, 0.04, 0.11 against 0.91, 1.25, 1.22",
        ours=spread(ours, unit="nats"),
        baseline=f"VAE {spread(vae, unit='nats')}; beta-VAE at 4 "
        + spread(of(fits, "beta-VAE", "total_correlation"), unit="nats"),
        holds="yes" if max(share) <= 0.2 else "no",
        **row,
    )
    record(
        "beta_tcvae: 3, blob, with information above 3.3 nats",
        paper="own run of the same recipe: 3.70, 3.72, 3.55",
        ours=spread(kept, unit="nats"),
        baseline=f"VAE {spread(others['VAE'], unit='nats')}; beta-VAE at 4 "
        + spread(others["beta-VAE"], unit="nats"),
        holds="yes" if min(kept) > 3.3 else "no",
        **row,
    )
    assert max(share) <= 0.2 and min(kept) > 3.3
