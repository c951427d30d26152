"""Kim and Mnih 2018: what a critic tells of a total correlation, and what a penalty on it does."""

from __future__ import annotations

import math
import time

import matplotlib
import pyro
import pyro.distributions as dist
import pytest
import torch
from claims.blob_codes import SETTINGS, fitted
from claims.code_pictures import information_and_codes
from claims.measuring import run_all, spread

from ppl_models import Batch
from ppl_models.inference import Evaluation, PermutedCritic
from ppl_models.networks import Net

matplotlib.use("Agg")
pytestmark = pytest.mark.claims
SEEDS = (0, 1, 2)

# ---- what the critic tells --------------------------------------------------------------------

TOLD = {0.0: "0.000, -0.004", 0.5: "0.120, 0.131", 0.9: "0.784, 0.709", 0.99: "1.822, 1.773"}
CRITIC_STEPS, CRITIC_ROWS = 1_500, 256


class Correlated:
    """Codes in four dimensions, of which the first two are Gaussian with this correlation."""

    def __init__(self, rho: float) -> None:
        covariance = torch.eye(4)
        covariance[0, 1] = covariance[1, 0] = rho
        self.law = dist.MultivariateNormal(torch.zeros(4), covariance)

    def __call__(self, batch: Batch) -> None:
        """Batch shape ``(B,)``."""
        with batch.plate():
            pyro.sample("z", self.law)


def told_by_a_critic(
    rho: float, seed: int, steps: int = CRITIC_STEPS, beta1: float = 0.5
) -> float:
    """Mean log ratio at fresh codes of a critic that was trained as FactorVAE's is."""
    torch.manual_seed(seed)
    guide = Correlated(rho)
    critic = Net({"z": 4}, (128,) * 3, 1, "leaky_relu")
    objective = PermutedCritic(critic, "z", halves=True)
    decays = (beta1, 0.9 if beta1 == 0.5 else 0.999)
    optimiser = torch.optim.Adam(critic.parameters(), 1e-3, betas=decays)
    batch = Batch({"x": torch.zeros(2 * CRITIC_ROWS, 1)})  # halves of 256
    for _ in range(steps):
        optimiser.zero_grad()
        rows = objective.rows(Evaluation(guide, guide, batch))
        rows.mean().backward()
        optimiser.step()
    with torch.no_grad():
        return float(critic(z=guide.law.sample((50_000,))).mean())


ATTEMPTS = {"3,000 steps": (3_000, 0.5), "Adam's usual decays": (CRITIC_STEPS, 0.9)}


def test_a_critic_tells_the_total_correlation_from_below(record):
    asked = [(rho, seed) for rho in TOLD for seed in SEEDS]
    told = iter(run_all(told_by_a_critic, asked))
    estimates = {rho: [next(told) for _ in SEEDS] for rho in TOLD}
    exact = {rho: abs(math.log(1 - rho**2)) / 2 for rho in TOLD}
    ratios = {rho: [e / exact[rho] for e in estimates[rho]] for rho in TOLD if rho}
    most = max(max(of) for of in ratios.values())
    held = {
        "none where there is none, |estimate| below 0.03": max(map(abs, estimates[0.0])) < 0.03,
        "within 25 % at 0.5 and 0.9": all(
            abs(ratio - 1) < 0.25 for rho in (0.5, 0.9) for ratio in ratios[rho]
        ),
        "never above 1.05 of it": most < 1.05,
    }
    note = ""
    if most >= 1.05:
        rho, seed = max(
            ((rho, seed) for rho in ratios for seed in SEEDS), key=lambda at: ratios[at[0]][at[1]]
        )
        again = run_all(told_by_a_critic, [(rho, seed, *how) for how in ATTEMPTS.values()])
        tried = zip(ATTEMPTS, again, strict=True)
        note = (
            f"the largest is {most:.3f} of it, at {rho:g}, seed {seed}. The mean log ratio of a "
            "critic is no bound: one that still moves may overshoot. Of that seed, "
            + "; ".join(f"{how}: {found / exact[rho]:.3f}" for how, found in tried)
        )
    for claim, holds in held.items():
        record(
            f"factor_vae: 1, the critic's total correlation, {claim}",
            paper="own run of the same recipe: "
            + "; ".join(f"{rho:g}: {value}" for rho, value in TOLD.items()),
            ours="; ".join(f"{rho:g}: {spread(of, digits=3)}" for rho, of in estimates.items()),
            baseline="exact " + "; ".join(f"{rho:g}: {of:.3f}" for rho, of in exact.items()),
            holds="yes" if holds else "no",
            note="" if holds else note,
            settings="two of four Gaussian coordinates correlated; critic 128-128-128, Adam 1e-3 "
            "with decays 0.5 and 0.9, 1,500 steps of 256 codes and 256 others to permute; at "
            "50,000 fresh codes; seeds 0-2",
        )
    assert all(holds for claim, holds in held.items() if "1.05" not in claim), held


