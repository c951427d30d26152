"""Random generators that depend on nothing but what they are asked for."""

from __future__ import annotations

import numpy as np
import torch

MASK, SPLIT, ORDER, PROCESS, DRAW = range(5)  # purposes: equal seeds must not give related draws


def generator(seed: int, *key: int) -> torch.Generator:
    """A CPU generator for a seed and a key; the global random state is not touched.

    Args:
        seed: Seed, at least 0.
        key: Numbers that tell draws of one seed apart, at least 0.

    Raises:
        ValueError: If the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}, expected at least 0")
    # SeedSequence mixes: neighbouring seeds and keys give unrelated streams.
    (state,) = np.random.SeedSequence((seed, *key)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state) >> 1)


def numpy_generator(seed: int, *key: int) -> np.random.Generator:
    """The same for numpy; related to no :func:`generator` of that seed and key.

    Args:
        seed: Seed, at least 0.
        key: Numbers that tell draws of one seed apart, at least 0.

    Raises:
        ValueError: If the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}, expected at least 0")
    return np.random.default_rng(np.random.SeedSequence((seed, DRAW, *key)))
