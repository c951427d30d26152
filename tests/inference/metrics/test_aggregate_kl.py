"""The parts of the mean KL over all rows: by loops, in closed form, and as they add up."""

from __future__ import annotations

import math

import arviz as az
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch.testing import assert_close
from worlds.located import Located, LocatedConfig

import ppl_models as zoo
from ppl_models import Batch, data
from ppl_models.data import Table
from ppl_models.inference import metrics
from ppl_models.inference.metrics.disentanglement import aggregate_kl
from ppl_models.inference.metrics.disentanglement.aggregate_kl import PARTS

DRAWS = 3


def located(noise=0.02, chained=False):
    return Located(LocatedConfig((noise, noise), chained)).double()


def places(*values):
    """Rows at all combinations of these values, as a table."""
    grid = torch.cartesian_prod(*(torch.tensor(v, dtype=torch.float64) for v in values))
    return Table("places", {"x": grid})


@pytest.fixture(scope="module")
def m2():
    sizes = data.load("digits", train=30, validation=5, test=5, labelled=10)
    return zoo.build("m2", sizes, latent=2, hidden=(4,), seed=0).double(), sizes.test


@pytest.mark.parametrize("weights", [None, (1.0, 4.0, 0.0, 2.0, 3.0)], ids=["alike", "given"])
def test_every_part_by_loops_over_rows_labels_and_draws(m2, weights, monkeypatch):
    """Of the same draws; a posterior is the mixture over the label that is missing."""
    pair, rows = m2
    runs, run_of = [], aggregate_kl._run
    monkeypatch.setattr(
        aggregate_kl, "_run", lambda *asked: runs.append(run_of(*asked)) or runs[-1]
    )
    found = metrics.kl_decomposition(pair, rows, draws=DRAWS, weights=weights, seed=4)
    share = torch.tensor(weights or [1.0] * 5, dtype=torch.float64)
    share = share / share.sum()
    seen = {"x": rows.sites["x"][:].double()}
    (run,) = runs
    with torch.no_grad():
        z = run.drawn.guide.nodes["z"]["value"].reshape(-1, DRAWS, 5, 2)
        of_label = pair.guide.factor("y", Batch(seen)).probs  # N x C
        labels = (torch.full((5,), y) for y in range(10))
        posterior = [pair.guide.factor("z", {**seen, "y": y}).base_dist for y in labels]
        sums = dict.fromkeys(PARTS, 0.0)
        per_code = torch.zeros(2, dtype=torch.float64)
        for n in range(5):
            for y in range(10):
                for k in range(DRAWS):
                    code = z[y, k, n]
                    each = torch.stack([q.log_prob(code) for q in posterior], 1).exp()  # N C D
                    own = (of_label[n] * each[n].prod(-1)).sum()
                    of_rows = share[:, None] * of_label
                    joint = (of_rows * each.prod(-1)).sum()
                    apart = (of_rows[..., None] * each).sum((0, 1))
                    prior = dist.Normal(0.0, 1.0).log_prob(code).exp()
                    counts = share[n] * of_label[n, y] / DRAWS
                    sums["mutual_information"] += counts * (own / joint).log()
                    sums["total_correlation"] += counts * (joint / apart.prod()).log()
                    sums["dimension_wise"] += counts * (apart / prior).log().sum()
                    sums["kl"] += counts * (own / prior.prod()).log()
                    per_code += counts * (apart / prior).log()
    for name, value in sums.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-8, abs=1e-9), name
    assert_close(torch.tensor(found["dimension_wise_per_code"].values), per_code)
    assert list(found.code.values) == ["z[0]", "z[1]"]


@pytest.mark.parametrize("pieces", [1, 7])
def test_separated_posteriors_are_a_discrete_distribution(pieces, monkeypatch):
    """I is the entropy of the weights, TC the mutual information of the two coordinates."""
    pair, rows = located(), places((-1.0, 0.0, 1.0), (-2.0, -0.5, 0.5, 2.0))
    monkeypatch.setattr(aggregate_kl, "CELLS", aggregate_kl.CELLS if pieces == 1 else 40)
    w = np.random.default_rng(0).random((3, 4)) + 0.1
    w /= w.sum()
    found = metrics.kl_decomposition(pair, rows, weights=w.ravel())
    assert float(found.mutual_information) == pytest.approx(-(w * np.log(w)).sum(), abs=1e-9)
    outer = w.sum(1, keepdims=True) * w.sum(0)
    assert float(found.total_correlation) == pytest.approx((w * np.log(w / outer)).sum(), abs=1e-9)
    alike = metrics.kl_decomposition(pair, rows)
    assert float(alike.mutual_information) == pytest.approx(math.log(12), abs=1e-9)
    assert float(alike.total_correlation) == pytest.approx(0, abs=1e-9)
    prior = dist.Normal(0.0, 2.0)
    closed = torch.distributions.kl_divergence(dist.Normal(rows.sites["x"][:], 0.02), prior)
    exact = float((torch.tensor(w.ravel()) * closed.sum(-1)).sum())
    assert abs(float(found.kl) - exact) < 4 * float(found.kl_error)
    assert 0 < float(found.kl_error) < 0.3


