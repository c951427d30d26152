"""Fits of ladders of codes on digits, and what each of their layers tells."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pyro.distributions as dist
import torch
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

import ppl_models as zoo
from ppl_models import data, inference

LAYERS = {
    "networks": "dense",
    "levels": (128, 128, 128),
    "hidden": (128,),
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


def layers(seed: int, inked: bool, emphasis: float = 4.0, latent=(2, 2, 2)):
    """What each layer of a VLAE tells of digits, what it costs and what it changes."""
    began = time.monotonic()
    rows = data.load("digits", seed=seed, ink=(0.4, 1.0) if inked else None)
    settings = {**LAYERS, "latent": latent, "emphasis": emphasis, "warmup": 500}
    pair = zoo.build("vlae", rows, seed=seed, **settings)
    inference.fit(
        pair, rows, seed=seed, steps=STEPS, batch_size=100, learning_rate=1e-3, progress=False
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
        start = pair.intervene(given, codes="mean")["x"]
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
