"""Fits that are good, and the same with a fault planted: what a verdict must tell apart."""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.inference.posterior.groups import as_inference_data, groups_of, with_groups

MIXTURE = f"{Path(__file__).parents[2] / 'examples' / 'factor_mixture.py'}:FactorMixture"


def clusters(seed: int, labelled: int | None = 60) -> data.Dataset:
    """Three well separated clusters of some 300 rows in five dimensions, with two factors each."""
    draw = np.random.default_rng(seed)
    y = draw.integers(0, 3, 900)
    axes, _ = np.linalg.qr(draw.normal(size=(5, 5)))
    directions, factors = draw.normal(size=(3, 5, 2)) / 2, draw.normal(size=(900, 2))
    x = 4 * axes[y] + np.einsum("ndk,nk->nd", directions[y], factors)
    x += 0.3 * draw.normal(size=(900, 5))
    return data.from_arrays(x=x.astype("float32"), y=y, labelled=labelled, seed=seed)


def digits(seed: int, labelled: int | None = 100) -> data.Dataset:
    """Handwritten digits of 8 x 8 pixels."""
    return data.load("digits", labelled=labelled, seed=seed)


@dataclass(frozen=True)
class Recipe:
    """How a good fit is made.

    Attributes:
        pair: Name of the pair.
        rows: Data of a seed.
        settings: Of the pair.
        training: Of the fit.
        error: A good fit has a label error below it.
    """

    pair: str
    rows: Callable[[int], data.Dataset]
    settings: dict[str, Any]
    training: dict[str, Any]
    error: float = 0.2

    def fit(self, seed: int, rows: data.Dataset | None = None, **training: Any) -> inference.Run:
        """A fit on fresh data, or on rows that are given."""
        rows = self.rows(seed) if rows is None else rows
        pair = zoo.build(self.pair, rows, seed=seed, **self.settings)
        options = {"progress": False, "seed": seed, **self.training, **training}
        return inference.fit(pair, rows, **options)


SMALL = {"hidden": (64,), "latent": 8}
PAIRS = {
    "vae": Recipe("vae", digits, SMALL, {"epochs": 100, "learning_rate": 2e-3}),
    "m2": Recipe(
        "m2", digits, {"hidden": (128,), "latent": 10}, {"epochs": 150, "learning_rate": 2e-3}
    ),
    "factor mixture": Recipe(
        MIXTURE, clusters, {}, {"epochs": 200, "learning_rate": 0.01}, error=0.03
    ),
    "partially_specified, label first": Recipe(
        "partially_specified", digits, {**SMALL, "gamma": 5.0},
        {"epochs": 100, "learning_rate": 2e-3},
    ),
    "partially_specified, style first": Recipe(
        "partially_specified", digits, {**SMALL, "gamma": 5.0, "guide": "style_first"},
        {"epochs": 100, "learning_rate": 2e-3},
    ),
    "mmdgm": Recipe(
        "mmdgm", lambda seed: digits(seed, None), {"hidden": (64,), "latent": 3},
        {"epochs": 400, "learning_rate": 2e-3},
    ),
}  # fmt: skip


# ---- faults in what was fitted -----------------------------------------------------------------


def named(pair: zoo.Pair, *ends: str) -> list[Tensor]:
    """The parameters whose names end in one of these."""
    return [p for name, p in pair.named_parameters() if name.endswith(ends)]


def code_head(pair: zoo.Pair) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer that gives the code's mean and log-variance."""
    weight, bias = named(pair, "z.net.rest.1.weight", "z.net.rest.1.bias",
                         "encoder.rest.1.weight", "encoder.rest.1.bias")  # fmt: skip
    return weight, bias


def label_head(pair: zoo.Pair) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer that gives the classes' logits."""
    weight, bias = named(pair, "y.net.rest.1.weight", "y.net.rest.1.bias",
                         "discriminant.weights", "discriminant.bias")  # fmt: skip
    return weight, bias


