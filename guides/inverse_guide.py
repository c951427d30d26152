"""A factored guide derived from the model's own dependencies."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.inspect import TrackProvenance
from pyro.ops.provenance import ProvenanceTensor, detach_provenance, get_provenance
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ppl_models.batch import Batch
from ppl_models.guides.factored import Factored
from ppl_models.guides.factors import (
    Bernoulli,
    Categorical,
    Constrained,
    Factor,
    Normal,
    OneHotCategorical,
)
from ppl_models.guides.inverse_graph import faithful_inverse
from ppl_models.guides.supports import support_of
from ppl_models.networks import Entries, Label, Scalar
from ppl_models.quiet import quiet
from ppl_models.sample_sites import base_of, is_delta, is_local, is_masked, is_of_story

Model = Callable[[Batch], Any]
REDRAWS = 4  # other values that each site takes when dependencies are read


def inverse(
    model: Model,
    batch: Batch,
    hidden: Sequence[int] = (64,),
    activation: str = "softplus",
    mode: Literal["forward", "reverse"] = "forward",
    first: Sequence[Collection[str]] | None = None,
    see_globals: bool = False,
) -> Factored:
    """A guide whose factors are given exactly what the model's structure says they need.

    The model is traced, its dependencies are read off (:func:`dependencies`) and inverted
    faithfully and minimally (:func:`faithful_inverse`; Webb et al. 2018, arXiv 1712.00287).
    Discrete sites become enumerable factors, real ones Normal, others :class:`Constrained`;
    sizes are read off the trace. A site without event dimension keeps none.

    Args:
        model: Model, called with the batch; all its row-wise sites in ``batch.plate()``.
        batch: A batch in which what the data never hold is missing. Sites that it lacks, but
            that ``batch.observed`` counts, are labels that other rows have.
        hidden: Units of each hidden layer of every factor.
        activation: Name of the activation.
        mode: Order of elimination, as in :func:`faithful_inverse`.
        first: Groups of sites to be sampled first. By default the labels, so that one guide
            is faithful with and without them, and then the other discrete sites, so that
            enumerated values stand before the draws that depend on them.
        see_globals: Give factors the sites outside the data plate that they depend on, for
            use in :class:`Mixed`; of a matrix, such as means of components, every entry.
            Otherwise the guide holds globals and rows independent.

    Raises:
        ValueError: Naming the site that no factor fits or that no network can take.
    """
    trace, parents = _read(model, batch)
    local = {name for name, site in trace.items() if is_local(site)}
    for name, site in trace.items():
        if not site["is_observed"] and is_delta(site["fn"]):
            raise ValueError(
                f"site {name!r} is a latent Delta, which no guide can sample; expected "
                "pyro.deterministic"
            )
    latent = [n for n in parents if n in local and not trace[n]["is_observed"]]
    factors = {name: _factor_of(name, trace[name]) for name in latent}
    if first is None:
        labels = [name for name in latent if name in batch.observed]
        discrete = [n for n in latent if factors[n] in _DISCRETE and n not in labels]
        first = [labels, discrete]
    observed = set(parents) - set(latent)
    order = faithful_inverse(parents, observed, mode, first)
    usable = {*batch, *latent}
    if see_globals:
        usable |= {n for n in trace if n not in local and not trace[n]["is_observed"]}
    built = {}
    for name, given in order.items():
        inputs = [site for site in given if site in usable]
        if not inputs:
            raise ValueError(
                f"site {name!r} depends on nothing in the batch ({sorted(batch)}), so there is "
                "nothing to amortise its factor over"
            )
        sizes = {n: _input_size(n, batch, trace.get(n)) for n in inputs}
        size = _size_of(name, trace[name])
        built[name] = _build(factors[name], trace[name], size, sizes, hidden, activation)
    return Factored(**built)


def dependencies(model: Model, batch: Batch) -> dict[str, tuple[str, ...]]:
    """Parents of every site of the model, in its own order.

    Sites that the batch observes count as well, and so do its values that are no site of the
    model (covariates; they have no parents). Read twice: by Pyro's provenance tensors, which
    follow torch's operations, and by putting other draws in for one site at a time, which
    finds what goes through custom functions, in-place assignment, or a Python ``if`` that the
    draws take differently. What is masked counts as what is not, and a point (a Delta) depends on
    what its value is made of. If provenance cannot pass through the model at all, every site
    counts as depending on all before it, which is faithful but not minimal, and a warning
    says so.

    Args:
        model: Model, called with the batch.
        batch: The batch.
    """
    return _read(model, batch)[1]


def _read(model: Model, batch: Batch) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
    with quiet(batch.rows.device, None, model), torch.no_grad():
        trace = _sites(poutine.trace(model).get_trace(batch))
        covariates = [name for name in batch if name not in trace]
        names = [*covariates, *trace]
        before = {n: set(names[: names.index(n)]) if n in trace else set() for n in names}
        try:
            found = _by_provenance(model, batch)
        except Exception as error:
            warnings.warn(
                f"dependencies could not be followed through the model ({error}); every site "
                "is taken to depend on all sites before it",
                stacklevel=3,
            )
            found = before
        else:
            for turn in range(REDRAWS):
                other = _sites(poutine.trace(model).get_trace(batch))
                # What is observed has one other value, which is put in once.
                for name in (name for name in names if not turn or name not in batch):
                    for child in _by_change(model, batch, trace, other, name):
                        found[child].add(name)
    return trace, {
        n: tuple(p for p in names if p in before[n] & found.get(n, set())) for n in names
    }


def _by_provenance(model: Model, batch: Batch) -> dict[str, set[str]]:
    tracked = {n: ProvenanceTensor(v, frozenset({n})) for n, v in batch.items()}
    with TrackProvenance(), _ShapesCarryNothing():
        trace = _sites(poutine.trace(model).get_trace(batch.replace(tracked)))
    return {
        name: {p for part in _densities(site["fn"], site["value"]) for p in get_provenance(part)}
        for name, site in trace.items()
    }


def _densities(fn: Any, value: Tensor) -> tuple[Tensor, ...]:
    """What tells a distribution from another: log densities, masked and not; a point's value."""
    base = base_of(fn)
    if is_delta(base):
        return (base.v,)
    return (fn.log_prob(value), base.log_prob(value)) if is_masked(fn) else (fn.log_prob(value),)


