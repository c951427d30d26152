"""Counts of genes in cells that were perturbed, each perturbation a shift of a few latents."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from ppl_models.config import whole
from ppl_models.data.render.world_options import Span, number, own_seed, span
from ppl_models.data.tables.from_parts import Array, from_parts
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.table import Dataset

WIDTH, LAYERS, SLOPE = 40, 3, 0.2  # of the decoder: units, hidden layers, leak of its ReLU
CONTROL = "control"


@dataclass(frozen=True)
class World:
    """What all cells share.

    Attributes:
        shifts: Mean of each latent under each perturbation ``(A, L)``, 0 where it is no target.
        layers: Weights of the decoder, ``(in, out)`` each.
    """

    shifts: Array
    layers: tuple[Array, ...]

    @property
    def targets(self) -> Array:
        """Which latents each perturbation shifts ``(A, L)``."""
        found: Array = self.shifts != 0
        return found

    def logits(self, state: Array) -> Array:
        """Logits of the genes ``(N, G)`` of states ``(N, L)``."""
        for layer in self.layers[:-1]:
            state = state @ layer
            state = np.where(state > 0, state, SLOPE * state)
        return state @ self.layers[-1]


def load(
    perturbations: int = 60,
    cells: int = 100,
    latents: int = 8,
    genes: int = 100,
    validation: int = 600,
    test: int = 600,
    unseen: int = 0,
    controls: int = 0,
    seed: int = 0,
    *,
    world_seed: int | None = None,
    targets: Span = (1, 3),
    shift: float = 5.0,
    shift_spread: float = 0.5,
    depth: float = 40.0,
) -> Dataset:
    """Sites ``x`` (counts), covariates ``perturbation`` and ``library``; ``state``, the truth.

    The simulation of sVAE+ (Lopez et al. 2023, arXiv 2211.03553; its code), which has
    ``perturbations=100, cells=500, latents=30``. State ~ N(shift of the perturbation, I),
    x ~ Poisson(rate), the rates of each gene scaled to one sum over the cells, whose softmax
    comes from a network of three layers with orthonormal weights. :func:`world` gives shifts and
    targets of the perturbations.

    Args:
        perturbations: A, how many there are, ``p0`` and so on.
        cells: Cells of each perturbation.
        latents: L, size of a cell's state.
        genes: G.
        validation: Validation cells, of the perturbations that are trained on.
        test: Test cells, likewise.
        unseen: The last so many perturbations have no cell but in the test part, where they
            take the place of the others.
        controls: Cells of a further class ``control``, which shifts nothing.
        seed: Seed of everything.
        world_seed: Seed of targets, shifts and decoder, in place of ``seed``.
        targets: Least and largest number of draws of a target; the same one may come twice.
        shift: Mean size of a shift, in standard deviations of the state; its sign is drawn.
        shift_spread: Standard deviation of that size.
        depth: Mean count of a gene in a cell.

    Raises:
        ValueError: If an option is out of range, or there are too few cells.
    """
    made = world(
        perturbations, latents, genes, own_seed("world_seed", world_seed, seed),
        targets=targets, shift=shift, shift_spread=shift_spread,
    )  # fmt: skip
    cells, controls = whole("cells", cells, 1), whole("controls", controls, 0)
    unseen, depth = whole("unseen", unseen, 0), number("depth", depth, 1e-3)
    if unseen >= perturbations:
        raise ValueError(f"unseen is {unseen}, expected fewer than the {perturbations} there are")
    label = np.repeat(np.arange(perturbations + 1), [cells] * perturbations + [controls])
    sites = _sites(made, numpy_generator(seed, 1).permutation(label), depth, seed)
    label = sites["perturbation"]
    held = (label >= perturbations - unseen) & (label < perturbations) & (unseen > 0)
    free = (sites["library"][:, 0] > 0) & ~held
    validation, test = whole("validation", validation, 1), whole("test", test, 1)
    rows = _parts(np.flatnonzero(free), np.flatnonzero(held), validation, test)
    options = {
        "perturbations": perturbations,
        "cells": cells,
        "latents": latents,
        "genes": genes,
        "validation": validation,
        "test": test,
        "unseen": unseen,
        "controls": controls,
        "world_seed": world_seed,
        "targets": targets,
        "shift": shift,
        "shift_spread": shift_spread,
        "depth": depth,
    }
    names = [*(f"p{a}" for a in range(perturbations)), *([CONTROL] if controls else [])]
    return from_parts(
        "perturb_sim",
        [{site: value[own] for site, value in sites.items()} for own in rows],
        options=options,
        seed=seed,
        classes={"perturbation": names},
        numbers=rows,
        roles={"perturbation": "covariate", "library": "covariate", "state": "factor"},
    )


def world(
    perturbations: int = 60,
    latents: int = 8,
    genes: int = 100,
    seed: int = 0,
    *,
    targets: Span = (1, 3),
    shift: float = 5.0,
    shift_spread: float = 0.5,
) -> World:
    """Targets, shifts and decoder of :func:`load`, which has the same options.

    Raises:
        ValueError: If an option is out of range.
    """
    perturbations, latents = whole("perturbations", perturbations, 1), whole("latents", latents, 1)
    genes = whole("genes", genes, 2)
    least, most = span("targets", targets, 0)
    shift, spread = number("shift", shift), number("shift_spread", shift_spread, 0)
    draw = numpy_generator(seed, 0)
    target = np.zeros((perturbations, latents))
    for row in target:
        row[draw.integers(latents, size=draw.integers(int(least), int(most) + 1))] = 1
    size = draw.normal(shift, spread, target.shape) * draw.choice([-1, 1], target.shape)
    widths = [latents, *[WIDTH] * LAYERS, genes]
    sizes = itertools.pairwise(widths)
    return World(target * size, tuple(_orthonormal(draw, *ends) for ends in sizes))


def _sites(made: World, label: Array, depth: float, seed: int) -> dict[str, Array]:
    """Cells of perturbations ``(N,)``, of which the last code is that of controls."""
    draw = numpy_generator(seed, 2)
    means = np.concatenate([made.shifts, np.zeros_like(made.shifts[:1])])[label]
    state = draw.normal(means, 1)
    logits = made.logits(state)
    rate = np.exp(logits / logits.std())
    x = draw.poisson(depth * rate / rate.mean(0)).astype(np.float32)
    return {"x": x, "perturbation": label, "state": state, "library": x.sum(1, keepdims=True)}


def _orthonormal(draw: np.random.Generator, inputs: int, outputs: int) -> Array:
    """Weights ``(in, out)`` with orthonormal rows or columns, scaled as in the published code."""
    tall = draw.normal(size=(max(inputs, outputs), min(inputs, outputs)))
    q: Array = np.linalg.qr(tall)[0]
    gain = math.sqrt(2 / (1 + SLOPE**2)) * math.sqrt(2 / (inputs + outputs))
    return gain * (q if inputs >= outputs else q.T)


def _parts(free: Array, held: Array, validation: int, test: int) -> list[Array]:
    """Rows of training, validation and test; the cells are in no order before."""
    if len(held):
        test = 0
    if len(free) <= validation + test:
        raise ValueError(
            f"perturb_sim has {len(free)} cells, expected more than the {validation} of "
            f"validation and {test} of test"
        )
    ends = len(free) - validation - test, len(free) - test
    train, valid, rest = np.split(free, ends)
    return [train, valid, held if len(held) else rest]
