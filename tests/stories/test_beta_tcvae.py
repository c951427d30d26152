"""Beta-TCVAE on blob: a term over the rows of a batch in all that is done with a pair."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from worlds.stories import beta_tcvae
from worlds.whole_life import whole_life

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference import ELBO, IWELBO, Evaluation, kl_parts
from ppl_models.testing import PairContract

SOURCE = f"{Path(beta_tcvae.__file__)}:BetaTCVAE"


class TestContract(PairContract):
    @pytest.fixture
    def entry(self):
        return SOURCE


@pytest.fixture(scope="module")
def blob():
    return data.load("blob", train=400, validation=60, test=60)


def build(blob, **settings):
    return zoo.build(SOURCE, blob, **{"hidden": (32,), "seed": 0, **settings})


def test_its_whole_life(blob, tmp_path):
    run, idata = whole_life(
        lambda: build(blob), blob, tmp_path, epochs=4, batch_size=50, patience=4
    )
    assert set(run.history) >= {"bound", "total_correlation(z)"}
    assert float(run.validation["loss"][-1]) < float(run.validation["loss"][0])
    # What rows have together is no evidence of a row: as with the bound alone.
    assert "total_correlation" not in idata.log_likelihood
    alone = run.bound_per_row(blob.test, ELBO(kl="analytic"))
    assert torch.equal(run.bound_per_row(blob.test, run.pair.objective()), alone)
    with pytest.raises(ValueError, match="no loss of a single row"):
        run.loss_per_row(blob.test, run.pair.objective())


def exact_parts(run, table):
    """Of all rows at once, the mixture of which is the aggregate posterior of the table."""
    (batch,) = table.batches()
    with torch.no_grad():
        torch.manual_seed(0)
        parts = kl_parts(Evaluation(run.pair.model, run.pair.guide, batch), "z")
    return [float(part.mean()) for part in parts]


@pytest.mark.parametrize(
    "bound", [None, pytest.param(IWELBO(2), marks=pytest.mark.long)], ids=repr
)
def test_it_lowers_the_total_correlation_and_keeps_the_information(blob, bound):
    found = {}
    for beta in (1.0, 10.0):
        pair = build(blob, beta=beta, sigma=0.15)
        run = inference.fit(
            pair, blob, pair.objective(bound), epochs=60, batch_size=100,
            learning_rate=3e-3, progress=False, device="cpu",
        )  # fmt: skip
        found[beta] = exact_parts(run, blob.train)
    (vae_information, vae_tc, _), (information, tc, _) = found[1.0], found[10.0]
    # Over ten seeds and both bounds at most 0.24, and 0.66 to 0.75 (deviation 0.02).
    assert tc < 0.5 * vae_tc
    assert information > 0.6 * vae_information
