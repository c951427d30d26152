"""Independent sources in segments, mixed by a network that can be inverted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppl_models.config import at_least, check_seed, whole
from ppl_models.data.render.world_options import number, one_of, own_seed, span, spread
from ppl_models.data.tables.from_parts import Array, from_parts
from ppl_models.data.tables.recipe import Labelled
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.table import Dataset

FAMILIES = ("gaussian", "laplace")
MATRICES = 2_000  # random ones, among which the mixing is chosen
ROWS = 10_000  # by which x is standardised
LEAK = 0.1  # slope of the activation beside the hyperbolic tangent


def load(
    train: int = 36_000,
    validation: int = 2_000,
    test: int = 2_000,
    labelled: Labelled | None = None,
    seed: int = 0,
    *,
    sources: int = 5,
    segments: int = 40,
    family: str = "gaussian",
    scale: tuple[float, float] = (0.5, 3.0),
    offset: float = 0.0,
    layers: int = 3,
    reach: float = 1.0,
    percentile: float = 25.0,
    noise: float = 0.0,
    network_seed: int | None = None,
) -> Dataset:
    """Sites ``x`` (d numbers), ``y`` (its segment, u of the papers) and ``s`` (the d sources).

    After the artificial data of time-contrastive learning and iVAE (Hyvarinen and Morioka 2016,
    arXiv 1605.06336; Khemakhem et al. 2020, arXiv 1907.04809): in each segment each source has a
    deviation and a mean of its own, and sources are independent given the segment. They are
    mixed by layers that share one square matrix, with reach * tanh(v / reach) + 0.1 v between
    them, which can be inverted; x is standardised. Segments are equally long, and the same in all
    parts.

    Args:
        train: Training rows.
        validation: Validation rows.
        test: Test rows.
        labelled: Training rows that keep ``y``, balanced over the segments; all if None.
        seed: Seed of everything.
        sources: Number of sources d, and of numbers that are seen.
        segments: Number of segments.
        family: ``"gaussian"`` or ``"laplace"``, of sources within a segment.
        scale: Range of the standard deviations of sources within a segment.
        offset: Means of sources are uniform within this of 0; with 0 segments differ in their
            variances alone.
        layers: Layers of the mixing; a single one is linear.
        reach: About how far the activation is linear, in the units of what comes in.
        percentile: Of the condition numbers of random matrices, below which the mixing's lies;
            100 for any.
        noise: Standard deviation of the Normal noise on x, whose numbers have deviation 1.
        network_seed: Seed of the mixing, which is then the same for all seeds; that of
            everything if None.

    Raises:
        ValueError: If an option is out of range.
    """
    at_least(train=(train, 1), validation=(validation, 1), test=(test, 1))
    noise = number("noise", noise, 0)
    world = world_of(
        check_seed(seed), own_seed("network_seed", network_seed, seed), sources, segments,
        family, scale, offset, layers, reach, percentile,
    )  # fmt: skip
    parts = []
    for place, rows in enumerate((train, validation, test)):
        draw = numpy_generator(seed, place)
        y = draw.permutation(spread(rows, world.segments, None))
        s = world.draw(y, draw)
        x = world.seen(s) + draw.normal(0, noise, s.shape)
        parts.append({"x": x, "y": y, "s": s})
    options = {
        "train": train, "validation": validation, "test": test, "sources": world.sources,
        "segments": world.segments, "family": world.family, "scale": span("scale", scale),
        "offset": float(offset), "layers": world.layers, "reach": world.reach,
        "percentile": float(percentile), "noise": noise, "network_seed": network_seed,
    }  # fmt: skip
    return from_parts(
        "ica_segments",
        parts,
        options=options,
        labelled=labelled,
        seed=seed,
        classes={"y": tuple(map(str, range(world.segments)))},
        roles={"s": "factor"},
    )


@dataclass(frozen=True)
class World:
    """Segments and a mixing.

    Attributes:
        family: Of the sources within a segment.
        deviation: Of each source in each segment ``(segments, d)``.
        mean: Likewise.
        matrix: The mixing's ``(d, d)``, with columns of length 1.
        layers: Number of its layers.
        reach: Of its activation.
        centre: Mean of what is seen before it is standardised ``(d,)``.
        spread: Its standard deviation ``(d,)``.
    """

    family: str
    deviation: Array
    mean: Array
    matrix: Array
    layers: int
    reach: float
    centre: Array
    spread: Array

    @property
    def segments(self) -> int:
        """Number of segments."""
        return len(self.mean)

    @property
    def sources(self) -> int:
        """Number of sources d."""
        return len(self.matrix)

    def draw(self, y: Array, draw: np.random.Generator) -> Array:
        """Sources ``(N, d)`` of rows in segments ``(N,)``."""
        shape = (len(y), self.sources)
        # A Laplace of scale b has the standard deviation b sqrt 2.
        gaussian = self.family == "gaussian"
        unit = draw.normal(size=shape) if gaussian else draw.laplace(0, 0.5**0.5, shape)
        return unit * self.deviation[y] + self.mean[y]

    def seen(self, s: Array) -> Array:
        """What is seen of sources ``(N, d)``, without noise."""
        return (self.mixed(s) - self.centre) / self.spread

    def mixed(self, s: Array) -> Array:
        """Sources ``(N, d)`` through all layers."""
        value = s
        for _ in range(self.layers - 1):
            value = value @ self.matrix
            value = self.reach * np.tanh(value / self.reach) + LEAK * value
        return value @ self.matrix


def world_of(
    seed: int,
    network_seed: int,
    sources: int,
    segments: int,
    family: str,
    scale: tuple[float, float],
    offset: float,
    layers: int,
    reach: float,
    percentile: float,
) -> World:
    """The world of a seed; arguments are as of :func:`load`."""
    shape = (whole("segments", segments, 1), whole("sources", sources, 1))
    low, high = span("scale", scale, 0)
    family, offset = one_of("family", family, FAMILIES), number("offset", offset, 0)
    own = numpy_generator(seed, 3)
    deviation, mean = own.uniform(low, high, shape), own.uniform(-offset, offset, shape)
    layers, reach = whole("layers", layers, 1), number("reach", reach, 0.01)
    matrix = mixing(shape[1], number("percentile", percentile, 1, 100), network_seed)
    centre, unit = np.zeros(shape[1]), np.ones(shape[1])
    plain = World(family, deviation, mean, matrix, layers, reach, centre, unit)
    raw = plain.mixed(plain.draw(spread(ROWS, shape[0], None), own))
    return World(family, deviation, mean, matrix, layers, reach, raw.mean(0), raw.std(0))


def mixing(size: int, percentile: float, seed: int) -> Array:
    """A well-conditioned matrix ``(size, size)`` with columns of length 1.

    Args:
        size: Of either side.
        percentile: Its condition number is at most this percentile of those of matrices with
            uniform entries.
        seed: Of the matrices, the first of which that will do is taken.
    """
    found = numpy_generator(seed, 4).uniform(-1, 1, (MATRICES, size, size))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    condition = np.linalg.cond(found)
    chosen: Array = found[np.argmax(condition <= np.percentile(condition, percentile))]
    return chosen
