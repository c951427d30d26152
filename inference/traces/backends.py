"""Backends of the contraction, by name."""

from __future__ import annotations

from ppl_models.inference.traces.contraction import Backend, Torch

BACKENDS = ("torch", "funsor")


def backend(name: str, cap: int) -> Backend:
    """The backend of a name; funsor is imported only where it is asked for.

    Args:
        name: One of ``BACKENDS``.
        cap: Most combinations of labels in a product of terms, which torch forms; funsor chooses
            its own products.
    """
    if name == "torch":
        return Torch(cap)
    from ppl_models.inference.traces.contraction_funsor import Funsor

    return Funsor()
