"""The same contractions by funsor's named dimensions, a second opinion on the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import funsor
from funsor.interpretations import lazy
from funsor.optimizer import apply_optimizer
from funsor.sum_product import sum_product
from torch import Tensor

from ppl_models.inference.traces.contraction import Dims, Summed, Term
from ppl_models.inference.traces.sites import UnhandledSite


class Funsor:
    """Named dimensions; funsor chooses the order of elimination.

    Sets funsor's global backend to torch.
    """

    def __init__(self) -> None:
        funsor.set_backend("torch")

    def contract(self, terms: Sequence[Term], dims: Dims, labels: Mapping[int, Summed]) -> Term:
        """``sum_product`` in the log semiring, over labels and the plates between them."""
        shared = frozenset.intersection(*(labels[dim].plates for dim in dims))
        plates = frozenset().union(*(t.plates for t in terms)) - shared
        other = frozenset().union(*(t.labels for t in terms)) - dims
        if any(labels[dim].plates & plates for dim in other):
            raise UnhandledSite(
                f"sites {sorted(labels[dim].name for dim in dims | other)} are summed out in "
                "different plates, but depend on each other"
            )
        try:
            with lazy:
                total = sum_product(
                    funsor.ops.logaddexp,
                    funsor.ops.add,
                    [_named(t.value) for t in terms],
                    eliminate=_names(dims | plates),
                    plates=_names(plates),
                )
            value = _plain(apply_optimizer(total), max(t.value.dim() for t in terms))
        except ValueError as error:
            names = sorted(labels[dim].name for dim in dims)
            raise UnhandledSite(f"funsor cannot sum out sites {names}: {error}") from None
        return Term(terms[0].name, value, other, shared)

    def weigh(self, log_q: Term, cost: Term) -> Tensor:
        """The product's sum over the labels' names."""
        product = _named(log_q.value).exp() * _named(cost.value)
        product = product.reduce(funsor.ops.add, _names(log_q.labels | cost.labels))
        return _plain(product, max(log_q.value.dim(), cost.value.dim()))


def _names(dims: Dims) -> frozenset[str]:
    return frozenset(f"d{-dim}" for dim in dims)


def _named(value: Tensor) -> funsor.Tensor:
    names = {dim: f"d{-dim}" for dim in range(-value.dim(), 0)}
    return funsor.to_funsor(value, funsor.Real, dim_to_name=names)


def _plain(value: funsor.Tensor, dims: int) -> Tensor:
    tensor: Tensor = funsor.to_data(value, name_to_dim={f"d{d}": -d for d in range(1, dims + 1)})
    return tensor.reshape((1,) * (dims - tensor.dim()) + tuple(tensor.shape))