def test_the_errors_are_those_over_seeds():
    """Of 25 seeds: the spread of a value about its mean is the error that each tells."""
    pair, rows = located(noise=0.8), places((-1.0, 0.0, 1.0), (-0.5, 0.5))
    weights = np.arange(1.0, 7.0)
    every = [metrics.kl_decomposition(pair, rows, weights=weights, seed=s) for s in range(25)]
    for name in (*PARTS, "dimension_wise_per_code"):
        values = np.stack([found[name].values for found in every])
        told = np.mean([found[f"{name}_error"].values for found in every], axis=0)
        ratio = values.std(0, ddof=1) / told
        assert ((ratio > 0.5) & (ratio < 1.6)).all(), name  # 24 degrees of freedom: 0.14 of it


@pytest.fixture(scope="module")
def blob():
    return data.factor_data("blob")


def test_a_grid_is_its_cells_and_the_parts_add_up(blob):
    pair = zoo.build("vae", blob.dataset(), latent=3, hidden=(8,), seed=0)
    with torch.no_grad():
        pair.guide.factors["z"].net.rest[-1].weight.mul_(30)  # codes that tell cells apart
    weights = blob.correlated("positions", 0.3)
    state = torch.get_rng_state()
    found = metrics.kl_decomposition(pair, blob, weights=weights, draws=2)
    assert torch.equal(torch.get_rng_state(), state)
    parts = [float(found[name]) for name in PARTS]
    assert min(parts[:2]) > 0.1 and sum(parts[:3]) == pytest.approx(parts[3], abs=1e-9)
    (batch,) = Table("cells", {"x": cells(blob)}).batches()
    with torch.no_grad():
        q = pair.guide.factor("z", batch).base_dist
    closed = (q.loc**2 + q.scale**2 - 1) / 2 - q.scale.log()
    exact = float((torch.tensor(weights / weights.sum()) * closed.sum(-1)).sum())
    assert abs(parts[3] - exact) < 4 * float(found.kl_error)
    few = metrics.kl_decomposition(pair, blob, [5, 300], draws=2)
    assert few.attrs["rows"] == 2 and float(few.mutual_information) < math.log(2)
    idata = metrics.attach(az.from_dict({"z": np.zeros((1, 2))}), found)
    assert float(idata["metrics"].total_correlation) == parts[1]


def cells(blob):
    classes = blob.classes(np.arange(len(blob)))
    drawn = blob.render(classes, np.random.default_rng(0))
    return torch.as_tensor(drawn, dtype=torch.float32).flatten(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 1}, "draws is 1, expected at least 2"),
        ({"weights": [1.0, 2.0]}, r"weights have shape \(2,\), expected \(4,\), finite, none"),
        ({"weights": [1.0, 2.0, -1.0, 0.0]}, "none of them negative and"),
        ({"weights": [0.0] * 4}, "not all 0"),
        ({"sites": ("a",)}, "located: unknown continuous latent site 'a'"),
    ],
)
def test_options_out_of_range(options, message):
    rows = places((0.0, 1.0), (0.0, 1.0))
    with pytest.raises(ValueError, match=message) as caught:
        metrics.kl_decomposition(located(), rows, **options)
    assert "\n" not in str(caught.value)


def test_what_has_no_posterior_of_its_own_is_refused():
    rows = places((0.0, 1.0), (0.0, 1.0))
    with pytest.raises(ValueError, match="site 'w' hangs on draws of other codes"):
        metrics.kl_decomposition(located(chained=True), rows)
    with pytest.raises(ValueError, match="data are a dict, expected a table"):
        metrics.kl_decomposition(located(), {})