def scaled(factor: float) -> Callable[[zoo.Pair], None]:
    """The code's standard deviation times a factor."""

    def plant(pair: zoo.Pair) -> None:
        bias = code_head(pair)[1]
        bias[len(bias) // 2 :] += 2 * float(np.log(factor))

    return plant


def collapsed_codes(pair: zoo.Pair) -> None:
    """The code is N(0, 1) whatever the row."""
    for parameter in code_head(pair):
        parameter.zero_()


def deaf_decoder(pair: zoo.Pair) -> None:
    """The data do not depend on the code."""
    for parameter in named(pair, "decoder.first.weights.z", "directions"):
        parameter.zero_()


def one_class(pair: zoo.Pair) -> None:
    """Every row is of the first class."""
    label_head(pair)[1][0] += 100


def constant_classifier(pair: zoo.Pair) -> None:
    """All rows have the same, even probabilities."""
    for parameter in label_head(pair):
        parameter.zero_()


def dead_class(pair: zoo.Pair) -> None:
    """No row is of the third class."""
    label_head(pair)[1][2] -= 100


def swapped(pair: zoo.Pair) -> None:
    """The first class is taken for the second, and the second for the first."""
    for parameter in label_head(pair):
        parameter[[0, 1]] = parameter[[1, 0]].clone()


IN_PAIR: dict[str, tuple[str, Callable[[zoo.Pair], None], str]] = {
    "guide too wide": ("width", scaled(3.0), "standard deviations times 3"),
    "guide too narrow": ("width", scaled(0.25), "standard deviations times 1/4"),
    "codes collapsed": ("units in use", collapsed_codes, "q(z) = N(0, 1) for all rows"),
    "decoder ignores the code": ("decoder", deaf_decoder, "weights from z to zero"),
    "every row in one class": ("class shares", one_class, "a logit of q(y) plus 100"),
    "classifier collapsed": ("label information", constant_classifier, "q(y) even for all rows"),
    "one dead class": ("dead class", dead_class, "a logit of q(y) minus 100"),
    "swapped labels": ("swapped classes", swapped, "two logits of q(y) exchanged"),
}
OF_LABELS = tuple(IN_PAIR)[4:]


def planted(run: inference.Run, plant: Callable[[zoo.Pair], None]) -> inference.Run:
    """The same run with a fault in a copy of its pair; labelled rows are looked at anew."""
    from ppl_models.inference.posterior.confusion import labelled_rows

    made = copy.copy(run)
    made.pair = copy.deepcopy(run.pair)
    with torch.no_grad():
        plant(made.pair)
    made.labelled = labelled_rows(made.pair, run.data.train)
    return made


# ---- faults in how it was fitted ---------------------------------------------------------------


def stopped_early(recipe: Recipe, seed: int) -> inference.Run:
    """A thirtieth of the passes."""
    return recipe.fit(seed, epochs=recipe.training["epochs"] // 30)


def broken_off(recipe: Recipe, seed: int) -> inference.Run:
    """Interrupted after a few passes, and read from its folder."""

    def interrupt(run: inference.Run, step: int) -> None:
        if step > 20:
            os.kill(os.getpid(), signal.SIGINT)

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        with contextlib.suppress(KeyboardInterrupt):
            recipe.fit(seed, out=out, callbacks=(interrupt,))
        return inference.load(out, None if ":" not in recipe.pair else recipe.pair)


def wrong_labels(recipe: Recipe, seed: int) -> inference.Run:
    """Labels of the training rows are shuffled."""
    rows = recipe.rows(seed)
    train = rows.train
    y = train.sites["y"][:].clone()
    known = (y >= 0).nonzero().flatten()
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
    y[known] = y[known[order]]
    table = train.replace(sites={**train.sites, "y": y})
    return recipe.fit(
        seed, data.Dataset(rows.name, table, rows.validation, rows.test, rows.recipe)
    )


def by_the_bound(recipe: Recipe, seed: int) -> inference.Run:
    """No term teaches q(y | x), as in a pair of one's own; for a third of the passes."""
    bound, epochs = inference.EnumeratedELBO(), recipe.training["epochs"] // 3
    return recipe.fit(seed, objective=bound, epochs=epochs)


ANY_LABEL = "label information, class shares, dead class, classifier, swapped classes, calibration"
IN_TRAINING = {
    "stopped too early": (
        "slope, units in use, label information",
        stopped_early,
        "a thirtieth of the passes",
    ),
    "broken off": ("plan", broken_off, "interrupted after 20 steps"),
    "wrong labels": ("calibration, classifier", wrong_labels, "training labels shuffled"),
    "labels not taught": (
        ANY_LABEL,
        by_the_bound,
        "the bound alone, a third of the passes; of fits that err in a fifth or more",
    ),
}


# ---- faults in what came out -------------------------------------------------------------------


def missing_rows(idata: Any) -> Any:
    """Three rows whose draws are NaN."""
    group = groups_of(idata)["posterior"].load().copy(deep=True)
    group["z"][{"datum": slice(5, 8)}] = np.nan
    return with_groups(idata, posterior=group)


def mixture_by_nuts(seed: int, switched: bool) -> Any:
    """Means of a mixture of two Normals by Pyro's NUTS, four chains.

    Args:
        seed: Of data and chains.
        switched: Whether two of the chains start with the components the other way round.
    """
    import pyro
    import pyro.distributions as dist
    from pyro.infer import MCMC, NUTS

    draw = np.random.default_rng(seed)
    rows = torch.tensor(draw.normal(size=120) + 6 * draw.integers(0, 2, 120) - 3)

    def model() -> None:
        means = pyro.sample("means", dist.Normal(torch.zeros(2).double(), 5.0).to_event(1))
        shares = torch.full((2,), 0.5).double()
        with pyro.plate("rows", len(rows)):
            parts = dist.MixtureSameFamily(dist.Categorical(shares), dist.Normal(means, 1.0))
            pyro.sample("x", parts, obs=rows)

    chains = []
    for chain in range(4):
        pyro.set_rng_seed(100 * seed + chain)
        start = torch.tensor([-3.0, 3.0]).double()
        start = start.flip(0) if switched and chain % 2 else start
        mcmc = MCMC(NUTS(model, max_tree_depth=5), 200, 100, initial_params={"means": start},
                    disable_progbar=True)  # fmt: skip
        mcmc.run()
        chains.append(mcmc.get_samples()["means"].numpy())
    posterior = xr.Dataset({"means": (("chain", "draw", "component"), np.stack(chains))})
    return as_inference_data({"posterior": posterior}, {"inference_method": "nuts"})
