"""Which sample sites of a trace are latent, local, discrete; and what can be done with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from ppl_models.batch import Batch
from ppl_models.sample_sites import base_of, is_local, is_plate


class Program(Protocol):
    """What objectives and training need of a pair: a model and its guide, called with a batch."""

    @property
    def model(self) -> Callable[[Batch], Any]:
        """The generative story."""

    @property
    def guide(self) -> Any:
        """The variational family."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """The parameters of both."""

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """The parameters with their names."""

    def modules(self) -> Iterable[nn.Module]:
        """The modules of both, at any depth."""


class UnhandledSite(ValueError):
    """A latent site that the objective can neither sum out nor differentiate through."""


def random_sites(trace: poutine.Trace) -> Iterator[tuple[str, Any]]:
    """Sample sites of a trace, observed or not, without the plates' own."""
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and not is_plate(site):
            yield name, site


def latent_sites(trace: poutine.Trace) -> Iterator[tuple[str, Any]]:
    """Sample sites of a trace that are not observed."""
    for name, site in random_sites(trace):
        if not site["is_observed"]:
            yield name, site


def points_of(guide: poutine.Trace) -> tuple[str, ...]:
    """Sites of the rows at which a trace of a guide has a point: log q = 0 is no density there."""
    return tuple(
        name
        for name, node in latent_sites(guide)
        if is_local(node) and isinstance(base_of(node["fn"]), dist.Delta)
    )


def is_enumerated(site: Any) -> bool:
    """Whether all values of a site were listed in a dimension of its own."""
    return site["infer"].get("_enumerate_dim") is not None


class Combinations(dist.Independent):
    """A vector of k independent discrete values whose C^k combinations can be listed."""

    has_enumerate_support = True

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All combinations, ``(C^k, batch, k)``; batch dimensions of size 1 unless expanded."""
        values = self.base_dist.enumerate_support(expand=False).reshape(-1)
        (k,) = self.event_shape
        table = torch.cartesian_prod(*[values] * k).reshape(-1, k)
        table = table.reshape(-1, *(1,) * len(self.batch_shape), k)
        return table.expand(-1, *self.batch_shape, k) if expand else table


def enumerable(fn: Any) -> bool:
    """Whether all values of a distribution can be listed in one dimension."""
    # Some versions of Independent say yes for a vector and fail when asked for its values.
    vector = isinstance(fn, dist.Independent) and fn.event_dim
    return fn.has_enumerate_support and (not vector or isinstance(fn, Combinations))


def combinations(fn: Any, cap: int) -> Any:
    """A distribution that lists its values if it is a discrete vector of at most cap of them."""
    if not _discrete_vector(fn):
        return fn
    values = fn.base_dist.enumerate_support(expand=False).shape[0]
    if values ** fn.event_shape[0] > cap:
        return fn
    return Combinations(fn.base_dist, fn.reinterpreted_batch_ndims)


def _discrete_vector(fn: Any) -> bool:
    if not isinstance(fn, dist.Independent) or len(fn.event_shape) != 1:
        return False
    return fn.base_dist.has_enumerate_support and not fn.base_dist.event_shape


def check_differentiable(name: str, site: Any, enumerate_labels: bool, cap: int) -> None:
    """Refuse a site that can be neither summed out nor differentiated through.

    Raises:
        UnhandledSite: Naming the site and what was expected.
    """
    fn = site["fn"]
    if is_enumerated(site) and not is_local(site):
        raise UnhandledSite(
            f"site {name!r} is discrete and stands outside the data plate; this objective sums "
            "labels row by row, expected it inside plate 'data'"
        )
    if is_enumerated(site) or fn.has_rsample:
        return
    if enumerable(fn) and not enumerate_labels:
        raise UnhandledSite(
            f"site {name!r} is discrete ({type(fn).__name__}) and this objective does not sum "
            "it out; use EnumeratedELBO or IWELBO, or observe it"
        )
    if enumerate_labels and _discrete_vector(fn):
        raise UnhandledSite(
            f"site {name!r} ({family(fn)}, {tuple(fn.event_shape)}) is a discrete vector of more "
            f"than {cap} combinations; put its entries in a plate within the rows, where they "
            "are summed one by one, or raise combinations="
        )
    raise UnhandledSite(
        f"site {name!r} ({family(fn)}) can be neither enumerated nor reparameterised, so its "
        "guide would get no correct gradient; expected a finite support of scalars or one-hot "
        "vectors, a reparameterised distribution or a relaxation"
    )


def check_prior(name: str, kl: Tensor, summed: Mapping[str, Any]) -> None:
    """Refuse the KL of a site whose prior depends on a site of the model alone.

    Args:
        name: The site.
        kl: Its KL, or log q - log p, of the batch shape of the site.
        summed: Sites that are enumerated in the model alone, by name.

    Raises:
        UnhandledSite: Naming both sites.
    """
    for other, site in summed.items():
        dim = site["infer"]["_enumerate_dim"]
        if kl.dim() >= -dim and kl.shape[dim] > 1:
            raise UnhandledSite(
                f"the prior of site {name!r} depends on site {other!r}, which is summed out in "
                "the model alone, so that its KL cannot be taken by itself; give the guide a "
                'factor for that site, or use kl="sampled" with beta=1 and no free bits'
            )


def family(fn: Any) -> str:
    """Name of a distribution, looked for inside ``Independent``."""
    return type(base_of(fn)).__name__


def model_only(model: poutine.Trace, sampled: Mapping[str, Any]) -> dict[str, Any]:
    """The sites that are enumerated in the model alone, by name.

    Raises:
        UnhandledSite: Naming a site that only one of model and guide has.
    """
    summed = {}
    for name, site in latent_sites(model):
        if name not in sampled:
            if not is_enumerated(site):
                raise UnhandledSite(
                    f"site {name!r} is latent in the model, but the guide does not sample it; "
                    "give the guide a factor for it, or put its values in the batch"
                )
            summed[name] = site
    for name in sampled:
        if name not in model.nodes:
            raise UnhandledSite(f"the guide samples site {name!r}, which the model lacks")
    return summed


class Untraceable(ValueError):
    """Something that a graph of tensor operations would get wrong."""
