"""Vectors in which a random network entangles the variables of a random dynamic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_models.config import check_seed, native
from ppl_models.data.render import intervened as of_two_frames
from ppl_models.data.render.world_options import number, own_seed
from ppl_models.data.tables.from_parts import Array
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.table import Dataset

DIMS = (1, 2, 1, 1)
KEPT = (0.7, 0.6, 0.6, 0.7, 0.5)  # of each number from step to step; of further ones again
MIXED = 0.35  # standard deviation of what each number takes from each
SET = 0.8  # standard deviation of what is set by hand
LEAK, BIAS, LAYERS = 0.3, 0.3, 3  # of the network


def load(
    train: int = 20_000,
    validation: int = 1_000,
    test: int = 5_000,
    seed: int = 0,
    *,
    dims: tuple[int, ...] = DIMS,
    noise: float = 0.25,
    intervened: float = 0.15,
    sequences: int = 50,
    network_seed: int | None = None,
) -> Dataset:
    """Sites ``x`` and ``x_next`` (D numbers), ``targets`` (K of 0 or 1) and ``c1`` to ``cK``.

    After the fast set of CITRIS (Lippe et al. 2022, arXiv 2202.03169), without its colours:
    c' = tanh(M c) + Normal noise for D numbers in K variables, of which at most one at a step is
    set to Normal numbers of deviation 0.8, all its numbers at once. What is seen is c through
    three layers of an orthogonal map and a leaky ReLU and one more orthogonal map, standardised.
    ``c1`` and so on are the variables behind ``x``. In test rows they are independent.

    Args:
        train: Training rows.
        validation: Validation rows.
        test: Test rows.
        seed: Seed of everything.
        dims: How many numbers each variable has.
        noise: Standard deviation of the Normal noise of a step.
        intervened: Probability that a variable would be set at a step, were each set apart from
            the others; none is with probability (1 - this) to the power K, else any one.
        sequences: Number of sequences that the training rows are windows of, all of one length;
            of validation rows as many.
        network_seed: Seed of dynamic and network, which are then the same for all seeds; that of
            everything if None.

    Raises:
        ValueError: If an option is out of range.
    """
    dims = _dims(dims)
    noise = number("noise", noise, 0)
    world = world_of(dims, noise, own_seed("network_seed", network_seed, check_seed(seed)))
    options = {
        "train": train, "validation": validation, "test": test, "dims": dims, "noise": noise,
        "intervened": intervened, "sequences": sequences, "network_seed": network_seed,
    }  # fmt: skip
    return of_two_frames.dataset(
        "entangled_vectors",
        world.start,
        world.independent,
        world.step,
        world.seen,
        world.factors,
        len(dims),
        options,
        seed,
    )


@dataclass(frozen=True)
class World:
    """A dynamic and a network.

    Attributes:
        dims: Numbers of each variable.
        noise: Standard deviation of a step.
        kept: The matrix M ``(D, D)``.
        layers: Orthogonal maps ``(D, D)`` and biases ``(D,)``, the last map without.
        centre: Mean of what is seen before it is standardised ``(D,)``.
        spread: Its standard deviation ``(D,)``.
    """

    dims: tuple[int, ...]
    noise: float
    kept: Array
    layers: tuple[tuple[Array, Array], ...]
    centre: Array
    spread: Array

    @property
    def owner(self) -> Array:
        """The variable of each number ``(D,)``."""
        return np.repeat(np.arange(len(self.dims)), self.dims)

    def start(self, rows: int, draw: np.random.Generator) -> Array:
        """First states ``(rows, D)``."""
        return draw.normal(0, 0.5, (rows, len(self.owner)))

    def step(self, state: Array, target: Array, draw: np.random.Generator) -> Array:
        """The states after these, under targets ``(rows,)``."""
        after = np.tanh(state @ self.kept.T) + draw.normal(0, self.noise, state.shape)
        by_hand = draw.normal(0, SET, state.shape)
        return np.where(target[:, None] == self.owner, by_hand, after)

    def independent(self, rows: int, draw: np.random.Generator) -> Array:
        """States whose variables come from different ones of the dynamic ``(rows, D)``."""
        state = self.start(rows, draw)
        for _ in range(of_two_frames.WARM):
            target = of_two_frames.chosen_targets(rows, len(self.dims), 0.15, draw)
            state = self.step(state, target, draw)
        order = np.stack([draw.permutation(rows) for _ in self.dims], 1)
        return np.take_along_axis(state, order[:, self.owner], 0)

    def seen(self, state: Array) -> Array:
        """What is seen of states ``(rows, D)``."""
        return (entangled(state, self.layers) - self.centre) / self.spread

    def factors(self, state: Array) -> dict[str, Array]:
        """The variables by name, ``(rows, size)``."""
        return {f"c{i + 1}": state[:, self.owner == i] for i in range(len(self.dims))}


def entangled(state: Array, layers: tuple[tuple[Array, Array], ...]) -> Array:
    """States ``(n, D)`` through the network's layers."""
    value = state
    for place, (turn, bias) in enumerate(layers):
        value = value @ turn + bias
        if place < len(layers) - 1:
            value = np.where(value > 0, value, LEAK * value)
    return value


def world_of(dims: tuple[int, ...], noise: float, seed: int) -> World:
    """The world of a seed."""
    draw, size = numpy_generator(seed, 3), sum(dims)
    kept = np.diag(np.resize(KEPT, size)) + draw.normal(0, MIXED, (size, size))
    layers = tuple(
        (_orthogonal(size, draw), BIAS * draw.normal(size=size) * (place < LAYERS))
        for place in range(LAYERS + 1)
    )
    plain = World(dims, noise, kept, layers, np.zeros(size), np.ones(size))
    state, _, _ = of_two_frames.sequences(
        plain.start, plain.step, 100, len(dims), 0.15, 10_000, draw
    )
    raw = entangled(state, layers)
    return World(dims, noise, kept, layers, raw.mean(0), raw.std(0))


def _orthogonal(size: int, draw: np.random.Generator) -> Array:
    turn, upper = np.linalg.qr(draw.normal(size=(size, size)))
    return turn * np.sign(np.diag(upper))


def _dims(value: Any) -> tuple[int, ...]:
    found = native(value)
    fits = isinstance(found, list | tuple) and len(found) > 1
    if not fits or not all(type(size) is int and size >= 1 for size in found):
        raise ValueError(
            f"dims are {value!r}, expected the numbers of two or more variables such as {DIMS}"
        )
    return tuple(found)
