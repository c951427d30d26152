"""Good fits of pairs with causes or masks, and the same with a fault planted.

Some faults stand in a pair, some in what tells counterfactuals, which is changed for a while, and
some in how a pair is fitted.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import transforms
from worlds import discs

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.counterfactuals import Abducted, Graph
from ppl_models.exogenous import noise_family, noise_of
from ppl_models.inference.diagnostics.verdict import verdict
from ppl_models.inference.posterior.axioms import Oracle
from ppl_models.parts.scm import SCM, Affine, Between, Classes, Mechanism, Positive
from ppl_models.parts.sparse_shifts import START
from ppl_models.set_sites import sites_at

ROOT = Path(__file__).parents[2]
CHECKS = (
    "null intervention", "non-descendants", "composition", "reversibility", "effectiveness",
    "masks", "mask rate",
)  # fmt: skip
Known = dict[str, Any]  # what the user of a check knows: oracles and masks


def cells(seed: int, count: int = 800) -> tuple[data.Dataset, Known]:
    """Pictures of discs, and an oracle that reads how they glow."""
    noise = discs.world(count, seed)
    noise["place"] *= 0.6
    rows = data.from_arrays(**discs.made(noise), splits=(count - 200, 100, 100))
    return rows, {"oracle": {"glow": lambda x: x.amax(1)}}


def vectors(seed: int, count: int = 800) -> tuple[data.Dataset, Known]:
    """Vectors that are linear in their causes, and oracles by least squares."""
    draw = np.random.default_rng(seed)
    u, z = draw.normal(size=(3, count)), draw.normal(size=(count, 2))
    a = u[0] + 0.3 * u[0] ** 2
    b = 0.8 * a + 0.6 * u[1]
    c = 1.3 * b - 0.5 * a + 0.5 * u[2]
    k = (np.array([[-1.5], [0.0], [1.5]]) * b + draw.gumbel(size=(3, count))).argmax(0)
    weights, noise = draw.normal(size=(7, 12)), draw.normal(size=(count, 12))
    x = np.c_[b, c, z, np.eye(3)[k]] @ weights + 0.2 * noise
    sites = {name: v[:, None].astype("float32") for name, v in {"a": a, "b": b, "c": c}.items()}
    known = {name: _least_squares(x, sites[name]) for name in "bc"}
    rows = data.from_arrays(
        x=x.astype("float32"), **sites, k=k, splits=(count - 200, 100, 100), seed=seed
    )
    return rows, {"oracle": known}


def _least_squares(x: Any, value: Any) -> Oracle:
    slopes = np.linalg.lstsq(np.c_[x, np.ones(len(x))], value, rcond=None)[0]
    w = torch.tensor(slopes, dtype=torch.float32)
    return lambda rows: rows @ w[:-1] + w[-1]


def shifted(seed: int, count: int = 720) -> tuple[data.Dataset, Known]:
    """Vectors of which each of 12 causes shifts a fifth of the entries."""
    draw = np.random.default_rng(seed)
    truth = draw.permuted(np.arange(72) < 14).reshape(12, 6)
    sizes = draw.choice([-1, 1], truth.shape) * draw.uniform(1.5, 3, truth.shape)
    cause = np.arange(count) % 12
    z = (truth * sizes)[cause] + draw.normal(size=(count, 6))
    x = (z + 0.3 * draw.normal(size=z.shape)).astype("float32")
    rows = data.from_arrays(x=x, cause=cause, splits=(count - 120, 60, 60), seed=seed)
    return rows, {"masks": {"target_probs": truth}}


Prepare = Callable[[zoo.Pair], None]


@dataclass(frozen=True)
class Recipe:
    """How a good fit is made.

    Attributes:
        pair: Name of the pair.
        rows: Data of a seed, and what is known of them.
        training: Of the fit.
        shown: The cause that is changed by faults of the data, and another one.
        effect: An effect of others.
        reversed: Mechanisms whose arrows run the other way.
        made: Whether data are made, and not scored, once the pair is trained.
    """

    pair: str
    rows: Callable[[int], tuple[data.Dataset, Known]]
    training: Mapping[str, Any]
    shown: tuple[str, str] = ("", "")
    effect: str = ""
    reversed: Callable[[], SCM] | None = None
    made: bool = False

    def fit(self, seed: int, prepare: Prepare | None = None, **training: Any) -> inference.Run:
        """A fit on fresh data, of a pair that may be changed beforehand."""
        rows, _ = self.rows(seed)
        pair = zoo.build(self.pair, rows, seed=seed)
        if prepare is not None:
            prepare(pair)
        options = {"progress": False, "seed": seed, **self.training, **training}
        run = inference.fit(pair, rows, **options)
        if self.made:
            run.pair.made = True
        return run

    def failed(self, run: inference.Run, seed: int) -> dict[str, str]:
        """The checks of counterfactuals and masks that fail, each with the site it names."""
        rows, known = self.rows(seed)
        idata = run.posterior(rows.test, draws=20, prior_draws=0, oracle=known.get("oracle"))
        found = verdict(idata, known.get("masks")).failed
        return {check.name: check.variable for check in found if check.name in CHECKS}


def cells_reversed() -> SCM:
    """glow -> size -> dose."""
    return SCM(
        glow=Mechanism({}, Affine, outer=(Between(0.0, 1.0),), size=1),
        size=Mechanism({"glow": 1}, Affine, outer=(Positive(1.0, 0.5),), size=1),
        dose=Mechanism({"glow": 1, "size": 1}, Affine, outer=(Positive(0.0, 1.0),), size=1),
    )


def vectors_reversed() -> SCM:
    """c -> b -> a."""
    return SCM(
        c=Mechanism({}, Affine, size=1),
        b=Mechanism({"c": 1}, Affine, size=1),
        a=Mechanism({"b": 1, "c": 1}, Affine, size=1),
        k=Classes(3, {"b": 1}),
    )


STORIES = ROOT / "tests" / "worlds" / "stories"
VECTORS = Recipe(
    f"{STORIES / 'vectors.py'}:Vectors", vectors,
    {"epochs": 40, "batch_size": 100, "learning_rate": 0.02}, ("c", "b"), "c", vectors_reversed,
)  # fmt: skip
PAIRS = {
    "cells": Recipe(
        f"{ROOT / 'examples' / 'cells.py'}:Cells", cells,
        {"epochs": 40, "batch_size": 100, "learning_rate": 0.01},
        ("glow", "size"), "size", cells_reversed,
    ),
    "vectors": VECTORS,
    "vectors, made": dataclasses.replace(VECTORS, made=True),
    "shifted": Recipe(f"{STORIES / 'shifted.py'}:Shifted", shifted, {"epochs": 100}),
}  # fmt: skip
SCORED, MADE, WITH_MASKS = ("cells", "vectors"), ("vectors, made",), ("shifted",)
WITH_CAUSES = SCORED + MADE


# ---- faults in the pair ------------------------------------------------------------------------


class OffInverse(transforms.AffineTransform):
    """Undoes itself a fifth too far."""

    def _inverse(self, y: Tensor) -> Tensor:
        return 1.2 * super()._inverse(y)


class OffLayer(nn.Module):
    """An affine layer whose inverse is off."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, **parents: Tensor) -> OffInverse:
        """The transform."""
        step = self.layer(**parents)
        return OffInverse(step.loc, step.scale, event_dim=1)


