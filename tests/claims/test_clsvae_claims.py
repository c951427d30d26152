"""Eduardo et al. 2022: systematic errors are found and repaired with 80 trusted rows."""

from __future__ import annotations

import statistics
import time

import matplotlib
import pyro
import pyro.distributions as dist
import pytest
import torch
from claims.measuring import run_all, spread
from sklearn.metrics import average_precision_score

import ppl_models as zoo
from ppl_models import data, guides, inference
from ppl_models.data.render.outliers import error_masks
from ppl_models.networks import Net
from ppl_models.semisupervised.clsvae import CLSVAE, CLSVAEConfig

matplotlib.use("Agg")
pytestmark = pytest.mark.claims
SEEDS = (0, 1, 2)
FIT = {"epochs": 80, "batch_size": 128}
SETTINGS = (
    "2,500 shapes of 28 x 28, 35 % outliers, 80 trusted rows, 80 passes of 128 rows (4 of them "
    "trusted), 10 before KL and dCor count; 600 test rows; seeds 0-2"
)
# Why check 2 misses, as far as is known.
UNSETTLED = (
    "inliers are taken for outliers (seed 1: 18 %, while no outlier is missed) and then use z_d, "
    "after 80 passes of 2,500 rows where the paper has 200 of 4,000. All 80 trusted rows at each "
    "step gave 0.592, 0.965, 0.910; the calibration's 1.000 was not found again"
)


class Ungated(CLSVAE):
    """The decoder sees the dirty pattern of inliers, too."""

    def model(self, batch):
        c, zero = self.config, self.like().new_zeros
        with self.plate(batch):
            pyro.sample("y", self.label_prior("y"), obs=batch.get("y"))
            z_c = pyro.sample("z_c", dist.Normal(zero(c.clean_code), c.s_c).to_event(1))
            z_d = pyro.sample("z_d", dist.Normal(zero(c.dirty_code), c.s_d).to_event(1))
            pyro.sample("z_eps", dist.Normal(zero(c.dirty_code), c.s_eps).to_event(1))
            pyro.sample("x", self.decode(z_c, z_d), obs=batch.get("x"))


def vae(rows, seed):
    """A code of 15 numbers, with the encoder and decoder of the pair; no labels."""
    pair = zoo.build("vae", rows, seed=seed, latent=15, likelihood="bernoulli")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pair.decoder = Net({"z": 15}, (50, 100, 200), 784, "relu")
        pair.guide = guides.Factored(z=guides.Normal(15, {"x": 784}, (200, 100, 50), "relu"))
    inference.fit(pair, rows.train.only("x"), seed=seed, progress=False, **FIT)
    return pair


def partners(error):
    """For each outlier, in the order of their errors, another one with another error."""
    order = error.argsort(stable=True)
    partner = torch.empty_like(order)
    partner[order] = order.roll(-int(error.bincount().max()) - 1)
    assert bool((error[partner] != error).all())
    return partner


@torch.no_grad()
def measured(kind: str, seed: int) -> dict[str, object]:
    """Errors of repair on test outliers, and the average precision of the detection score."""
    rows = data.load("outliers", train=2500, validation=50, test=600, labelled=80, seed=seed)
    outlier = rows.test.sites["y"] == 0
    (every,) = rows.test.batches()
    x, clean, error = (rows.test.sites[n][outlier] for n in ("x", "clean", "error"))
    dirty = x != clean
    found: dict[str, object] = {}
    if kind == "VAE":
        with torch.enable_grad():
            pair = vae(rows, seed)
        x_hat = pair.likelihood(pair.decoder(z=pair.guide.factor("z", every).mean))
        score, repaired = -x_hat.log_prob(every["x"]), x_hat.mean[outlier]
    else:
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(seed)
            pair = {"CLSVAE": CLSVAE, "z_d for all": Ungated}[kind](CLSVAEConfig(delay=0.125))
            inference.fit(pair, rows, seed=seed, progress=False, **FIT)
        score, repaired = pair.score(every), pair.repair(every)[outlier]
        code = {name: pair.guide.factor(name, {"x": x}).mean for name in ("z_c", "z_d")}
        full = pair.decode(code["z_c"], code["z_d"]).mean
        found["full, to dirty"] = float((full - x)[dirty].square().mean())
        found["full, to clean"] = float((full - clean)[dirty].square().mean())
        partner = partners(error)
        swapped = pair.decode(code["z_c"], code["z_d"][partner]).mean
        # Wherever the shape is not: the partner's error should be there, and no other.
        there = masks()[error[partner]]
        free = (masks()[error] != there) & (clean == 0)
        found["swapped, to the other's error"] = float((swapped - there)[free].square().mean())
        found["swapped, to its own error"] = float((swapped - x)[free].square().mean())
        if kind == "CLSVAE" and seed == 0:
            found["images"] = [v.numpy() for v in (clean, x, repaired, swapped, error)]
    found["dirty"] = float((repaired - clean)[dirty].square().mean())
    found["clean"] = float((repaired - clean)[~dirty].square().mean())
    found["precision"] = float(average_precision_score(outlier.numpy(), score.numpy()))
    if kind == "VAE" and seed == 0:
        found["images"] = repaired.numpy()
    return found


def masks():
    """The errors by number, flattened; 0 is none."""
    blank = torch.zeros(28 * 28)
    return torch.stack([blank, *(torch.from_numpy(e).flatten().float() for e in error_masks())])