class _ShapesCarryNothing(TorchFunctionMode):
    """``x.new_zeros(...)`` and its like take nothing but dtype and device from x."""

    takers = (
        *(getattr(Tensor, f"new_{kind}") for kind in ("zeros", "ones", "empty", "full", "tensor")),
        *(getattr(torch, f"{kind}_like") for kind in ("zeros", "ones", "empty", "full", "randn")),
        Tensor.new,
    )

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in self.takers:
            args = (detach_provenance(args[0]), *args[1:])
        return func(*args, **(kwargs or {}))


def _by_change(
    model: Model, batch: Batch, trace: Mapping[str, Any], other: Mapping[str, Any], name: str
) -> Iterator[str]:
    """Sites whose density moves if one site takes another value and all others keep theirs."""
    if name in batch:
        moved = {name: batch[name].roll(1, 0)}
        values = {n: s["value"] for n, s in trace.items() if not s["is_observed"]}
        changed = batch.replace({**batch, **moved})
    elif not trace[name]["is_observed"]:
        moved = {name: other[name]["value"]}
        values = {n: s["value"] for n, s in trace.items() if not s["is_observed"]} | moved
        changed = batch
    else:
        return
    again = _sites(poutine.trace(poutine.condition(model, data=values)).get_trace(changed))
    for child, site in trace.items():
        if child == name or child not in again:
            continue
        before = _densities(site["fn"], site["value"])
        after = _densities(again[child]["fn"], site["value"])
        if any(b.shape != a.shape or not b.equal(a) for b, a in zip(before, after, strict=True)):
            yield child


def _sites(trace: poutine.Trace) -> dict[str, Any]:
    return {name: site for name, site in trace.nodes.items() if is_of_story(site)}


# ---- factors --------------------------------------------------------------------------------

_DISCRETE = (Bernoulli, Categorical, OneHotCategorical)


def _factor_of(name: str, site: Any) -> type[Factor]:
    plates = [frame.name for frame in site["cond_indep_stack"] if frame.name != "data"]
    if plates:
        raise ValueError(
            f"site {name!r} stands in plates {plates} within the rows; expected the data plate "
            "alone, with the other dimensions as event dimensions"
        )
    fn, base = site["fn"], base_of(site["fn"])
    if isinstance(base, dist.OneHotCategorical) and fn.event_dim == 1:
        return OneHotCategorical
    if fn.event_dim == 0 and isinstance(base, dist.Categorical):
        return Categorical
    if fn.event_dim == 0 and isinstance(base, dist.Bernoulli):
        return Bernoulli
    if fn.support.is_discrete:
        raise ValueError(
            f"site {name!r} ({type(base).__name__}, event shape {tuple(fn.event_shape)}) has no "
            "enumerable factor; expected a scalar Bernoulli or Categorical, or a one-hot vector"
        )
    return Normal if support_of(name, fn) is None else Constrained


def _build(
    kind: type[Factor],
    site: Any,
    size: int,
    given: dict[str, int],
    hidden: Sequence[int],
    activation: str,
) -> Factor:
    if kind is Bernoulli:
        return Bernoulli(given, hidden, activation)
    if kind is Constrained:
        support = support_of(site["name"], site["fn"])
        assert support is not None
        return Constrained(size, given, support, hidden, activation)
    # The remaining kinds share one signature.
    return kind(size, given, hidden, activation)


def _size_of(name: str, site: Any) -> int:
    fn = site["fn"]
    if isinstance(base_of(fn), dist.Categorical):
        return int(fn.enumerate_support(expand=False).shape[0])
    if fn.event_dim == 0:
        return Scalar()
    if fn.event_dim > 1:
        raise ValueError(
            f"site {name!r} has event shape {tuple(fn.event_shape)}, expected a vector or a number"
        )
    return int(fn.event_shape[0])


def _input_size(name: str, batch: Batch, site: Any) -> int:
    """How a network takes the values of a site, as in ``networks.SumLinear``."""
    value: Tensor = batch[name] if name in batch else site["value"]
    shape = value.shape if site is not None and not is_local(site) else value.shape[1:]
    if site is not None and isinstance(base_of(site["fn"]), dist.Categorical) and not shape:
        return Label(_size_of(name, site))
    if not value.is_floating_point():
        raise ValueError(
            f"site {name!r} holds integers of shape {tuple(value.shape)}, expected labels of a "
            "Categorical site, or floating values"
        )
    if len(shape) > 1 and site is not None and not is_local(site):
        return Entries(shape)
    if len(shape) > 1:
        raise ValueError(
            f"site {name!r} has event shape {tuple(shape)}, expected a vector or a number for "
            "the networks of the guide"
        )
    return int(shape[0]) if shape else Scalar()
