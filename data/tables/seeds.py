"""Random generators that depend on nothing but what they are asked for."""

from __future__ import annotations

from numbers import Integral

import numpy as np
import torch

MASK, SPLIT, ORDER, PROCESS, DRAW = range(5)  # purposes: equal seeds must not give related draws


def generator(seed: int, *key: int) -> torch.Generator:
    """A CPU generator for a seed and a key; the global random state is not touched.

    Args:
        seed: Seed, at least 0.
        key: Numbers that tell draws of one seed apart, at least 0.

    Raises:
        ValueError: If the seed is negative or no whole number.
    """
    (state,) = _sequence(seed, *key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state) >> 1)


def numpy_generator(seed: int, *key: int) -> np.random.Generator:
    """The same for numpy; related to no :func:`generator` of that seed and key.

    Args:
        seed: Seed, at least 0.
        key: Numbers that tell draws of one seed apart, at least 0.

    Raises:
        ValueError: If the seed is negative or no whole number.
    """
    return np.random.default_rng(_sequence(seed, DRAW, *key))


def _sequence(seed: int, *key: int) -> np.random.SeedSequence:
    # It mixes: neighbouring seeds and keys give unrelated streams.
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise ValueError(f"seed is {seed!r}, expected a whole number")
    if seed < 0:
        raise ValueError(f"seed is {seed}, expected at least 0")
    return np.random.SeedSequence((int(seed), *key))