# ---- blob, positions correlated ---------------------------------------------------------------

CRITIC = (("critic", (128, 128)), ("critic_rate", 1e-3))
WAYS = {
    "VAE": ("beta_vae", 4.0, (("beta", 1.0),)),
    "beta-VAE": ("beta_vae", 4.0, (("beta", 4.0),)),
    "FactorVAE": ("factor_vae", 4.0, (("gamma", 10.0), *CRITIC)),
    "beta-TCVAE": ("beta_tcvae", 4.0, (("beta", 10.0),)),
}


@pytest.fixture(scope="module")
def fits():
    began = time.monotonic()
    asked = [(name, s, weight, opts) for name, weight, opts in WAYS.values() for s in SEEDS]
    found = iter(run_all(fitted, asked))
    return {way: [next(found) for _ in SEEDS] for way in WAYS}, (time.monotonic() - began) / 60


def of(fits, way: str, what: str) -> list[float]:
    return [fit[what] for fit in fits[0][way]]


def test_total_correlation_goes_and_information_stays(fits, record, picture):
    picture(information_and_codes(fits[0]), "factor_vae")
    ours, vae = (of(fits, way, "total_correlation") for way in ("FactorVAE", "VAE"))
    kept, had = (of(fits, way, "mutual_information") for way in ("FactorVAE", "VAE"))
    share = [a / b for a, b in zip(ours, vae, strict=True)]
    lost = [a - b for a, b in zip(had, kept, strict=True)]
    row = {
        "settings": f"{SETTINGS}; likelihood weight 4, gamma 10, critic 128-128, Adam 1e-3",
        "minutes": round(fits[1], 1),
    }
    held = {
        "at most 0.75 of the VAE's in every seed": max(share) <= 0.75,
        "at most 0.25 of the VAE's in one seed": min(share) <= 0.25,
    }
    for claim, holds in held.items():
        record(
            f"factor_vae: 2, blob, total correlation {claim}",
            paper="own run of the same recipe: 0.07, 0.60, 0.78 against 0.91, 1.25, 1.22",
            ours=", ".join(f"{value:.2f}" for value in ours) + " nats",
            baseline="VAE " + ", ".join(f"{value:.2f}" for value in vae) + " nats",
            holds="yes" if holds else "no",
            **row,
        )
    record(
        "factor_vae: 2, blob, information at most 0.3 nats below the VAE's",
        paper="own run of the same recipe: 5.07, 4.79, 4.91 against 4.84, 4.78, 4.82",
        ours=spread(kept, unit="nats"),
        baseline=f"VAE {spread(had, unit='nats')}",
        holds="yes" if max(lost) <= 0.3 else "no",
        **row,
    )
    assert all(held.values()) and max(lost) <= 0.3, (share, lost)


def test_beta_vae_pays_with_information(fits, record):
    kept, other = (of(fits, way, "mutual_information") for way in ("FactorVAE", "beta-VAE"))
    error, others = (of(fits, way, "reconstruction") for way in ("FactorVAE", "beta-VAE"))
    more = [a - b for a, b in zip(kept, other, strict=True)]
    row = {
        "settings": f"{SETTINGS}; likelihood weight 4, gamma 10, beta 4",
        "minutes": round(fits[1], 1),
    }
    record(
        "factor_vae: 3, blob, at least 1 nat more information than beta-VAE at beta 4",
        paper="own run of the same recipe: 5.07, 4.79, 4.91 against 3.52, 3.50, 3.42",
        ours=spread(kept, unit="nats"),
        baseline=f"beta-VAE {spread(other, unit='nats')}",
        holds="yes" if min(more) >= 1 else "no",
        note="beta-VAE's total correlation is "
        + spread(of(fits, "beta-VAE", "total_correlation"), unit="nats"),
        **row,
    )
    lower = all(a < b for a, b in zip(error, others, strict=True))
    record(
        "factor_vae: 3, blob, lower reconstruction error than beta-VAE at beta 4",
        paper="own run of the same recipe: 23.8, 24.0, 23.9 against 24.7, 24.8, 25.2",
        ours=spread(error, unit="nats"),
        baseline=f"beta-VAE {spread(others, unit='nats')}; VAE "
        + spread(of(fits, "VAE", "reconstruction"), unit="nats"),
        holds="yes" if lower else "no",
        **row,
    )
    assert min(more) >= 1 and lower