@contextlib.contextmanager
def off_inverse(pair: Any, recipe: Recipe) -> Iterator[None]:
    """The noise of an effect is told a fifth too large."""
    layers = pair.scm.mechanisms[recipe.effect].layers
    layers[-1] = OffLayer(layers[-1])
    yield


@contextlib.contextmanager
def unseen(pair: Any, recipe: Recipe) -> Iterator[None]:
    """The data do not show a cause."""
    pair.decoder.first.weights[recipe.shown[0]].zero_()
    yield


@contextlib.contextmanager
def exchanged(pair: Any, recipe: Recipe) -> Iterator[None]:
    """The decoder takes its parents in another order."""
    one, other = (pair.decoder.first.weights[name] for name in recipe.shown)
    kept = one.clone()
    one.copy_(other)
    other.copy_(kept)
    yield


@contextlib.contextmanager
def entangled(pair: Any, recipe: Recipe) -> Iterator[None]:
    """The guide's code hangs on a cause."""
    for name, weight in pair.guide.named_parameters():
        if name.endswith(f"first.weights.{recipe.shown[0]}"):
            weight *= 10
    yield


@contextlib.contextmanager
def open_masks(pair: Any, recipe: Recipe) -> Iterator[None]:
    """All masks as they began, and settled."""
    pair.shifts.logits.fill_(START)
    pair.shifts.settle(torch.empty(0, dtype=torch.long))
    yield


@contextlib.contextmanager
def closed_masks(pair: Any, recipe: Recipe) -> Iterator[None]:
    """No cause shifts anything."""
    pair.shifts.logits.fill_(-START)
    yield


@contextlib.contextmanager
def other_masks(pair: Any, recipe: Recipe) -> Iterator[None]:
    """Each cause has the masks of the next."""
    pair.shifts.logits.copy_(pair.shifts.logits.roll(1, 0))
    yield


# ---- faults in what tells counterfactuals ------------------------------------------------------

ABDUCT, PREDICT = Graph.abduct, Graph.predict


def _anew(self: Graph, *arguments: Any) -> Abducted:
    found = ABDUCT(self, *arguments)
    noise = {
        name: (family, torch.randn_like(value)) for name, (family, value) in found.noise.items()
    }
    return Abducted(found.values, noise)


