"""Fits of ladders of codes on digits, and what each of their layers tells."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pyro.distributions as dist
import torch
from scipy import stats
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

import ppl_models as zoo
from ppl_models import data, inference

LAYERS = {
    "networks": "dense",
    "levels": (128, 128, 128),
    "hidden": (128, 128),
    "likelihood": "soft_bernoulli",
}
STEPS, NEIGHBOURS, DRAWS = 2_000, 10, 20


def means(pair, table):
    """Posterior means of each code, ``(N, d_l)``, bottom first."""
    with torch.no_grad():
        (batch,) = table.batches()
        given = batch.only("x")
        return [pair.guide.factor(site, given).mean.numpy() for site in pair.config.sites]


def accuracy(train, test, y_train, y_test) -> float:
    """Of the label by ten neighbours."""
    return KNeighborsClassifier(NEIGHBOURS).fit(train, y_train).score(test, y_test)


def explained(train, test, g_train, g_test) -> float:
    """R^2 of a number by ten neighbours."""
    return KNeighborsRegressor(NEIGHBOURS).fit(train, g_train).score(test, g_test)


class BatchNorm(torch.nn.BatchNorm1d):
    """Over all rows of vectors ``(..., units)``; means of codes are given without rows, too."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        rows = features.reshape(-1, features.shape[-1])
        return super().forward(rows).reshape(features.shape)


def batch_normed(pair: zoo.Pair) -> None:
    """Put batch norm, which the papers have, in place of layer norm."""
    for module in list(pair.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.LayerNorm):
                setattr(module, name, BatchNorm(child.normalized_shape[0]))


def layers(seed: int, inked: bool, latent: tuple[int, ...], steps: int, norm: str = "layer"):
    """What each layer of a VLAE tells of digits, what it costs and what it changes."""
    began = time.monotonic()
    rows = data.load("digits", seed=seed, ink=(0.4, 1.0) if inked else None)
    settings = {**LAYERS, "latent": latent, "emphasis": 4.0, "kl_warmup": 500}
    pair = zoo.build("vlae", rows, seed=seed, **settings)
    if norm == "batch":
        batch_normed(pair)
    inference.fit(
        pair, rows, seed=seed, steps=steps, batch_size=100, learning_rate=1e-3, progress=False
    )
    train, test = means(pair, rows.train), means(pair, rows.test)
    labels = rows.train.sites["y"].numpy(), rows.test.sites["y"].numpy()
    found = {"accuracy": [accuracy(*layer, *labels) for layer in zip(train, test, strict=True)]}
    if inked:
        ink = rows.train.sites["ink"].numpy(), rows.test.sites["ink"].numpy()
        found["ink"] = [explained(*layer, *ink) for layer in zip(train, test, strict=True)]
    units = inference.active_units(pair, rows.test, seed=seed)
    found["kl"] = [float(units.site_kl.sel(site=site)) for site in pair.config.sites]
    found["changes"] = changes(pair, rows.test, seed)
    if len(latent) == 1:
        found["splits"] = splits(train[0], test[0], *labels)
    return {**found, "seconds": time.monotonic() - began}


def changes(pair, table, seed: int) -> list[float]:
    """How far the mean image moves as one layer is drawn from its prior, the others at the mean.

    Squared distance of two images, mean over rows and draws.
    """
    (batch,) = table.batches()
    given, moved = batch.only("x"), []
    with torch.no_grad():
        # Set to what they are: without a site that is set, the rows would come back.
        own = pair.guide.factor("z_1", given).mean
        start = pair.intervene(given, codes="mean", z_1=own)["x"]
        for site, size in zip(pair.config.sites, pair.config.latent, strict=True):
            torch.manual_seed(seed)
            prior = dist.Normal(torch.zeros(size), 1.0).to_event(1)
            x = pair.intervene(given, codes="mean", draws=DRAWS, **{site: prior})["x"]
            moved.append(float((x - start).square().sum(-1).mean()))
    return moved


def splits(train, test, y_train, y_test) -> list[list[float]]:
    """Accuracies of three pairs of six numbers, for all fifteen ways to pair them up."""
    by_pair = {
        both: accuracy(train[:, both], test[:, both], y_train, y_test)
        for both in itertools.combinations(range(train.shape[1]), 2)
    }
    ways = []
    for three in itertools.combinations(by_pair, 3):
        if len(set(itertools.chain.from_iterable(three))) == 6:
            ways.append([by_pair[both] for both in three])
    return np.asarray(ways).tolist()


