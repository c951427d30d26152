"""Backends of the contraction, by name."""

from __future__ import annotations

from ppl_models.inference.traces.contraction import Backend, Torch

BACKENDS = ("torch", "funsor")


def backend(name: str) -> Backend:
    """The backend of a name; funsor is imported only where it is asked for.

    Args:
        name: One of ``BACKENDS``.
    """
    if name == "torch":
        return Torch()
    from ppl_models.inference.traces.contraction_funsor import Funsor

    return Funsor()