def _at_means(self: Graph, batch: Any, latent: Any, moved: Any) -> Abducted:
    found = ABDUCT(self, batch, latent, moved)
    means = {
        name: value.mean(0, keepdim=True).expand_as(value)
        for name, value in found.values.items()
        if name in self.pair.card.causes and value.is_floating_point()
    }
    there = sites_at(self.pair, batch.without(*means), {**found.values, **means}, self.sites)
    noise = {
        name: (noise_family(there[name]["fn"]), noise_of(there[name]["fn"], found.values[name]))
        for name in moved
    }
    return Abducted(found.values, noise)


def _upwards(self: Graph, batch: Any, abducted: Abducted, hard: Any, soft: Any) -> Any:
    found = dict(PREDICT(self, batch, abducted, hard, soft))
    first, *_, last = [name for name in self.pair.card.causes if name != "k"]
    if last in hard and first not in hard:
        by = 0.2 * (hard[last] - abducted.values[last])
        found[first] = {**found[first], "value": found[first]["value"] + by}
    return found


def patched(method: str, by: Any) -> Callable[[Any, Recipe], Any]:
    """A fault in how noise is told, or led to values."""
    return lambda pair, recipe: mock.patch.object(Graph, method, by)


# ---- faults in how it was fitted ---------------------------------------------------------------


def turned(recipe: Recipe, seed: int) -> inference.Run:
    """Causes taken for their effects, and effects for their causes."""

    def turn(pair: Any) -> None:
        pair.scm = recipe.reversed()

    return recipe.fit(seed, turn)


def settled(recipe: Recipe, seed: int) -> inference.Run:
    """Masks made 0 or 1 after a tenth of the passes."""
    run = recipe.fit(seed, epochs=recipe.training["epochs"] // 10)
    run.pair.shifts.settle(torch.empty(0, dtype=torch.long))
    return run


@dataclass(frozen=True)
class Fault:
    """A fault, and what should name it.

    Attributes:
        how: What is done.
        checks: One of these checks should name it; none can where there is none.
        pairs: Those that can have it.
        plant: Changes a fitted pair, or what tells counterfactuals, for a while.
        fit: Or else fits one.
        of: The site that the check should name, if one is.
    """

    how: str
    checks: tuple[str, ...]
    pairs: tuple[str, ...] = WITH_CAUSES
    plant: Callable[[Any, Recipe], Any] | None = None
    fit: Callable[[Recipe, int], inference.Run] | None = None
    of: Callable[[Recipe], tuple[str, ...]] | None = None

    def failed(self, name: str, run: inference.Run, seed: int) -> dict[str, str]:
        """The checks that fail where the fault is planted into a fit."""
        recipe = PAIRS[name]
        if self.fit is not None:
            return recipe.failed(self.fit(recipe, seed), seed)
        made = copy.copy(run)
        made.pair = copy.deepcopy(run.pair)
        with torch.no_grad(), self.plant(made.pair, recipe):
            return recipe.failed(made, seed)

    def named_by(self, name: str, failed: Mapping[str, str]) -> bool:
        """Whether a check that should has named it, and the site."""
        sites = [failed[check] for check in self.checks if check in failed]
        return bool(sites) and (self.of is None or sites[0] in self.of(PAIRS[name]))


FAULTS = {
    "inverse is not that of the mechanism": Fault(
        "the noise of an effect times 1.2", ("null intervention",), plant=off_inverse,
        of=lambda recipe: (recipe.effect,),
    ),
    "no abduction": Fault(
        "all noise drawn anew", ("null intervention",), plant=patched("abduct", _anew)
    ),
    "abduction at other parents": Fault(
        "noise told at the parents' means", ("null intervention",),
        plant=patched("abduct", _at_means),
    ),
    "effects move causes": Fault(
        "a fifth of what the last cause moves is added to the first", ("non-descendants",),
        plant=patched("predict", _upwards),
    ),
    "data ignore a cause": Fault(
        "weights from it to the data zero", ("effectiveness",), plant=unseen,
        of=lambda recipe: recipe.shown[:1],
    ),
    "parents in another order": Fault(
        "two causes exchanged in the decoder", ("effectiveness",), plant=exchanged,
        of=lambda recipe: recipe.shown,
    ),
    "code hangs on a cause": Fault(
        "the guide's weights from it to z times 10",
        ("null intervention", "composition", "reversibility"), MADE, entangled,
    ),
    "arrows reversed": Fault("causes made of their effects, and trained", (), fit=turned),
    "masks never closed": Fault("all open as they began, and settled", ("masks",), WITH_MASKS,
                                open_masks),
    "masks settled early": Fault("made 0 or 1 after a tenth of the passes", ("masks",),
                                 WITH_MASKS, fit=settled),
    "masks of other causes": Fault("each cause has those of the next", ("masks",), WITH_MASKS,
                                   other_masks),
    "no mask open": Fault("all closed", ("mask rate",), WITH_MASKS, closed_masks),
}  # fmt: skip