def chains(seed: int, steps: int, norm: str = "layer", rounds: int = 50, count: int = 1_000):
    """Where chains of images from noise end: through z_1 alone, and through both codes."""
    began = time.monotonic()
    rows = data.load("digits", seed=seed)
    settings = {"networks": "dense", "latent": (6, 6), "levels": (128, 128), "hidden": (128,)}
    pair = zoo.build("ladder_vae", rows, seed=seed, kl_warmup=250, **settings)
    if norm == "batch":
        batch_normed(pair)
    stage = inference.Stage(pair.objective(), prepare=black_or_white)
    inference.fit(
        pair, rows, stages=(stage,), seed=seed, steps=steps, batch_size=100,
        learning_rate=1e-3, progress=False,
    )  # fmt: skip
    torch.manual_seed(seed)
    ends = []
    with torch.no_grad():
        for all_codes in (False, True):
            x = torch.bernoulli(torch.full((count, 64), 0.5))
            for _ in range(rounds):
                z = pair.guide(zoo.Batch({"x": x}))
                prior = pair.story.prior("z_2", None)
                path = pair.story.below("z_2", None, z["z_2"], prior)
                p = pair.story.prior("z_1", path)
                z_1 = p.sample() if all_codes else z["z_1"]
                mean = pair.likelihood(
                    pair.story.image(pair.story.below("z_1", path, z_1, p))
                ).mean
                x = torch.bernoulli(mean)
            ends.append((x, mean))
    classes = KNeighborsClassifier(NEIGHBOURS).fit(
        rows.train.sites["x"][:].numpy(), rows.train.sites["y"].numpy()
    )
    counts = [np.bincount(classes.predict(mean.numpy()), minlength=10) for _, mean in ends]
    there = [n for n in np.transpose(counts) if n.sum()]
    one, other = (x.double() for x, _ in ends)
    variance = (one.var(0) + other.var(0)) / count
    score = ((one.mean(0) - other.mean(0)).square() / variance)[variance > 1e-5].mean()
    # Pixels hang together: as many independent ones as their correlation's participation ratio.
    effective = _effective(torch.cat((one, other))[:, variance > 1e-5])
    return {
        "pixels": float(score),
        "pixel_bound": float(stats.chi2(effective).ppf(0.99) / effective),
        "p_value": float(stats.chi2_contingency(np.transpose(there)).pvalue),
        "counts": [n.tolist() for n in counts],
        "seconds": time.monotonic() - began,
    }


def _effective(x) -> float:
    values = torch.linalg.eigvalsh(torch.corrcoef(x.T))
    return float(values.sum() ** 2 / values.square().sum())


def black_or_white(batch):
    """Pixels drawn as 0 or 1 by their grey."""
    return batch.replace({**batch, "x": torch.bernoulli(batch["x"])})


def fading(seed: int, turn: int = 300):
    """KL of each layer when its turn comes, and whether its code changed anything before."""
    began = time.monotonic()
    rows = data.load("digits", seed=seed, ink=(0.4, 1.0))
    pair = zoo.build("vlae", rows, seed=seed, emphasis=4.0, fade_in=turn, first_beta=1.0, **LAYERS)
    found = {"kl": [], "same": True}

    def look(run, step):
        if step not in (turn, 2 * turn):
            return
        (batch,) = rows.test.batches()
        given, site = batch.only("x"), f"z_{3 - step // turn}"
        with torch.no_grad():
            q = pair.guide.factor(site, given).base_dist
            kl = torch.distributions.kl_divergence(q, dist.Normal(torch.zeros(2), 1.0))
            found["kl"].append(float(kl.sum(-1).mean()))
            q = pair.guide.factor("z_3", given).base_dist
            kl = torch.distributions.kl_divergence(q, dist.Normal(torch.zeros(2), 1.0))
            found["top"] = float(kl.sum(-1).mean())

    def zeroed(run, step):
        if step != turn - 1:
            return
        (batch,) = rows.test.batches()
        given = batch.only("x")
        with torch.no_grad():
            own = {"z_1": pair.guide.factor("z_1", given).mean}
            x = [
                pair.intervene(given, codes="mean", **moved)["x"]
                for moved in (own, {"z_1": 0.0}, {"z_2": 0.0})
            ]
        found["same"] = bool((x[0] == x[1]).all() and (x[0] == x[2]).all())

    inference.fit(
        pair, rows, seed=seed, steps=2 * turn, batch_size=100, learning_rate=1e-3,
        callbacks=(look, zeroed), progress=False,
    )  # fmt: skip
    return {**found, "seconds": time.monotonic() - began}


def traversed(seed: int, steps: int = 2_500, count: int = 7):
    """Images of MNIST ``(3, count, count, 28, 28)`` as each layer moves over a square."""
    began = time.monotonic()
    rows = data.load("mnist", seed=seed)
    pair = zoo.build(
        "vlae", rows, seed=seed, emphasis=4.0, kl_warmup=500,
        **{**LAYERS, "levels": (256, 256, 256), "hidden": (256,)},
    )  # fmt: skip
    inference.fit(
        pair, rows, seed=seed, steps=steps, batch_size=100, learning_rate=1e-3, progress=False
    )
    values = torch.linspace(-2, 2, count)
    grid = torch.stack(torch.meshgrid(-values, values, indexing="ij"), -1).flip(-1).reshape(-1, 2)
    first = (rows.test.sites["y"] == 5).nonzero()[0]
    given = zoo.Batch({"x": rows.test.sites["x"][first].expand(len(grid), -1)})
    images = []
    with torch.no_grad():
        for site in pair.config.sites:
            x = pair.intervene(given, codes="mean", **{site: grid})["x"]
            images.append(x.reshape(count, count, 28, 28).numpy())
    return np.stack(images), time.monotonic() - began