@pytest.fixture(scope="module")
def fits():
    """What was measured, by kind and seed, and the minutes that it took."""
    began = time.monotonic()
    kinds = ("CLSVAE", "VAE", "z_d for all")
    jobs = [(kind, seed) for seed in SEEDS for kind in kinds]
    found = dict(zip(jobs, run_all(measured, jobs), strict=True))
    minutes = round((time.monotonic() - began) / 60, 1)
    return {k: [found[k, seed] for seed in SEEDS] for k in kinds}, minutes


def values(columns, kind, name):
    return [run[name] for run in columns[kind]]


def test_outliers_are_repaired(fits, record):
    """Checks 1 and 4."""
    columns, minutes = fits
    ours, plain, ungated = (values(columns, k, "dirty") for k in columns)
    rest = values(columns, "CLSVAE", "clean")
    mean = [statistics.mean(v) for v in (ours, plain, ungated)]
    holds = {
        "dirty": mean[0] <= 0.08 and mean[0] <= mean[1] / 3,
        "clean": statistics.mean(rest) <= 0.05,
        "noise": mean[2] >= 2 * mean[0],
    }
    record(
        "clsvae: 1, repair, squared error of dirty pixels at most 0.08 and a third of the VAE's",
        paper="0.014 (0.008) against 0.049, other measure and training",
        ours=spread(ours, digits=3),
        baseline=f"VAE {spread(plain, digits=3)}",
        holds="yes" if holds["dirty"] else "no",
        settings=SETTINGS,
        fixture="fits",
        minutes=minutes,
    )
    record(
        "clsvae: 1, repair, squared error of outliers' clean pixels at most 0.05",
        paper="0.005 against 0.015, all rows",
        ours=spread(rest, digits=3),
        baseline=f"VAE {spread(values(columns, 'VAE', 'clean'), digits=3)}",
        holds="yes" if holds["clean"] else "no",
        settings=SETTINGS,
        fixture="fits",
        minutes=minutes,
    )
    record(
        "clsvae: 4, without noise in place of z_d the error of dirty pixels at least doubles",
        ours=spread(ours, digits=3),
        baseline=f"z_d for inliers, too: dirty {spread(ungated, digits=3)}, clean "
        f"{spread(values(columns, 'z_d for all', 'clean'), digits=3)}",
        holds="yes" if holds["noise"] else "no",
        settings=SETTINGS,
        fixture="fits",
        minutes=minutes,
    )
    assert all(holds.values()), holds


def test_outliers_are_found(fits, record):
    """Check 2."""
    columns, minutes = fits
    ours, plain = (values(columns, k, "precision") for k in ("CLSVAE", "VAE"))
    gain = statistics.mean(ours) - statistics.mean(plain)
    holds = statistics.mean(ours) >= 0.97 and gain >= 0.05
    record(
        "clsvae: 2, detection, average precision at least 0.97 and 0.05 above the VAE's",
        paper="0.99 against 0.93",
        ours=spread(ours, digits=3),
        baseline=f"VAE's likelihood {spread(plain, digits=3)}",
        holds="yes" if holds else "no",
        note="" if holds else UNSETTLED,
        settings=SETTINGS,
        fixture="fits",
        minutes=minutes,
    )
    # A miss as it stands.
    assert holds, (ours, plain)


def test_the_dirty_pattern_carries_the_error(fits, record):
    """Check 3."""
    columns, minutes = fits
    names = ("full, to dirty", "full, to clean", "swapped, to the other's error",
             "swapped, to its own error", "dirty")  # fmt: skip
    found = {name: values(columns, "CLSVAE", name) for name in names}
    mean = {name: statistics.mean(v) for name, v in found.items()}
    holds = {
        "kept": mean["full, to dirty"] < 0.25
        and mean["full, to dirty"] <= mean["full, to clean"] / 2,
        "swapped": mean["swapped, to the other's error"] <= mean["swapped, to its own error"] / 2,
    }
    record(
        "clsvae: 3, z_d brings the error back: dirty pixels below 0.25, half of that to clean",
        ours=spread(found["full, to dirty"], digits=3),
        baseline=f"to the clean image {spread(found['full, to clean'], digits=3)}, without z_d "
        f"{spread(found['dirty'], digits=3)}",
        holds="yes" if holds["kept"] else "no",
        settings=SETTINGS,
        fixture="fits",
        minutes=minutes,
    )
    record(
        "clsvae: 3, z_d of another outlier swaps the error, half of the distance to the own",
        ours=spread(found["swapped, to the other's error"], digits=3),
        baseline=f"to its own {spread(found['swapped, to its own error'], digits=3)}",
        holds="yes" if holds["swapped"] else "no",
        settings=SETTINGS,
        fixture="fits",
        minutes=minutes,
    )
    assert all(holds.values()), holds


def test_picture(fits, picture):
    from matplotlib import pyplot as plt

    columns, _ = fits
    clean, x, repaired, swapped, error = columns["CLSVAE"][0]["images"]
    plain = columns["VAE"][0]["images"]
    chosen = [i for e in (1, 2, 3, 4) for i in (error == e).nonzero()[0][:3]]
    lines = {"clean": clean, "dirty": x, "CLSVAE": repaired, "VAE": plain, "swapped": swapped}
    figure, axes = plt.subplots(len(lines), len(chosen), figsize=(9, 4.1))
    for row, (name, images) in zip(axes, lines.items(), strict=True):
        for axis, i in zip(row, chosen, strict=True):
            axis.imshow(images[i].reshape(28, 28), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.subplots_adjust(wspace=0.06, hspace=0.06)
    picture(figure, "clsvae")
    plt.close(figure)
